"""ONNX Runtime against the float64 interpreter: every system of the zoo, for both tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir import interpret
from flashir.errors import FlashirError
from flashir_zoo import Zoo
from flashir_zoo.systems import SYSTEMS
from tests.backends.onnx.support import SMALL, relative_error, session, tokens, unit
from tests.cover import in_turn

TOLERANCE = 1e-4
SETTLED: dict[str, Any] = {"chunk": 4, "cumsum": "native", "tile": 4, "max_len": 48}
"""What is set wherever a model has it."""


def settings(name: str, **more: Any) -> dict[str, Any]:
    """A small model of that name with nothing left to choose."""
    own = SYSTEMS[name].specs()
    taken = {key: value for key, value in {**SETTLED, "key_dim": SMALL["key_dim"], "heads": 2}.items() if key in own}
    return {"d_model": 16, "depth": 2, "vocab": SMALL["vocab"], **taken, **more}


TASKS = ("lm", "mlm")
NAMES = sorted(Zoo().models())
every_name = pytest.mark.parametrize("name", NAMES)
every_system_in_turn = in_turn(name=NAMES, task=TASKS)


@every_system_in_turn
def test_every_system(name: str, task: str) -> None:
    model = flashir.model(name, **settings(name, task=task))
    params = unit(model)
    run = session(model, params)
    for length in (0, 1, 3, 4, 5, 14):
        ids = tokens(model, 2, length)
        logits = run(ids)
        assert logits.dtype == np.float32
        assert relative_error(logits, interpret(model, params, *ids)[0]) < TOLERANCE, length


@every_name
def test_no_token_sees_those_after_it(name: str) -> None:
    """Bit for bit: other tokens after position t change nothing up to it."""
    model = flashir.model(name, **settings(name, task="lm"))
    run = session(model, unit(model))
    (ids,) = tokens(model, 2, 14)
    before = run([ids])
    for t in (0, 3, 4, 9, 12):
        later = ids.copy()
        later[:, t + 1 :] = (later[:, t + 1 :] + 1) % SMALL["vocab"]
        after = run([later])
        assert np.array_equal(after[:, : t + 1], before[:, : t + 1]), t
        assert not np.array_equal(after[:, t + 1 :], before[:, t + 1 :])


@in_turn(row=({"attention": "relu2"}, {"heads": 1}, {"gating": True}), task=TASKS)
def test_the_rows_of_table_2(row: dict[str, Any], task: str) -> None:
    model = flashir.model("transformer+", **settings("transformer+", task=task, **row))
    params = unit(model)
    run = session(model, params)
    for length in (0, 1, 9):
        ids = tokens(model, 2, length)
        assert relative_error(run(ids), interpret(model, params, *ids)[0]) < TOLERANCE, length


@every_name
def test_float16(name: str) -> None:
    model = flashir.model(name, **settings(name, dtype="float16"))
    params = unit(model)
    ids = tokens(model, 2, 14)
    assert relative_error(session(model, params)(ids), interpret(model, params, *ids)[0]) < 3e-2


def test_more_tokens_than_positions_are_refused() -> None:
    model = flashir.model("transformer", **settings("transformer", max_len=8))
    run = session(model, unit(model))
    run(tokens(model, 1, 8))
    with pytest.raises(FlashirError, match="ONNX Runtime"):
        run(tokens(model, 1, 9))
