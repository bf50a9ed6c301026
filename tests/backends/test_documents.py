"""Padding is seen by nothing, and documents in a row do not see each other: every system, both tasks, every backend.

pytest -m "" tests/backends/test_documents.py -rP       # all of them, with the figures
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import flashir
from flashir.errors import InputError
from flashir.execution.compile import Runnable
from flashir.execution.gradients import gradients
from flashir.ir import Graph
from flashir.models.parameters import unit
from flashir.ops.attention.chunk_choices import strategies
from flashir.reference.compare import relative_error
from flashir.testing import CHUNK, OWN, SMALL
from flashir_zoo.systems import SYSTEMS
from tests.cover import GRID

Array = npt.NDArray[Any]

TARGETS = ("onnx:cpu", "torch:cpu", "jax:cpu")
TASKS = ("lm", "mlm")
NAMES = tuple(name for name in OWN if SYSTEMS[name].apart)
TOLERANCE = 1e-5
LENGTHS = (1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 2)
ROW = 3 * CHUNK + 2
DOCUMENTS = (5, CHUNK - 5, CHUNK + 3, 2, 1, ROW - 2 * CHUNK - 6)
"""Of one row: two in the first chunk, one over a border, two within a chunk, one to the end."""

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("flash", {"overlap": True, "token_shift": True, "cumsum": "scan"}),
    ("flash", {"use_local": False, "lin_norm": "none", "cumsum": "matmul"}),
    ("flash", {"use_global": False}),
    ("flash-quad", {"attention": "softmax", "heads": 2, "qk_scale": "sqrt_key", "token_shift": True}),
    ("transformer+", {"attention": "relu2", "gating": True, "token_shift": True}),
)
"""Settings that mix tokens in another way."""


def every(*quick: tuple[str, str, str]) -> list[Any]:
    """Every system and task on every target. Each is slow on ONNX Runtime or PyTorch in turn, for each is compiled."""
    cases = []
    for (place, name), (number, task) in product(enumerate(NAMES), enumerate(TASKS)):
        for target in TARGETS:
            slow = target == TARGETS[(place + number) % 2]
            marks = () if (target, name, task) in quick else pytest.mark.slow if slow else GRID
            cases.append(pytest.param(target, name, task, marks=marks))
    return cases


QUICK = (
    ("onnx:cpu", "flash", "lm"),
    ("onnx:cpu", "flash-quad", "mlm"),
    ("onnx:cpu", "transformer++", "mlm"),
    ("torch:cpu", "flash", "mlm"),
    ("jax:cpu", "flash", "lm"),
)


@cache
def model(name: str, task: str, **told: Any) -> Graph:
    """A small system, every choice made."""
    made = flashir.model(name, **SMALL, **OWN[name], task=task, **told)
    open_choices = any("cumsum" in node.attrs and strategies(node) for node in made.walk())
    return flashir.plan(made, "torch:cpu", measured=False).graph if open_choices else made


@cache
def compiled(target: str, name: str, task: str, **told: Any) -> Runnable:
    graph = model(name, task, **told)
    return flashir.compile(graph, target, unit(graph))


@cache
def ragged() -> tuple[Array, Array]:
    """Tokens [b, t] and a mask: a text of each length, padded on the right, and a row that is padding alone."""
    ids = np.random.default_rng(0).integers(0, SMALL["vocab"], (len(LENGTHS) + 1, ROW))
    mask = np.arange(ROW) < np.array([*LENGTHS, 0])[:, None]
    return ids, mask


def texts() -> Iterator[tuple[int, Array]]:
    """The row and the tokens [1, n] of each text."""
    ids, _ = ragged()
    return ((row, ids[row : row + 1, :length]) for row, length in enumerate(LENGTHS))


@pytest.mark.slow_where(target="jax:cpu")
@pytest.mark.parametrize(("target", "name", "task"), every(*QUICK))
def test_padding_is_seen_by_nothing(target: str, name: str, task: str) -> None:
    ids, mask = ragged()
    run, alone = compiled(target, name, task, mask=True), compiled(target, name, task)
    logits = run(ids, mask=mask)
    assert np.isfinite(logits).all()
    few = list(texts())[:: 3 if target == "jax:cpu" else 1]  # it compiles for every length
    errors = [relative_error(logits[row, : text.shape[1]], alone(text)[0]) for row, text in few]
    print(f"{target} {name} {task}: at most {max(errors):.1e} off")
    assert max(errors) <= TOLERANCE
    others = run(np.where(mask, ids, 7), mask=mask)
    assert np.array_equal(logits[mask], others[mask])


@pytest.mark.parametrize(("target", "name", "task"), every(("torch:cpu", "flash", "lm")))
def test_padding_moves_no_gradient(target: str, name: str, task: str) -> None:
    if target == "onnx:cpu":
        pytest.skip("runs forward only")
    ids, mask = ragged()
    weights = np.random.default_rng(1).standard_normal((*ids.shape, SMALL["vocab"])).astype(np.float32)
    weights *= mask[..., None]
    graph, plain = model(name, task, mask=True), model(name, task)
    found = gradients(graph, target, unit(graph))([ids, mask], weights)
    alone = gradients(plain, target, unit(plain))
    wanted, terms = dict[str, Array](), dict[str, Array]()
    for row, text in texts():
        for key, part in alone([text], weights[row : row + 1, : text.shape[1]]).items():
            wanted[key] = wanted.get(key, 0.0) + part
            terms[key] = terms.get(key, 0.0) + np.abs(part)  # the parts of a scalar cancel, their rounding does not
    errors = {key: np.max(np.abs(found[key] - wanted[key])) / np.max(terms[key]) for key in wanted}
    print(f"{target} {name} {task}: at most {max(errors.values()):.1e} off")
    assert max(errors.values()) <= TOLERANCE


@pytest.mark.slow_where(target="jax:cpu")
@pytest.mark.parametrize(("target", "name", "task"), every(*QUICK))
def test_documents_in_a_row_do_not_see_each_other(target: str, name: str, task: str) -> None:
    run = compiled(target, name, task, segments="token")
    ids, _ = ragged()
    segments = np.repeat([7, 3, 3, 0, 9, -1], DOCUMENTS)[None].repeat(2, axis=0)
    segments[:, sum(DOCUMENTS[:2]) :] += 5 * (segments[:, sum(DOCUMENTS[:2]) :] == 3)
    before = run(ids[:2], segment_ids=segments)
    for number in np.unique(segments):
        own = segments == number
        after = run(np.where(own, ids[:2], (ids[:2] + 1) % SMALL["vocab"]), segment_ids=segments)
        assert np.array_equal(before[own], after[own])
        assert not np.array_equal(before[~own], after[~own])


@pytest.mark.parametrize(
    ("name", "settings", "task"),
    [
        pytest.param(*variant, task, marks=() if TASKS[number % 2] == task else pytest.mark.slow)
        for number, variant in enumerate(VARIANTS)
        for task in TASKS
    ],
)
def test_other_ways_to_mix_tokens_keep_to_documents(name: str, settings: dict[str, Any], task: str) -> None:
    run = compiled("onnx:cpu", name, task, segments="token", mask=True, **settings)
    alone = compiled("onnx:cpu", name, task, **settings)
    ids, mask = ragged()
    logits = run(ids, np.zeros_like(ids), mask)
    assert np.isfinite(logits).all()
    assert max(relative_error(logits[row, : x.shape[1]], alone(x)[0]) for row, x in texts()) <= TOLERANCE
    segments = np.repeat(np.arange(len(DOCUMENTS)), DOCUMENTS)[None]
    everything = np.ones_like(segments, bool)
    before = run(ids[:1], segments, everything)
    own = segments == 2
    after = run(np.where(own, ids[:1], 1), segments, everything)
    assert np.array_equal(before[own], after[own])


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_that_does_not_fit_is_one_clear_error(name: str) -> None:
    run = compiled("torch:cpu", name, "mlm", mask=True)
    for mask, said in (
        (np.ones((1, 6), np.int64), "mask must hold true or false, got int64"),
        (np.ones((1, 6)), "mask must hold true or false, got float64"),
        (np.ones((1, 5), bool), "axis 1 of mask"),
        (np.ones((2, 6), bool), "axis 0 of mask"),
        (np.ones(6, bool), "mask must have 2 axes"),
        (None, "mask"),
    ):
        with pytest.raises(InputError, match=said) as told:
            run(np.zeros((1, 6), np.int64), mask=mask)
        assert len(told.value.problems) == 1
    with pytest.raises(InputError) as told:
        run(np.full((1, 6), 99), mask=np.ones((2, 5)))
    assert len(told.value.problems) == 4  # ids that are no tokens, what the mask holds, and both its axes
