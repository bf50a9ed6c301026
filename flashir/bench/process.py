"""The parent's side of a worker process: start it, request samples one by one, close it."""

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
"""Environment so that idle workers use no core, and only as much accelerator memory as they need."""
ENDS_IN_S = 5.0
LAST_WORDS = 2000  # at most so many bytes of standard error are read
LEAST_LIMIT_S = 600.0
"""The shortest timeout of an answer: compiling a large case takes minutes."""
PREDICTED_TIMES = 100
"""The timeout as a multiple of the predicted time, if that is longer: the first answer takes several runs."""

Answer = dict[str, Any]


class Worker(Protocol):
    """Runs one case in a separate process. Its failures are raised as TargetError."""

    def ready(self) -> Answer:
        """Wait until it is compiled and warm. Returns `baseline_bytes`."""
        ...

    def sample(self) -> Answer:
        """Time it once. Returns `ms` and `peak_bytes`."""
        ...

    def close(self) -> None:
        """End it at once. Closing twice is allowed."""
        ...


class Process:
    """A worker process on this machine.

    Interrupts from the terminal do not reach it. Its parent ends it, and it ends by itself when the parent is gone.

    Args:
        case: the case to run.
        limit: the timeout of an answer in seconds; None for a multiple of the predicted time.
        command: a command to run in place of the worker.
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
        """The process id."""
        return self._process.pid

    def ready(self) -> Answer:
        """Send the task. See Worker."""
        return self._ask(self._task)

    def sample(self) -> Answer:
        """Request one sample. See Worker."""
        return self._ask("")

    def close(self) -> None:
        """Kill it; it has nothing to save. See Worker."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with suppress(OSError):  # unwritten data
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
            parsed: Answer = json.loads(answer)
        except ValueError:
            raise TargetError(self._how_it_ended()) from None
        if "problem" in parsed:
            raise TargetError(str(parsed["problem"]))
        return parsed

    def _exchange(self, line: str) -> bytes:
        """Send a line and return the answer; empty if the process has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # if it has ended, readline returns nothing
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        return self._process.stdout.readline()

    def _expire(self) -> None:
        """Kill the process at the timeout, which also ends the read of its output."""
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
            name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
            hint = ", possibly because memory ran out" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - LAST_WORDS))
        lines = self._errors.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"its process ended with code {code}{f': {last}' if last else ''}"
