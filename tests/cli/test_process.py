"""What only a process of its own can show: exit codes, streams, pipes that close, `python -m flashir`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FLASHIR = (sys.executable, "-m", "flashir")


def run(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run((*FLASHIR, *args), input=stdin, capture_output=True, timeout=120, check=False)


@pytest.mark.slow
def test_streams_and_exit_codes() -> None:
    good = run("plan", "flash", "--size", "tiny", "--json")
    assert good.returncode == 0 and good.stdout.startswith(b"{") and good.stderr == b""
    bad = run("plan", "flsh", "--json")
    assert bad.returncode == 2 and bad.stdout == b"" and bad.stderr.startswith(b"error: unknown model 'flsh'")


@pytest.mark.slow
def test_text_from_a_pipe() -> None:
    made = run("run", "flash", "--size", "tiny", stdin=b"hello")
    assert made.returncode == 0 and b"[1, 5, 256]" in made.stdout and b"\x1b" not in made.stdout + made.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no such pipes")
@pytest.mark.parametrize(
    "line",
    [
        "new flash --size tiny",
        pytest.param("show flash --size base --stage lowered", marks=pytest.mark.slow),
        "--help",
    ],
)
def test_a_pipe_that_closes_is_silent(line: str) -> None:
    read, write = os.pipe()
    os.close(read)
    made = subprocess.run((*FLASHIR, *line.split()), stdout=write, stderr=subprocess.PIPE, timeout=120, check=False)
    os.close(write)
    assert made.stderr == b"" and made.returncode == 141


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals")
def test_ctrl_c_is_quiet(tmp_path: Path) -> None:
    model = tmp_path / "model.fir"
    os.mkfifo(model)
    line = (*FLASHIR, "show", str(model))
    with subprocess.Popen(line, stderr=subprocess.PIPE) as shown, model.open("wb"):  # once the process reads it too
        shown.send_signal(signal.SIGINT)
        _, errors = shown.communicate(timeout=60)
    assert (shown.returncode, errors) == (130, b"")


def test_help_imports_nothing_slow() -> None:
    slow = "{'numpy', 'networkx', 'lark', 'onnx', 'onnxruntime', 'torch', 'jax'}"
    run_help = "from flashir.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    code = f"import sys; sys.argv = ['flashir', '--help']\n{run_help}print(sorted({slow} & set(sys.modules)))"
    made = subprocess.run((sys.executable, "-c", code), capture_output=True, timeout=60, check=False)
    assert made.stdout.decode().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_an_export_loads_nothing_of_training_nor_of_another_framework(tmp_path: Path) -> None:
    line = ["flashir", "export", "flash", "--size", "tiny", "-o", str(tmp_path / "out"), "--json"]
    run = "from flashir.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    shown = "print(*(name for name in sys.modules if name.startswith('flashir.train.') or name in ('torch', 'jax')))"
    made = subprocess.run((sys.executable, "-c", f"import sys; sys.argv = {line}\n{run}{shown}"), capture_output=True)
    assert made.stdout.decode().splitlines()[-1] == ""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="homes are elsewhere there")
def test_without_a_home_a_run_says_nothing_of_that() -> None:
    """Libraries would warn that they cannot keep what they send to their makers."""
    homeless = {**os.environ, "HOME": "/dev/null/nowhere", "XDG_CACHE_HOME": "/dev/null/nowhere"}
    homeless = {name: value for name, value in homeless.items() if name != "FLASHIR_CACHE"}
    line = (*FLASHIR, "run", "flash", "--size", "tiny", "--json")
    made = subprocess.run(line, input=b"x", capture_output=True, timeout=120, check=False, env=homeless)
    assert (made.returncode, made.stderr) == (0, b"")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="homes are elsewhere there")
@pytest.mark.parametrize("verb", ["bench flash --size tiny --lengths 8 --rounds 1", "calibrate onnx:cpu"])
def test_what_cannot_be_kept_in_the_cache_says_how_to_have_another(verb: str) -> None:
    line, env = (*FLASHIR, *verb.split()), {**os.environ, "FLASHIR_CACHE": "/dev/null/nowhere"}
    made = subprocess.run(line, capture_output=True, timeout=120, check=False, env=env)
    assert made.returncode == 2 and made.stderr.endswith(b"\nset FLASHIR_CACHE to a folder that can be written\n")
