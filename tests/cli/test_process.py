"""What only a process of its own can show: exit codes, streams, pipes that close, `python -m flashir`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FLASHIR = (sys.executable, "-m", "flashir")


def run(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run((*FLASHIR, *args), input=stdin, capture_output=True, timeout=120, check=False)


def test_streams_and_exit_codes() -> None:
    good = run("plan", "flash", "--size", "tiny", "--json")
    assert good.returncode == 0 and good.stdout.startswith(b"{") and good.stderr == b""
    bad = run("plan", "flsh", "--json")
    assert bad.returncode == 2 and bad.stdout == b"" and bad.stderr.startswith(b"error: unknown model 'flsh'")


def test_text_from_a_pipe() -> None:
    made = run("run", "flash", "--size", "tiny", stdin=b"hello")
    assert made.returncode == 0 and b"[1, 5, 256]" in made.stdout and b"\x1b" not in made.stdout + made.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
@pytest.mark.parametrize("line", ["plan flash --size tiny", "show flash --size base --stage lowered", "--help"])
def test_a_pipe_that_closes_is_silent(line: str) -> None:
    read, write = os.pipe()
    os.close(read)
    made = subprocess.run((*FLASHIR, *line.split()), stdout=write, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(write)
    assert made.stderr == b"" and made.returncode == 141


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    with subprocess.Popen(
        (*FLASHIR, "run", "flash", "--size", "tiny"), stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as made:
        time.sleep(1.5)  # it waits for text by now; were it not, an interrupt while Python starts is no quieter
        made.send_signal(signal.SIGINT)
        _, errors = made.communicate(timeout=60)
    assert (made.returncode, errors) == (130, b"")


def test_help_imports_nothing_slow() -> None:
    slow = "{'numpy', 'networkx', 'lark', 'onnx', 'onnxruntime', 'torch', 'jax'}"
    run_help = "from flashir.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code = f"import sys; sys.argv = ['flashir', '--help']\n{run_help}print(sorted({slow} & set(sys.modules)))"
    made = subprocess.run((sys.executable, "-c", code), capture_output=True, timeout=60, check=False)
    assert made.stdout.decode().splitlines()[-1] == "[]"
