"""Gradients of random models in PyTorch and JAX against directional derivatives of the interpreter."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flashir import interpret
from flashir.errors import FlashirError
from flashir.execution.gradients import DirectionalDerivatives, gradients
from flashir.ir import Graph
from tests.campaign.agreement import Array, Reference
from tests.campaign.case import Case
from tests.campaign.compose import drawn
from tests.campaign.values import note, settled
from tests.campaign.verdict import WrongError

TARGETS = ("torch:cpu", "torch:cpu", "torch:cpu", "jax:cpu")
TOLERANCE = 1e-3
NOISE = 20.0
"""The allowed multiple of the change of a slope by rounding parameters to float32."""


def case(case: Case) -> str:
    """The gradients of a model on a target."""
    target = case.random.choice(TARGETS)
    model = settled(drawn(case.random, narrow=False), target)
    note(case, model, target)
    reference = Reference(model)
    if not reference.params or len(reference.wanted) != 1 or reference.wanted[0].dtype.kind != "f":
        return "no parameters"
    if not reference.usable or max(float(np.abs(reference.wanted[0]).max(initial=0)), 0.0) > 1e6:
        return "numbers too large"
    weights = np.random.default_rng(model.seed).standard_normal(reference.wanted[0].shape).astype(np.float32)
    call = gradients(model.graph, target, reference.params)
    try:
        got = call(reference.arrays, weights)
    except FlashirError as error:
        raise WrongError(f"{target} differentiates a model and refuses its inputs", error.message) from error
    if unknown := set(got) - set(reference.params):
        raise WrongError(f"{target}: gradients of unknown parameters", ", ".join(sorted(unknown)))
    if not reference.wanted[0].size:
        if wrong := sorted(name for name, gradient in got.items() if not np.all(gradient == 0)):
            raise WrongError(f"{target}: gradients without tokens are not 0", ", ".join(wrong))
        return f"{target}, no tokens"
    slopes = DirectionalDerivatives(model.graph, reference.params, reference.arrays, weights)
    for name, off in list(slopes.errors(got)):
        if off <= TOLERANCE:
            continue
        allowed = NOISE * max(_noise(slopes, name, got), _unsteadiness(model.graph, target, slopes, name, got))
        if not off <= allowed:
            raise WrongError(f"{target}: wrong gradient", f"{name} is {off:.1e} off, {allowed:.1e} allowed")
    return target


def _rounded(params: Mapping[str, Array], random: np.random.Generator) -> dict[str, Array]:
    """The parameters, each number changed by its rounding to float32."""
    return {name: array * (1 + 2.0**-24 * random.choice([-1.0, 1.0], array.shape)) for name, array in params.items()}


def _unsteadiness(
    graph: Graph, target: str, slopes: DirectionalDerivatives, name: str, got: Mapping[str, Array]
) -> float:
    """The relative change of a slope on the target itself if the parameters change by their rounding.

    Where terms cancel by the form of a model, such as before a norm, rounding on the way is what remains of a slope.
    The float64 interpreter does not show it. A wrong gradient stays as wrong as it was.
    """
    direction, slope = slopes.along(name)
    random = np.random.default_rng(2)
    norm = max(float(np.linalg.norm(got.get(name, 0.0))), abs(slope), 1e-300)
    others = [
        gradients(graph, target, _rounded(slopes.params, random))(slopes.arrays, slopes.weights) for _ in range(3)
    ]
    return (
        max(abs(float(np.sum(direction * np.subtract(other.get(name, 0.0), got.get(name, 0.0))))) for other in others)
        / norm
    )


def _noise(slopes: DirectionalDerivatives, name: str, got: Mapping[str, Array]) -> float:
    """The relative change of a slope if the parameters change by their rounding, normalised as in `errors`.

    It is large near a kink, such as that of relu, where a comparison means nothing.
    """
    direction, slope = slopes.along(name)
    random = np.random.default_rng(1)
    norm = max(float(np.linalg.norm(got.get(name, 0.0))), abs(slope), 1e-300)
    worst = 0.0
    for step in (1e-7, 1e-5):
        params = _rounded(slopes.params, random)
        up, down = (
            interpret(slopes.model, {**params, name: params[name] + by * direction}, *slopes.arrays)[0]
            for by in (step, -step)
        )
        moved = float(np.sum(slopes.weights * (up - down))) / (2 * step)
        worst = max(worst, abs(moved - slope) / norm)
    return worst
