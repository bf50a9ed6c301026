"""Heads of the zoo that score labels: of each token, or of a row by the mean over its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import SettingError
from flashir.ir import Graph
from flashir.models.parameters import unit
from flashir.reference.cross_entropy import logits_width

IDS = np.random.default_rng(0).integers(0, 31, (3, 37))
MASK = np.arange(37) < np.array([[37], [20], [5]])


def model(head: str, **more: Any) -> Graph:
    usual = {"size": "tiny", "vocab": 31, "chunk": 16, "cumsum": "matmul", "task": "mlm", "labels": 5}
    return flashir.model("flash", **{**usual, "predict": head, **more})


@pytest.mark.parametrize(("head", "shape"), [("class", "[B, 5]"), ("tags", "[B, T, 5]")])
def test_a_head_has_scores_and_parameters_of_its_own(head: str, shape: str) -> None:
    made = model(head)
    assert str(made.outputs[0].type) == f"f32{shape}"
    own = {name: array.shape for name, array in flashir.init(made).items() if name.startswith("head.")}
    assert own == {"head.weight": (64, 5), "head.bias": (5,)}
    assert logits_width(model(head, labels=31)) is None  # they are no tokens, however many there are


@pytest.mark.slow_where(target="jax:cpu")
@pytest.mark.parametrize("target", ["onnx:cpu", "torch:cpu", "jax:cpu"])
@pytest.mark.parametrize("head", ["class", "tags"])
def test_padding_has_no_part_in_a_result(head: str, target: str) -> None:
    made = model(head, mask=True)
    run, wanted = flashir.compile(made, target, unit(made)), flashir.interpret(made, unit(made), IDS, MASK)[0]
    found = run(IDS, mask=MASK)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * abs(wanted).max())
    for row, length in enumerate(MASK.sum(axis=1)):
        alone = run(IDS[row : row + 1, :length], mask=MASK[row : row + 1, :length])[0]
        np.testing.assert_allclose(found[row, :length] if head == "tags" else found[row], alone, rtol=0, atol=1e-5)


def test_a_class_is_that_of_the_mean_over_all_tokens_where_there_is_no_mask() -> None:
    made, masked = model("class"), model("class", mask=True)
    (found,), (wanted,) = (
        flashir.interpret(made, unit(made), IDS),
        flashir.interpret(masked, unit(made), IDS, np.ones_like(MASK)),
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"predict": "class", "segments": "token"}, "segments put several documents in a row"),
        ({"predict": "tokens"}, "labels belong to predict = 'class' or 'tags'"),
        ({"predict": "classes"}, "predict must be one of 'tokens', 'class', 'tags'"),
        ({"predict": "tags", "labels": 0}, "labels must be at least 1"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        model(**{"head": "tags", **settings})
