"""flashir export --decode: what it writes and says, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.generation.generate import restored
from flashir.models.parameters import unit
from flashir.transforms.whole_length import of_length
from tests.cli.conftest import TINY, Cli

ONE, TWO = {"model.onnx", "decoder.onnx"}, {"model.onnx", "prefill.onnx", "step.onnx"}


@pytest.mark.slow
@pytest.mark.parametrize(("option", "files"), [("--decode", ONE), ("--split", TWO)])
def test_the_models_and_their_weights(cli: Cli, tmp_path: Path, option: str, files: set[str]) -> None:
    made = cli.json("export", *TINY, option, "--max-len", 300, "-o", tmp_path / "out")
    written = {Path(file).name: size for file, size in made["files"].items()}
    (data,) = written.keys() - files
    assert written == {file.name: file.stat().st_size for file in (tmp_path / "out").iterdir()}
    assert data.startswith("model-")
    assert any("2 prompts and 4 tokens after each by the decoder" in line for line in made["checks"])
    assert restored(tmp_path / "out").limit == 300
    for verb in (("generate", "--prompt", "x"), ("show",)):
        said = cli.fails(verb[0], tmp_path / "out" / max(files - {"model.onnx"}), *verb[1:])
        assert "this file is part of an exported model" in said
        assert f"give its folder, {tmp_path / 'out'}" in said
    names = {Path(file).name for file in cli.json("export", *TINY, "--force", "-o", tmp_path / "out")["files"]}
    assert names == {"model.onnx"}


def test_a_model_that_divides_by_the_length_is_told_which(cli: Cli, tmp_path: Path) -> None:
    quad = ("export", "flash-quad", "--size", "tiny", "--decode", "--max-len", 64, "-o", tmp_path / "out")
    assert "fix it with --length 512" in cli.fails(*quad)
    assert not (tmp_path / "out").exists()
    cli.ok(*quad, "--length", 64)


def test_what_is_refused(cli: Cli, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    said = cli.fails("export", *TINY, "--max-len", 64, *out)
    assert "--max-len and --length require --decode\ngive --decode too" in said
    assert "max-len 4096" in cli.fails("export", "transformer++", "--size", "tiny", "--decode", *out)
    assert "not causal" in cli.fails("export", *TINY, "--task", "mlm", "--decode", *out)
    said = cli.fails("export", *TINY, "--decode", "--target", "torch:cpu", *out)
    assert said.startswith("error: torch:cpu: the backend 'torch' writes no decoder\nchoose a target of onnx")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "settings"),
    [("flash-quad", {"heads": 2}), ("flash", {}), pytest.param("flash-quad", {}, marks=pytest.mark.slow)],
)
def test_a_decoder_is_compared_on_what_it_divides_by(tmp_path: Path, name: str, settings: dict[str, int]) -> None:
    model = flashir.model(name, d_model=16, depth=1, vocab=61, key_dim=8, **settings)
    model = flashir.plan(model, seq_len=64, chunk=16 if name == "flash" else None).graph
    params, ids = unit(model), np.random.default_rng(0).integers(0, 61, (1, 150))
    whole, begun = (
        flashir.interpret(each, params, some)[0][:, :20]
        for each, some in ((model, ids), (of_length(model, 150), ids[:, :20]))
    )
    assert np.abs(whole - begun).max() < 1e-9 * np.abs(whole).max()
    found = flashir.export(model, tmp_path, params=params, decode=True, max_len=150, length=150)
    prefill = found.compared[-1]
    assert "for sequences of 150" in prefill.what and prefill.error < 1e-4 and len(prefill.lengths) == 2
    _, logits = restored(tmp_path).start(ids[:, :20])
    assert np.abs(logits - whole[:, -1]).max() < 1e-4 * np.abs(whole).max()
