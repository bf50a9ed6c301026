"""flashir check --grad: which gradients are compared, with what, and that a wrong one is found and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.backends.protocols import Gradients, Params
from flashir.ir import Graph
from flashir_torch import TorchBackend
from tests.cli.conftest import TINY, Cli

LAYER = (*TINY, "-s", "depth=1")
SHORT = ("--chunk", 16, "--lengths", "0,17", "--batches", "1,2", "--grad")


@pytest.mark.slow
def test_gradients_on_every_target_that_has_them(cli: Cli) -> None:
    targets = ("--target", "onnx:cpu", "--target", "torch:cpu", "--target", "jax:cpu")
    made = cli.json("check", *LAYER, *SHORT, *targets)
    assert made["ok"] and made["forward_only"] == ["onnx:cpu"]
    rows = [row for row in made["rows"] if row["what"] == "gradients"]
    assert [(row["target"], row["against"], row["batch"], row["length"]) for row in rows] == [
        ("torch:cpu", "interpreter", 2, 0),
        ("torch:cpu", "interpreter", 2, 17),
        ("jax:cpu", "interpreter", 2, 0),
        ("jax:cpu", "torch:cpu", 2, 0),
        ("jax:cpu", "interpreter", 2, 17),
        ("jax:cpu", "torch:cpu", 2, 17),
    ]
    names = flashir.init(flashir.model("flash", size="tiny", depth=1, chunk=16))
    assert all(row["parameter"] in names and row["tolerance"] == 1e-3 for row in rows)
    assert all((row["relative_error"] == 0) == (row["length"] == 0) for row in rows)


@pytest.mark.slow
def test_without_lengths_the_gradients_are_taken_once(cli: Cli) -> None:
    made = cli.json("check", *LAYER, "--chunk", 16, "--target", "torch:cpu", "--grad")
    rows = [row for row in made["rows"] if row["what"] == "gradients"]
    assert [(row["batch"], row["length"]) for row in rows] == [(2, 50)]


@pytest.mark.slow
def test_people_see_the_worst_parameter_and_what_was_left_out(cli: Cli) -> None:
    shown = cli.ok("check", *LAYER, *SHORT, "--target", "torch:cpu", "--target", "onnx:cpu")
    assert "gradients against interpreter" in shown and "ok, worst layers." in shown
    assert "no gradients of onnx:cpu" in shown
    assert "gradients" not in cli.ok("check", *LAYER, "--lengths", 1)


@pytest.mark.parametrize(
    "name", ["layers.0.rel_bias.w", *(pytest.param(x, marks=pytest.mark.slow) for x in ("embed.weight", "pos.scale"))]
)
def test_a_gradient_that_is_off_is_found_and_named(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    whole = TorchBackend.gradients

    def wrong(self: TorchBackend, graph: Graph, params: Params, device: str) -> Gradients:
        call = whole(self, graph, params, device)
        return lambda arrays, weights: {n: 1.02 * g if n == name else g for n, g in call(arrays, weights).items()}

    monkeypatch.setattr(TorchBackend, "gradients", wrong)
    made = cli.json("check", *LAYER, *SHORT, "--target", "torch:cpu", code=1)
    (failed,) = (row for row in made["rows"] if not row["ok"])
    assert (failed["what"], failed["length"], failed["parameter"]) == ("gradients", 17, name)


def test_a_gradient_that_is_missing_or_no_number_is_found(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for made in ({}, {"embed.weight": np.full((256, 64), np.nan, np.float32)}):
        monkeypatch.setattr(TorchBackend, "gradients", lambda *_, made=made: lambda *_: made)
        assert not cli.json("check", *LAYER, *SHORT, "--target", "torch:cpu", code=1)["ok"]


def test_what_a_model_cannot_do_is_a_row(cli: Cli) -> None:
    line = ("transformer", "--size", "tiny", "-s", "max_len=8", "--grad", "--lengths", "9", "--batches", "1")
    made = cli.json("check", *line, "--target", "torch:cpu", code=1)
    assert [(row["what"], "max_len" in row["problem"]) for row in made["rows"]] == [
        ("values", True),
        ("gradients", True),
    ]


@pytest.mark.slow
def test_targets_share_the_chunk_of_the_first(cli: Cli) -> None:
    """One model, or there would be nothing to compare: by itself, each target would have another chunk."""
    line = ("check", *LAYER, "-s", "key_dim=128", "--seq-len", 512, "--batches", 1, "--target", "onnx:cpu")
    alone = cli.json(*line)["rows"]
    both = cli.json(*line, "--target", "jax:cpu")["rows"]
    assert cli.json("plan", *LAYER, "-s", "key_dim=128", "--seq-len", 512, "--target", "jax:cpu")["chunk"] == 128
    lengths = {target: {row["length"] for row in both if row["target"] == target} for target in ("onnx:cpu", "jax:cpu")}
    assert lengths["jax:cpu"] == lengths["onnx:cpu"] == {row["length"] for row in alone} == {1, 63, 64, 65, 194}


def test_gradients_of_what_has_none_are_refused(cli: Cli, artefact: Path, tmp_path: Path) -> None:
    assert "--target torch:cpu" in cli.fails("check", *LAYER, "--grad")
    b = flashir.Builder("least")
    flashir.export(b.finish(b.relu2(b.input("x", "f32[B, 4]"))), tmp_path, target="torch:cpu")
    assert "an export runs forward only" in cli.fails("check", tmp_path, "--grad", "--target", "torch:cpu")
