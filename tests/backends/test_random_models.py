"""Random valid models: settings, lengths and strategies. Every backend computes what the interpreter computes.

    pytest -m slow tests/backends/test_random_models.py -rP          # 500 models, in parts; FLASHIR_MODELS=N for others

Each part prints its seed, how many models it compared, and the largest error.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from flashir.execution.compile import compile
from flashir.ir import Graph, dumps
from flashir.models.parameters import unit
from flashir.planning.workload import Workload
from flashir.reference.compare import relative_error, sample_inputs
from flashir.reference.interpreter import interpret
from tests.strategies import models

TARGETS = ("onnx:cpu", "torch:cpu", "jax:cpu")
TOLERANCE = 1e-4
COUNT = int(os.environ.get("FLASHIR_MODELS", "500"))
PARTS = 10

Drawn = tuple[Graph, int, int, int]


@dataclass
class Tally:
    """What was compared: how many models of each name, how many had no tokens, the largest error of each target."""

    names: Counter[str] = field(default_factory=Counter)
    empty: int = 0
    seen: set[tuple[str, int, int]] = field(default_factory=set)
    worst: dict[str, float] = field(default_factory=lambda: dict.fromkeys(TARGETS, 0.0))

    def compare(self, drawn: Drawn) -> None:
        """One model on every target, once."""
        graph, batch, length, number = drawn
        case = dumps(graph), batch, length
        if case in self.seen:
            return
        params = unit(graph, number)
        arrays = sample_inputs(graph, Workload(max(1, batch), max(1, length)).sizes(graph), number)
        arrays = [array[:batch, :length] for array in arrays]
        wanted = interpret(graph, params, *arrays)[0]
        for target in TARGETS:
            error = relative_error(compile(graph, target, params)(*arrays), wanted)
            told = f"{target} is {error:.1e} off at {batch} x {length}, seed {number}\n{dumps(graph)}"
            assert error <= TOLERANCE, told
            self.worst[target] = max(self.worst[target], error)
        self.seen.add(case)  # not before: what fails is drawn once more, and must fail again
        self.names[graph.name] += 1
        self.empty += not batch * length

    def __str__(self) -> str:
        errors = ", ".join(f"{target} {error:.1e}" for target, error in self.worst.items())
        names = ", ".join(f"{name} {count}" for name, count in sorted(self.names.items()))
        return f"no mismatch; worst error {errors}; {self.empty} without tokens; {names}"


def run(count: int, number: int) -> Tally:
    """That many models, no two alike, always the same for the same seed."""
    tally = Tally()
    options = settings(
        max_examples=4 * count,
        derandomize=False,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )

    def compare(drawn: Drawn) -> None:
        if len(tally.seen) < count:
            tally.compare(drawn)

    test: Callable[[], None] = seed(number)(options(given(models())(compare)))
    test()
    assert len(tally.seen) == count
    return tally


@pytest.mark.slow
def test_a_few_models() -> None:
    run(4, 0)


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_many_models(part: int) -> None:
    count, number = COUNT // PARTS, 1000 + part
    print(f"\n{count} models, seed {number}:", run(count, number))


def test_a_wrong_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashir_torch import TorchBackend

    whole = TorchBackend.compile

    def wrong(self, graph, params, device):  # type: ignore[no-untyped-def]
        call = whole(self, graph, params, device)
        return lambda arrays: np.asarray(call(arrays) * 1.001, np.float32)

    monkeypatch.setattr(TorchBackend, "compile", wrong)
    with pytest.raises(AssertionError, match="torch:cpu is 1"):
        run(8, 0)
