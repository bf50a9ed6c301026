"""Gradients of every system of the zoo, for both tasks: PyTorch and JAX against each other and the interpreter.

pytest -m "" tests/backends/test_gradients.py -rP       # all of them, with the figures
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.backends.protocols import Gradients
from flashir.execution.gradients import DirectionalDerivatives, differences, gradients
from flashir.models.parameters import unit
from flashir.planning.workload import Workload
from flashir.reference.compare import sample_inputs
from flashir.testing import CHUNK, OWN, SMALL
from tests.cover import GRID, in_turn

TOLERANCE = 1e-3
LENGTH = 3 * CHUNK + 2  # into the fourth chunk, whose gradient reaches three states


class Case:
    """A model with parameters at which every term matters, tokens, and weights of the logits."""

    def __init__(self, name: str, task: str) -> None:
        open_choices = flashir.model(name, **SMALL, **OWN[name], task=task)
        self.model = flashir.plan(open_choices, "torch:cpu", measured=False).graph
        self.params = unit(self.model)
        self.arrays = sample_inputs(self.model, Workload(2, LENGTH).sizes(self.model))
        random = np.random.default_rng(1)
        self.weights = random.standard_normal((2, LENGTH, SMALL["vocab"])).astype(np.float32)
        self.slopes = DirectionalDerivatives(self.model, self.params, self.arrays, self.weights)

    def gradients(self, target: str) -> dict[str, Any]:
        call: Gradients = gradients(self.model, target, self.params)
        return call(self.arrays, self.weights)


@cache
def torch_gradients(name: str, task: str) -> tuple[Case, dict[str, Any]]:
    case = Case(name, task)
    return case, case.gradients("torch:cpu")


def check(errors: Any, params: Any, what: str) -> None:
    found = dict(errors)
    assert found.keys() == params.keys()
    print(f"{what}: at most {max(found.values()):.1e} off")
    assert not {name: error for name, error in found.items() if not error <= TOLERANCE}


@in_turn(name=OWN, task=("lm", "mlm"))
def test_pytorch_has_the_gradients_of_the_interpreter(name: str, task: str) -> None:
    case, found = torch_gradients(name, task)
    assert all(np.any(array) for array in found.values())
    check(case.slopes.errors(found), case.params, f"{name} {task}, PyTorch and the interpreter")


@in_turn(name=OWN, task=("lm", "mlm"), also=pytest.mark.slow, rest=GRID)
def test_jax_has_the_gradients_of_pytorch(name: str, task: str) -> None:
    case, wanted = torch_gradients(name, task)
    found = case.gradients("jax:cpu")
    check(differences(found, wanted), case.params, f"{name} {task}, JAX and PyTorch")
    check(case.slopes.errors(found), case.params, f"{name} {task}, JAX and the interpreter")


@pytest.mark.parametrize("parameter", ["layers.0.rel_bias.w", "layers.1.offset_scale.beta", "embed.weight"])
def test_an_error_of_a_hundredth_is_seen(parameter: str) -> None:
    case, found = torch_gradients("flash", "lm")
    random = np.random.default_rng(0)
    spoilt = {name: array.copy() for name, array in found.items()}
    spoilt[parameter] += 1e-2 * np.abs(found[parameter]).max() * random.standard_normal(found[parameter].shape)
    for errors in (case.slopes.errors(spoilt), differences(spoilt, found)):
        assert [name for name, error in errors if not error <= TOLERANCE] == [parameter]
