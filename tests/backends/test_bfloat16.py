"""Every system of the zoo, for both tasks, in bfloat16 with float32 states, against the float64 interpreter."""

from __future__ import annotations

import pytest

import flashir
from flashir.compiler import compile
from flashir.export import TOLERANCE, relative_error, sample_inputs
from flashir.interpreter import interpret
from flashir.ir import DType
from flashir.parameters import unit
from flashir.testing import CHUNK, OWN
from flashir.workload import Workload

LENGTH = 12 * CHUNK + 2  # as far as `flashir check` goes with the chunk of 64 that it plans

ZOO = [(name, task) for name in OWN for task in ("lm", "mlm")]
QUICK = (("flash", "lm"), ("performer", "mlm"))


def error(name: str, task: str, target: str, seed: int = 0) -> float:
    model = flashir.plan(flashir.model(name, size="tiny", task=task), target, dtype="bfloat16", measured=False).graph
    params = unit(model, seed)
    arrays = sample_inputs(model, Workload(2, LENGTH).sizes(model), LENGTH)
    return relative_error(compile(model, target, params)(*arrays), interpret(model, params, *arrays)[0])


@pytest.mark.parametrize(("name", "task"), ZOO)
def test_pytorch(name: str, task: str) -> None:
    assert error(name, task, "torch:cpu") < TOLERANCE[DType.BF16]


@pytest.mark.parametrize(
    ("name", "task"), [pytest.param(*each, marks=() if each in QUICK else pytest.mark.slow) for each in ZOO]
)
def test_jax(name: str, task: str) -> None:
    assert error(name, task, "jax:cpu") < TOLERANCE[DType.BF16]
