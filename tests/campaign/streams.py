"""Command lines with closed, full or interrupted streams, and in unusual environments."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.campaign.case import Case
from tests.campaign.processes import Ended, ended, judge, start
from tests.campaign.props import make
from tests.campaign.verdict import WrongError

LINES = (
    "plan flash --size tiny --seq-len 256",
    "plan flash --size tiny --seq-len 256 --json",
    "plan nosuch",
    "show m.fir",
    "show m.fir --stage primitives --types",
    "show m.fir --html page.html",
    "targets",
    "targets onnx:cpu --json",
    "new flash --size tiny",
    "new flash --size tiny -o made.fir",
    "export m.fir -o made",
    "export m.fir -o made --json",
    "run art --ids ids.npy",
    "run art",
    "run m.fir --text text.txt --json",
    "generate art --prompt It --tokens 8",
    "generate art --tokens 8",
    "eval saved --data text.txt",
    "check m.fir --lengths 5 --batches 1",
    "train m.fir --recipe recipe.toml -o trained",
    "tune flash --size tiny --seq-len 64 --budget 0.5",
    "bench flash --size tiny --lengths 8 --rounds 1 -o results",
    "doctor",
    "--help",
    "train --help",
    "--version",
)
ENVIRONMENTS: tuple[Mapping[str, str | None], ...] = (
    {},
    {},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"COLUMNS": "20"},
    {"COLUMNS": "1"},
    {"COLUMNS": "x"},
    {"COLUMNS": "0"},
    {"TERM": "dumb"},
    {"TERM": None, "NO_COLOR": "1"},
    {"FORCE_COLOR": "1"},
    {"HOME": None, "FLASHIR_CACHE": None, "XDG_CACHE_HOME": None},
    {"HOME": "/nonexistent/home", "FLASHIR_CACHE": None},
    {"HOME": "", "FLASHIR_CACHE": None},
    {"FLASHIR_CACHE": "/dev/null"},
    {"FLASHIR_CACHE": "/dev/null/below"},
    {"FLASHIR_CACHE": "/proc/nosuch"},
    {"PYTHONOPTIMIZE": "2"},
    {"PYTHONWARNINGS": "error"},
    {"TZ": "Nowhere/City"},
    {"OMP_NUM_THREADS": "x"},
)
STDIN = ("null", "null", "closed", "text", "bytes")
STDOUT = ("pipe", "pipe", "pipe", "closed", "full", "cut", "terminal")
STDERR = ("pipe", "pipe", "pipe", "pipe", "closed", "full", "out")


def case(case: Case) -> str:
    """A command line with streams and an environment."""
    random = case.random
    props = case.once("props", make)
    shutil.copytree(props, case.folder, symlinks=True, dirs_exist_ok=True)
    line = random.choice(LINES).split()
    env = random.choice(ENVIRONMENTS)
    streams = random.choice(STDIN), random.choice(STDOUT), random.choice(STDERR)
    if random.random() < 0.4:
        streams = ("null", *streams[1:]) if random.random() < 0.5 else (streams[0], "pipe", "pipe")
    case.note("line", f"{' '.join(line)}, {dict(env)}, stdin {streams[0]}, stdout {streams[1]}, stderr {streams[2]}")
    done = run(line, case.folder, env, *streams)
    odd = [f"{n}> {how}" for n, how in zip((1, 2), streams[1:]) if how != "pipe"] or list(env)
    sign = " ".join([line[0], *odd])
    judge(sign, done, codes_of(line, streams[1]))
    if done.code == 2 and streams[2] == "pipe" and not done.stderr.strip():
        raise WrongError(f"{sign}: exit code 2 without a word")
    return f"{done.code}"


def codes_of(line: list[str], stdout: str) -> tuple[int, ...]:
    """The allowed exit codes: success, refusal, a broken pipe, and findings of `doctor` and `check`."""
    codes = [0, 2]
    if line[0] in ("doctor", "check"):
        codes.append(1)
    if stdout == "cut":
        codes.append(141)
    return tuple(codes)


def run(line: list[str], folder: Path, env: Mapping[str, str | None], stdin: str, stdout: str, stderr: str) -> Ended:
    """Run the command line with these streams."""
    streams: dict[str, Any] = {}
    closed = [number for number, how in enumerate((stdin, stdout, stderr)) if how == "closed"]
    if stdin in ("text", "bytes"):
        (folder / ".stdin").write_bytes(b"It is a truth\n" if stdin == "text" else bytes(range(256)))
        streams["stdin"] = (folder / ".stdin").open("rb")
    if stdout == "full":
        streams["stdout"] = os.open("/dev/full", os.O_WRONLY)
    if stderr == "full":
        streams["stderr"] = os.open("/dev/full", os.O_WRONLY)
    elif stderr == "out":
        streams["stderr"] = subprocess.STDOUT
    if stdout == "terminal":
        return _on_a_terminal(line, folder, env, streams)
    if closed:
        return _without(closed, line, folder, env, streams)
    process = start(line, folder, env=env, **streams)
    if stdout == "cut" and process.stdout is not None:
        process.stdout.read(1)
        process.stdout.close()
        process.stdout = None
    return ended(process, line)


def _without(
    closed: list[int], line: list[str], folder: Path, env: Mapping[str, str | None], streams: dict[str, Any]
) -> Ended:
    """Run with closed streams, through a shell."""
    import shlex
    import sys

    words = shlex.join([sys.executable, "-m", "flashir", *line])
    shut = " ".join("<&-" if number == 0 else f"{number}>&-" for number in closed)
    own = {"FLASHIR_CACHE": str(folder / ".cache"), **env}
    environment = {name: value for name, value in {**os.environ, **own}.items() if value is not None}
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    process = subprocess.Popen(
        ["sh", "-c", f"exec {words} {shut}"], cwd=folder, env=environment, start_new_session=True, **streams
    )
    return ended(process, line)


def _on_a_terminal(line: list[str], folder: Path, env: Mapping[str, str | None], streams: dict[str, Any]) -> Ended:
    """Run on a terminal of 20 columns."""
    import fcntl
    import struct
    import termios

    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    seen: list[bytes] = []

    def read() -> None:
        with suppress(OSError):
            while data := os.read(master, 4096):
                seen.append(data)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        process = start(line, folder, env=env, **{**streams, "stdout": slave})
        done = ended(process, line)
    finally:
        os.close(slave)
        thread.join(5)
        os.close(master)
    return Ended(done.code, b"".join(seen).decode("utf-8", "replace"), done.stderr)
