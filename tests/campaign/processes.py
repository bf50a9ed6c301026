"""Start flashir as users do, in a process with chosen limits, signals and streams."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.campaign.tree import kill_tree
from tests.campaign.verdict import WrongError, sign_of

LONGEST = 180.0
"""The most seconds of a process on a busy machine."""
BAD = ("Traceback", "this is a bug in flashir", "Exception ignored", "Fatal Python error", "terminate called")


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    stdout: str
    stderr: str


def start(
    line: Sequence[str],
    folder: Path,
    *,
    env: Mapping[str, str | None] | None = None,
    options: Sequence[str] = (),
    largest_file: int | None = None,
    **streams: Any,
) -> subprocess.Popen[bytes]:
    """Start `python -m flashir` in a folder.

    Args:
        line: the arguments of flashir.
        folder: the working folder, which also has its HOME and cache.
        env: changed environment variables; None removes one.
        options: options of Python.
        largest_file: the largest size of a file in bytes; writing more fails as on a full disk.
        streams: as for `subprocess.Popen`.
    """
    own: dict[str, str | None] = {"FLASHIR_CACHE": str(folder / ".cache"), **(env or {})}
    environment = {name: value for name, value in {**os.environ, **own}.items() if value is not None}

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    words = [sys.executable, *options, "-m", "flashir", *line]
    return subprocess.Popen(words, cwd=folder, env=environment, preexec_fn=limit, start_new_session=True, **streams)


def ended(process: subprocess.Popen[bytes], line: Sequence[str]) -> Ended:
    """Wait for the end. Raises WrongError if the process does not end."""
    try:
        out, err = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        process.communicate()
        raise WrongError(f"{line[0]}: no end", f"after {LONGEST:.0f} s") from None
    return Ended(process.returncode, _text(out), _text(err))


def judge(verb: str, done: Ended, codes: Sequence[int]) -> None:
    """Raise WrongError for another exit code, a traceback, or a message about a bug."""
    said = done.stdout + done.stderr
    for words in BAD:
        if words in said:
            raise WrongError(f"{verb}: {words}: {sign_of(done.stderr)}", said[-1500:])
    if done.code not in codes:
        how = signal.Signals(-done.code).name if done.code < 0 else f"exit code {done.code}"
        raise WrongError(f"{verb}: {how}", said[-1500:])


def wait_for(look: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a condition, the end of the process, or the end of the time."""
    end = time.monotonic() + seconds
    while not look() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)


def clear(path: Path) -> None:
    """Remove a path of any kind."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _text(data: bytes | IO[bytes] | None) -> str:
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else ""
