"""A worker as its parent sees it: started once, asked for one sample at a time, gone when closed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from flashir.bench.case import Case
from flashir.errors import TargetError, option
from flashir.ir import dumps

COMMAND = (sys.executable, "-P", "-m", "flashir.bench.worker")
SHARING = {"OMP_WAIT_POLICY": "PASSIVE", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""So that those who wait their turn take no core, and no more of an accelerator's memory than they need."""
ENDS_IN_S = 5.0
LAST_WORDS = 2000  # bytes of standard error that are looked at
LEAST_LIMIT_S = 600.0
"""To wait for an answer at least: to compile a large case takes minutes."""
PREDICTED_TIMES = 100
"""So many times as long as predicted is waited, where that is more: the first answer takes several runs."""

Answer = dict[str, Any]


class Worker(Protocol):
    """Runs one case in a process of its own. Whatever goes wrong in there is a TargetError here."""

    def ready(self) -> Answer:
        """Wait until it is compiled and warm; `baseline_bytes`."""
        ...

    def sample(self) -> Answer:
        """Time it once; `ms`, `peak_bytes`."""
        ...

    def close(self) -> None:
        """End it at once; a second time is no error."""
        ...


class Process:
    """A worker on this machine.

    Interrupts from the terminal do not reach it, its parent ends it; and it ends by itself when its parent is gone.

    Args:
        case: what it runs.
        limit: seconds that it has for an answer; without, far more than predicted.
        command: what is run in its place.
    """

    def __init__(self, case: Case, limit: float | None = None, command: Sequence[str] | None = None) -> None:
        row = case.row
        usual = max(LEAST_LIMIT_S, PREDICTED_TIMES * (row.predicted_ms or 0.0) / 1e3)
        self.limit = min(usual if limit is None else limit, threading.TIMEOUT_MAX)
        self._late = False
        work = {"target": row.target, "batch": row.batch, "seq_len": row.seq_len, "training": row.training}
        self._task = json.dumps({"model": dumps(case.graph), **work})
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**SHARING, **os.environ, "PYTHONPATH": paths}
        self._process = subprocess.Popen(
            command or COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    def ready(self) -> Answer:
        """Give it its task. See Worker."""
        return self._ask(self._task)

    def sample(self) -> Answer:
        """One line for one sample. See Worker."""
        return self._ask("")

    def close(self) -> None:
        """Kill it: it has nothing to save. See Worker."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):  # what was left to write to it
                if stream is not None:
                    stream.close()

    def _ask(self, line: str) -> Answer:
        watch = threading.Timer(self.limit, self._expire)
        watch.daemon = True
        watch.start()
        try:
            answer = self._exchange(line)
        finally:
            watch.cancel()
        try:
            found: Answer = json.loads(answer)
        except ValueError:
            raise TargetError(self._how_it_ended()) from None
        if "problem" in found:
            raise TargetError(str(found["problem"]))
        return found

    def _exchange(self, line: str) -> bytes:
        """The line it answers; nothing where it has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # where it has ended, there is nothing to read either
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        return self._process.stdout.readline()

    def _expire(self) -> None:
        """It is waited for no longer: its output ends with it, and so does whoever reads that."""
        self._late = True
        self._process.kill()

    def _how_it_ended(self) -> str:
        if self._late:
            return f"no answer within {self.limit:g} s; {option('limit', '')} sets how long one may take"
        try:
            code = self._process.wait(ENDS_IN_S)
        except subprocess.TimeoutExpired:
            return "its process closed its output"
        if code < 0:
            name = next((each.name for each in signal.Signals if each == -code), f"signal {-code}")
            hint = ", as happens where memory runs out" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - LAST_WORDS))
        words = self._errors.read().decode(errors="replace").split("\n")
        last = next((word.strip() for word in reversed(words) if word.strip()), "")
        return f"its process ended with code {code}{f': {last}' if last else ''}"
