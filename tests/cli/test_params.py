"""`--params` takes a file, a checkpoint or a run, and with --no-strict more than the model has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flashir
from tests.cli.conftest import Cli

MODEL = flashir.model("flash", size="tiny", chunk=16, cumsum="native")


@pytest.fixture
def fir(tmp_path: Path) -> Path:
    (tmp_path / "m.fir").write_text(flashir.dumps(MODEL))
    return tmp_path / "m.fir"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run, with one checkpoint."""
    (run := tmp_path / "run").mkdir()
    (run / "recipe.toml").write_text("")
    flashir.save_checkpoint(MODEL, flashir.init(MODEL, 5), run / "checkpoints/step-000003")
    return run


def test_a_file_a_checkpoint_and_a_run_are_the_same(cli: Cli, fir: Path, run: Path, text: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints/step-000003"
    for number, params in enumerate((checkpoint / "params.safetensors", checkpoint, run)):
        cli.ok("run", fir, "--text", text, "--params", params, "-o", tmp_path / f"{number}.npy")
    first, *others = (np.load(tmp_path / f"{number}.npy") for number in range(3))
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.slow
def test_more_than_the_model_has_is_refused_or_left_out(cli: Cli, fir: Path, text: Path, tmp_path: Path) -> None:
    more = {f"module.{name}": array for name, array in flashir.init(MODEL, 5).items()}
    more["module.head.bias"] = np.zeros(3, np.float32)
    flashir.save_params(more, tmp_path / "p.safetensors")
    given = (fir, "--params", tmp_path / "p.safetensors")
    told = cli("run", *given, "--text", text)
    assert told.exit_code == 2 and "unexpected parameter head.bias" in told.stderr and "--no-strict" in told.stderr
    told = cli("run", *given, "--text", text, "--no-strict", "--verify")
    assert told.exit_code == 0, told.output
    assert told.stderr.count("'module.' of all 23 parameters was removed") == 1
    assert told.stderr.count("@flash has no parameters head.bias") == 1
    for verb in (("check", "--lengths", "3"), ("export", "-o", tmp_path / "out"), ("generate", "--prompt", "a")):
        told = cli(verb[0], *given, *verb[1:], "--no-strict")
        assert told.exit_code == 0 and told.stderr.count("no parameters head.bias") == 1, told.output
