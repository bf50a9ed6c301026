"""Every system of the zoo, for both tasks, in bfloat16 with float32 states, against the float64 interpreter.

pytest -m "" tests/backends/test_bfloat16.py -rP        # all of them, with the figures
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir.execution.compile import compile
from flashir.ir import DType, Graph
from flashir.models.parameters import unit
from flashir.planning.workload import Workload
from flashir.reference.compare import TOLERANCE, relative_error, sample_inputs
from flashir.reference.interpreter import interpret
from flashir.testing import CHUNK, OWN
from tests.cover import GRID, in_turn

LENGTH = 12 * CHUNK + 2  # as far as `flashir check` goes with the chunk of 64 that it plans


def case(name: str, task: str, target: str, seed: int) -> tuple[Graph, dict[str, Any], list[Any]]:
    model = flashir.plan(flashir.model(name, size="tiny", task=task), target, dtype="bfloat16", measured=False).graph
    return model, unit(model, seed), sample_inputs(model, Workload(2, LENGTH).sizes(model), LENGTH)


def error(name: str, task: str, target: str, seed: int = 0) -> float:
    model, params, arrays = case(name, task, target, seed)
    found = relative_error(compile(model, target, params)(*arrays), interpret(model, params, *arrays)[0])
    print(f"{name} {task} on {target}: {found:.1e} off")
    return found


@in_turn(name=OWN, task=("lm", "mlm"))
def test_pytorch_in_bfloat16_is_near_the_interpreter(name: str, task: str) -> None:
    assert error(name, task, "torch:cpu") < TOLERANCE[DType.BF16]


@in_turn(name=OWN, task=("lm", "mlm"), also=pytest.mark.slow, rest=GRID)
def test_jax_in_bfloat16_is_near_the_interpreter(name: str, task: str) -> None:
    assert error(name, task, "jax:cpu") < TOLERANCE[DType.BF16]


def test_no_arithmetic_would_be_within_it_for_all_parameters() -> None:
    """Local and global attention may nearly cancel: then rounding the parameters, and nothing else, costs as much."""
    model, params, arrays = case("flash", "lm", "torch:cpu", seed=5)
    rounded = {name: _rounded(array) for name, array in params.items()}
    found = relative_error(interpret(model, rounded, *arrays)[0], interpret(model, params, *arrays)[0])
    print(f"rounded parameters, seed 5: {found:.1e} off")
    assert found > TOLERANCE[DType.BF16]


def _rounded(array: Any) -> Any:
    """To the eight bits of bfloat16, as float32."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
