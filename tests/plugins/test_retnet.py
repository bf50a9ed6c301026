"""RetNet, one file of a plug-in, `retnet.py` beside this: planned, tuned, exported, trained, continued as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import flashir
from flashir.backends.decoding import decoding, extending
from flashir.ir import Graph
from flashir.ir.examples import sample_graph
from flashir.models.parameters import unit
from flashir.ops import OPS, opdef
from flashir.transforms.lower import Lower
from tests.cli.conftest import Cli
from tests.decode.support import decoded, extended, interpreted, worst
from tests.plugins.support import Install, install
from tests.support import assert_same_function, cost_of

__all__ = ["install"]

FILE = Path(__file__).parent / "retnet.py"
MODEL = """
model @retnet(%ids: i32[B, T]) -> f32[B, T, 256] {
  %x = embed(%ids) {vocab = 256, dim = 16}
  %y = repeat(%x) {times = 2} (%h) {
    %a = msr(%h) {heads = 2}
    %b = glu(%a)
    yield %b
  }
  %n = layer_norm(%y)
  %l = unembed(%n) {tied = true}
  return %l
}
"""
TARGETS = ("onnx:cpu", "torch:cpu", "jax:cpu")
LENGTHS = (1, 63, 64, 65, 1000)


@pytest.fixture(autouse=True)
def _installed(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "cache"))
    install("retnet", FILE.read_text())


@pytest.fixture
def fir(tmp_path: Path) -> Path:
    path = tmp_path / "retnet.fir"
    path.write_text(MODEL)
    return path


@pytest.fixture
def cli() -> Cli:
    return Cli()


def settled(tile: int = 16, cumsum: str = "scan") -> Graph:
    return flashir.plan(flashir.loads(MODEL), tile=tile, cumsum=cumsum, measured=False).graph


def samples() -> Iterator[Graph]:
    record = opdef("msr")
    yield from (sample_graph(record, case) for case in record.samples)


def test_the_block_is_its_reference_and_costs_what_it_is_made_of() -> None:
    assert "msr" not in OPS
    for graph in samples():
        parts = Lower().apply(graph)
        assert_same_function(graph, parts)
        assert cost_of(graph).matrix_flops <= cost_of(parts).matrix_flops <= 2 * cost_of(graph).matrix_flops


@pytest.mark.parametrize("target", TARGETS)
def test_candidates_are_the_tiles_and_the_sums_that_a_decay_can_have(target: str) -> None:
    found = flashir.plan(flashir.loads(MODEL), target=target, seq_len=1024, measured=False)
    settings = {(each.settings["tile"], each.settings["cumsum"]) for each in found.candidates}
    assert settings == {(tile, kind) for tile in (16, 32, 64, 128, 256) for kind in ("scan", "matmul")}
    assert len(found.candidates) == len(settings)
    assert found.settings in [each.settings for each in found.candidates]


@pytest.mark.slow_where(target="jax:cpu")
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("tile", "cumsum"), [(16, "scan"), (64, "matmul")])
def test_values_are_those_of_the_reference(target: str, tile: int, cumsum: str) -> None:
    graph = settled(tile, cumsum)
    params = unit(graph)
    run = flashir.compile(graph, target=target, params=params)
    for ids in (_ids(1, 2), _ids(65, 2)):
        (wanted,) = flashir.interpret(graph, params, ids)
        assert _off(run(ids), wanted) < 1e-4


@pytest.mark.slow
def test_gradients_are_those_of_the_reference(cli: Cli, fir: Path) -> None:
    targets = [word for name in TARGETS for word in ("--target", name)]
    made = cli.json("check", fir, *targets, "--lengths", "65", "--batches", "2", "--grad")
    rows = [row for row in made["rows"] if row["what"] == "gradients"]
    assert made["ok"] and {row["target"] for row in rows} == {"torch:cpu", "jax:cpu"}
    assert max(row["relative_error"] for row in rows) < 1e-4


def test_an_export_runs_at_every_length(tmp_path: Path) -> None:
    graph = settled(16, "scan")
    params = unit(graph)
    flashir.export(graph, tmp_path / "out", params=params)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    for length in LENGTHS:
        ids = _ids(length)
        (wanted,) = flashir.interpret(graph, params, ids)
        (got,) = session.run(None, {"input_ids": ids.astype(np.int64)})
        assert _off(got, wanted) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("target", ["torch:cpu", "jax:cpu"])
def test_an_export_of_another_backend_is_read_back(target: str, tmp_path: Path, cli: Cli, fir: Path) -> None:
    made = cli.json("export", fir, "--target", target, "--seq-len", 64, "-o", tmp_path / "out")
    assert made["target"] == target
    assert cli.json("check", tmp_path / "out", "--target", target, "--lengths", "1,65")["ok"]


def test_a_decoder_goes_on_as_the_whole_text_would() -> None:
    """Rows of several lengths, one token a step, or any number: a state a head, and nothing else."""
    graph = settled(16, "matmul")
    params, ids = unit(graph), _ids(22, 3)
    (wanted,) = flashir.interpret(graph, params, ids)
    split, made = decoding(graph), extending(graph)
    assert (
        [state.type.shape[1:] for state in split.state]
        == [(), (2, 8, 8), (2, 8, 8)]
        == [(), *(s.type.shape[1:] for s in made.state)]
    )
    prefill, step, extend = (interpreted(each, params) for each in (*split.graphs, made.extend))
    assert worst(wanted, decoded(prefill, step, ids, (5, 1, 17))) < 1e-9
    assert worst(wanted, extended(extend, ids, 0, 6)) < 1e-9


def test_a_decoder_of_onnx_chooses_the_tokens_that_the_model_would() -> None:
    graph = settled()
    params, text = unit(graph), _ids(9)[0].tolist()
    decoder = flashir.decoder(graph, params=params)
    for (token,) in flashir.generate(decoder, [text], tokens=6, sampling=flashir.Sampling(0.0)):
        (logits,) = flashir.interpret(graph, params, np.array([text]))
        assert token == logits[0, -1].argmax()
        text.append(int(token))


@pytest.mark.slow
def test_it_is_tuned(cli: Cli, fir: Path) -> None:
    made = cli.json("tune", fir, "--seq-len", 64, "--budget", 5)
    assert any(each.get("measured_ms", 0) > 0 for each in made["candidates"])
    assert {each["cumsum"] for each in made["candidates"]} == {"scan", "matmul"}


@pytest.mark.slow
def test_it_is_trained_and_generates(cli: Cli, fir: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("It is a truth universally acknowledged. " * 50)
    short = ("--steps", 6, "--tokens", 128, "--rows", 2, "--seq-len", 64)
    made: Any = cli.json("train", fir, "--data", tmp_path / "text.txt", *short, "-o", tmp_path / "run")
    assert made["complete"] and made["loss"] < 6
    shown = cli.json("generate", tmp_path / "run", "--prompt", "It is", "--tokens", 5, "--temperature", 0)
    assert len(str(shown)) > 0
    assert cli.json("export", tmp_path / "run", "-o", tmp_path / "out", "--decode")["target"] == "onnx:cpu"


def _ids(length: int, batch: int = 1) -> Any:
    return np.random.default_rng(length).integers(0, 256, (batch, length))


def _off(got: Any, wanted: Any) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())
