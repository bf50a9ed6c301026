"""A short command line for every verb, and any of them run in this process on streams of its own."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import typer
from typer.testing import CliRunner

from flashir.cli import main
from flashir.cli.app import app
from flashir.machine import calibrate
from flashir.machine.microbenchmarks import PROCESSOR

MODEL = ("flash", "--size", "tiny", "-s", "depth=1", "-s", "vocab=256", "--chunk", "8", "--cumsum", "matmul")
ROWS = ("--tokens", "32", "--seq-len", "16")
TEXT = b"The quick brown fox jumps over the lazy dog, and what it does then nobody knows. " * 9
QUICK = ("new", "ops", "plan", "generate", "help", "version")
SLOW = (
    *(
        "show",
        "export",
        "import",
        "run",
        "targets",
        "tune",
        "train",
        "eval",
        "compare",
        "check",
        "bench",
        "calibrate",
        "doctor",
    ),
    "published",
)
"""Verbs that load frameworks, measure or learn, and so take seconds; what they print goes the same ways."""


@dataclass
class Lines:
    """Command lines by verb, with what they need in a folder.

    Args:
        folder: has the text `text.txt` and the export `out/` once `prepare` was called; results go to new places in it.
    """

    folder: Path
    count: int = 0

    def prepare(self) -> None:
        (self.folder / "text.txt").write_bytes(TEXT)
        (self.folder / "valid.txt").write_bytes(TEXT[::-1])
        made = CliRunner().invoke(app, ["export", *MODEL, "-o", str(self.folder / "out")])
        assert made.exit_code == 0, made.output

    def line(self, verb: str) -> list[str]:
        """The words of a command line."""
        self.count += 1
        new, text, out = (str(self.folder / name) for name in (f"new{self.count}", "text.txt", "out"))
        return {
            "new": ["new", *MODEL],
            "show": ["show", *MODEL],
            "ops": ["ops", "rope"],
            "plan": ["plan", *MODEL[:-4], "--seq-len", "64"],
            "export": ["export", *MODEL, "-o", new],
            "import": ["import", out, "-o", new],
            "run": ["run", out, "--text", text],
            "generate": ["generate", out, "--prompt", "x", "--tokens", "4"],
            "targets": ["targets"],
            "help": ["--help"],
            "version": ["--version"],
            "tune": ["tune", *MODEL[:-4], "--seq-len", "32", "--budget", "1"],
            "train": ["train", *MODEL, "--data", text, "--valid", text, "--steps", "1", *ROWS, "-o", new],
            "eval": ["eval", out, "--data", text, "--seq-len", "64"],
            "compare": ["compare", "--task", "bag", "--system", "flash", "-s", "depth=1", "--steps", "1", "-o", new],
            "check": ["check", out, "--seed", "0", "--lengths", "1,9"],
            "bench": ["bench", *MODEL[:-4], "--chunks", "8", "--lengths", "16", "--rounds", "1", "-o", new],
            "calibrate": ["calibrate", "onnx:cpu"],
            "doctor": ["doctor"],
            "published": ["bench", "--published", "lm"],
        }[verb]


@dataclass
class Ran:
    """How a command line ended."""

    code: Any
    out: str = ""
    err: str = ""


@dataclass
class Streams:
    """Standard streams of a command line, and its environment.

    Args:
        encoding, errors: how the output is decoded.
        stdin: what is piped in; None where it is closed.
        stdout, stderr: other streams than those that are collected; None where one is closed.
        env: what the environment has instead; None where it has nothing.
    """

    encoding: str = "utf-8"
    stdin: bytes | None = b""
    env: Mapping[str, str | None] = field(default_factory=dict)

    def run(self, line: list[str], **streams: TextIO | None) -> Ran:
        """Run a command line. `stdout` and `stderr` replace those that are collected."""
        out, err = io.BytesIO(), io.BytesIO()
        collected: dict[str, TextIO | None] = {
            "stdin": None if self.stdin is None else io.TextIOWrapper(io.BytesIO(self.stdin), self.encoding),
            "stdout": io.TextIOWrapper(out, self.encoding, errors="strict", newline="\n"),
            "stderr": io.TextIOWrapper(err, self.encoding, errors="strict", newline="\n", line_buffering=True),
        }
        with self._environment(), replaced({**collected, **streams}):
            try:
                typer.main.get_command(app).main(line)
                code: Any = "returned"
            except SystemExit as ended:
                code = ended.code
        for stream in filter(None, collected.values()):
            stream.flush()
        for stream in filter(None, streams.values()):
            stream.close()  # without an error: what could not be written was let go of
        return Ran(code, out.getvalue().decode(self.encoding), err.getvalue().decode(self.encoding))

    @contextmanager
    def _environment(self) -> Iterator[None]:
        before = dict(os.environ)
        for name, value in self.env.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def replaced(streams: Mapping[str, TextIO | None]) -> Iterator[None]:
    before = {name: getattr(sys, name) for name in streams}
    for name, stream in streams.items():
        setattr(sys, name, stream)
    try:
        yield
    finally:
        for name, stream in before.items():
            setattr(sys, name, stream)


def calibrate_at_once(replace: Callable[[Any, str, Any], None]) -> None:
    """Let `calibrate` take made-up timings, which it accepts however busy the machine is."""
    timings = tuple(calibrate.Timing(kernel.name, kernel.tells, 1.0, 0.0) for kernel in PROCESSOR)
    for name, value in {"_timings": lambda *_: timings, "NEEDED": (), "SWEEPS": 1}.items():
        replace(calibrate, name, value)


if __name__ == "__main__":
    calibrate_at_once(setattr)
    main()
