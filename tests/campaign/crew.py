"""A worker seen from its parent: it takes cases and returns replies. One that hangs, dies or grows is ended."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.campaign.kinds import Kind
from tests.campaign.tree import kill_tree, usage_of
from tests.campaign.verdict import LONGEST, ROOT, Reply, sign_of

LOOK = 0.25
"""Seconds between two checks of a worker."""
PATIENCE = 6
"""The wall-clock limit of a case, as a multiple of its processor time limit."""
LIGHT = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


class AbandonedError(Exception):
    """The time of the campaign ended before the case did."""


class Worker:
    """A process that runs cases of one kind, with its own home, cache and temporary files."""

    def __init__(self, kind: Kind, seed: int, *, shared: Path | None = None, talk: bool = False) -> None:
        """Start the process. Its cases keep files that are slow to make in `shared`, also for later workers."""
        self.kind = kind
        self.scratch = Path(tempfile.mkdtemp(prefix=f"flashir-{kind.name}-"))
        self._log: IO[bytes] = (self.scratch / "log").open("w+b")
        read, write = os.pipe()
        words = (kind.name, str(seed), str(self.scratch), str(shared or self.scratch / "shared"), str(write))
        self.process = subprocess.Popen(
            (sys.executable, "-m", "tests.campaign.worker", *words),
            stdin=subprocess.PIPE,
            stdout=None if talk else self._log,
            stderr=None if talk else self._log,
            pass_fds=(write,),
            env=_environment(self.scratch, talk),
            cwd=ROOT,
            start_new_session=True,
        )
        os.close(write)
        self._replies = os.fdopen(read, "rb")
        self._broken = False

    @property
    def alive(self) -> bool:
        """Whether the worker can run another case."""
        return not self._broken and self.process.poll() is None

    def run(self, number: int, abandon: Callable[[], bool] = lambda: False) -> Reply:
        """Run a case. A worker that hangs, dies or grows is a finding, and is ended.

        Raises:
            AbandonedError: `abandon`, which is called repeatedly, returned True.
        """
        started, before = time.monotonic(), usage_of(self.process.pid).seconds
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(b"%d\n" % number)
            self.process.stdin.flush()
        while True:
            if select.select([self._replies], [], [], LOOK)[0]:
                line = self._replies.readline()
                if line.endswith(b"\n"):
                    return Reply(**json.loads(line))
                return self._died(started)
            if abandon():
                self._end()
                raise AbandonedError
            used, clock = usage_of(self.process.pid), time.monotonic() - started
            if used.memory > self.kind.memory:
                what = f"{used.memory / 2**30:.1f} GiB after {clock:.0f} s"
                return self._ended(started, "holds too much memory", what)
            if used.seconds - before > self.kind.seconds or clock > PATIENCE * self.kind.seconds:
                what = f"{used.seconds - before:.0f} s of the processor, {clock:.0f} s by the clock, and not done"
                return self._ended(started, "hangs", what)

    def close(self) -> None:
        """End the process and remove its folder."""
        self._end()
        self._log.close()
        self._replies.close()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _ended(self, started: float, sign: str, what: str) -> Reply:
        """End the process after asking for its position."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGUSR1)
        time.sleep(1.0)
        trace = self._logged()
        self._end()
        return Reply("found", f"{sign} in {_where(trace)}", what, trace, seconds=time.monotonic() - started)

    def _died(self, started: float) -> Reply:
        code = self.process.wait()
        trace = self._logged()
        self._end()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        sign = f"dies of {how} in {_where(trace)}"
        return Reply("found", sign, sign_of(trace), trace, seconds=time.monotonic() - started)

    def _logged(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - LONGEST))
        return self._log.read().decode("utf-8", "replace")

    def _end(self) -> None:
        self._broken = True
        kill_tree(self.process.pid)
        self.process.wait()
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()


def _where(trace: str) -> str:
    """The innermost line of flashir in the last output of faulthandler."""
    ours = [line for line in trace.rpartition("most recent call first")[2].splitlines() if str(ROOT) in line]
    ours = [line for line in ours if f"{ROOT}/tests" not in line]
    if not ours:
        return "an unknown place"
    path, _, rest = ours[0].strip().removeprefix("File ").partition(", line")
    return f"{path.strip(chr(34)).removeprefix(f'{ROOT}/')}, {rest.rpartition(' in ')[2]}"


def _environment(scratch: Path, talk: bool) -> dict[str, str]:
    """The environment: one thread, light compilation, and its own home."""
    folders = {"HOME": "home", "FLASHIR_CACHE": "cache", "TMPDIR": "tmp"}
    for name in folders.values():
        (scratch / name).mkdir()
    own = {name: str(scratch / folder) for name, folder in folders.items()}
    paths = (ROOT, ROOT / "backends", ROOT / "frontends", os.environ.get("PYTHONPATH", ""))
    dropped = ("FLASHIR_DEBUG", "COLUMNS", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {
        **kept,
        **own,
        "PYTHONPATH": os.pathsep.join(str(path) for path in paths if str(path)),
        "OMP_NUM_THREADS": "1",
        "XLA_FLAGS": LIGHT,
        "JAX_PLATFORMS": "cpu",
        **({"CAMPAIGN_TALK": "1"} if talk else {}),
    }
