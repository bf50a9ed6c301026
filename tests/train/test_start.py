"""What a run begins with: token frequencies in the bias of the logits, the rate by width, the start of the paper."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.models.checkpoint import load_checkpoint
from flashir.models.load import accepted
from flashir.reference.cross_entropy import nats
from flashir.train.corpora import corpora
from flashir.train.data import Tokenizer
from flashir.train.recipe import Recipe, recipe_of
from flashir.train.setup import begin, width_of

pytest.importorskip("torch")
TINY = {"size": "tiny", "vocab": 256, "chunk": 16, "cumsum": "scan"}
RECIPE = Recipe(tokens=64, rows=1, seq_len=32, steps=1)


@pytest.fixture
def recipe(text: Path) -> Recipe:
    return replace(RECIPE, data=(str(text),))


def begun(recipe: Recipe, out: Path, **settings: object) -> dict[str, np.ndarray]:
    folder, _ = begin(flashir.model("flash", **TINY, **settings), recipe, Tokenizer.bytes(), out)
    return dict(load_checkpoint(folder.newest()).params)


def test_the_bias_of_the_logits_begins_at_log_frequencies(recipe: Recipe, tmp_path: Path) -> None:
    params = begun(recipe, tmp_path / "run", head_bias=True)
    train = corpora(recipe, Tokenizer.bytes(), lambda *_: None).train
    counts = np.bincount(train.read(0, len(train)), minlength=256)
    assert params["embed.bias"] == pytest.approx(np.log((counts + 1) / (counts.sum() + 256)), abs=1e-4)
    without = begun(replace(recipe, token_frequencies=False), tmp_path / "without", head_bias=True)
    assert not without["embed.bias"].any()


def test_a_model_without_a_bias_has_none_to_begin(recipe: Recipe, tmp_path: Path) -> None:
    assert "embed.bias" not in begun(recipe, tmp_path / "run")


def test_the_recipe_of_the_paper_begins_as_the_paper_does(text: Path, tmp_path: Path) -> None:
    recipe = recipe_of("paper", {"data": (str(text),), "tokens": 64, "rows": 1, "seq_len": 32, "steps": 1})
    params = begun(recipe, tmp_path / "run")
    assert np.std(params["layers.0.proj_in.weight"]) == pytest.approx(0.02, rel=0.1)
    assert (params["final_norm.scale"] == 1).all()


@pytest.mark.parametrize("name", ["flash", "flash-quad", "transformer", "transformer++", "performer"])
@pytest.mark.parametrize("width", [64, 256])
def test_logits_begin_near_a_uniform_guess_at_every_width(name: str, width: int) -> None:
    """By the paper's start, or with a last norm of 1, a token's own logit grows with the width."""
    model = flashir.model(name, d_model=width, depth=1, vocab=64, **accepted(name, {"max_len": 32, "chunk": 8}))
    ids = np.random.default_rng(0).integers(0, 64, (2, 17))
    (logits,) = flashir.interpret(model, flashir.init(model), ids[:, :-1])
    loss, count = nats(logits, ids[:, 1:])
    assert loss / count == pytest.approx(log(64), abs=0.1)


def test_the_width_of_a_model_is_that_of_its_tokens() -> None:
    assert width_of(flashir.model("flash", **{**TINY, "d_model": 40})) == 40
