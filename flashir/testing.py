"""The conformance suite for backends, built-in or third-party.

import pytest
from flashir.testing import cases

@pytest.mark.parametrize("case", cases("mine:cpu"), ids=str)
def test_conformance(case):
    case.check()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashir.backends.lowering import Lowering
from flashir.backends.protocols import Differentiable, Trainable
from flashir.backends.registry import backend_of
from flashir.backends.training import NO_LABEL, AdamW, Batch
from flashir.errors import FlashirError, InputError, ParameterError
from flashir.execution.compile import compile
from flashir.execution.gradients import DirectionalDerivatives, gradients
from flashir.ir import DType, Graph, TensorType
from flashir.ir.examples import sample_graph
from flashir.machine.device import available_device
from flashir.models.load import model
from flashir.models.parameters import unit
from flashir.ops import OpDef, Sample, all_ops
from flashir.planning.plan import compute_type
from flashir.planning.workload import Workload
from flashir.reference.arrays import Array
from flashir.reference.compare import TOLERANCE, relative_error, sample_inputs
from flashir.reference.interpreter import interpret

CHUNK = 16
GRADIENT = 1e-3
CUMSUM = ("scan", "matmul", "native")
LENGTHS = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 2)
SMALL: dict[str, Any] = {"d_model": 32, "depth": 2, "vocab": 61}
OWN: dict[str, dict[str, Any]] = {
    "flash": {"key_dim": 8, "chunk": CHUNK},
    "flash-quad": {"key_dim": 8},
    "transformer": {"heads": 4, "max_len": 64},
    "transformer+": {"heads": 4},
    "transformer++": {"heads": 4},
    "performer": {"heads": 4, "tile": CHUNK},
    "combiner": {"heads": 4, "chunk": CHUNK},
    "mc-transformer++": {"heads": 4, "chunk": CHUNK},
}
"""Further settings per system, so that it is small and its chunks end at the same lengths."""

MODELS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(
        ("flash", {"task": task, "cumsum": cumsum, "lin_norm": lin_norm})
        for task, cumsum, lin_norm in (
            ("lm", "scan", "chunk_mean"),
            ("lm", "matmul", "chunk"),
            ("lm", "native", "none"),
            ("mlm", "native", "chunk_mean"),
            ("mlm", "native", "none"),
        )
    ),
    ("flash", {"segments": True}),
    ("flash", {"segments": True, "task": "mlm"}),
    ("flash", {"segments": "token", "mask": True, "cumsum": "scan"}),
    ("flash", {"segments": "chunk", "mask": True, "cumsum": "matmul", "task": "mlm"}),
    ("flash-quad", {"segments": "token", "max_len": 64}),
    ("transformer++", {"mask": True, "task": "mlm"}),
    ("performer", {"segments": "token", "cumsum": "scan"}),
    ("combiner", {"segments": "token", "task": "mlm"}),
    ("mc-transformer++", {"segments": "token", "cumsum": "matmul", "task": "mlm"}),
    ("flash", {"use_global": False}),
    ("flash", {"use_local": False, "cumsum": "scan"}),
    ("flash", {"qk_scale": "sqrt_key", "expansion": 1.5}),
    *(("flash-quad", {"task": task, "max_len": 64, "qk_scale": "length"}) for task in ("lm", "mlm")),
    ("flash-quad", {"max_len": 1024, "qk_scale": "max_len"}),
    *((name, {"task": task}) for name in ("transformer", "transformer++", "combiner") for task in ("lm", "mlm")),
    ("transformer+", {"attention": "relu2", "gating": True}),
    *((name, {"cumsum": cumsum}) for name in ("performer", "mc-transformer++") for cumsum in CUMSUM),
    *((name, {"task": "mlm", "cumsum": "native"}) for name in ("performer", "mc-transformer++")),
)
"""The models of the suite, with their settings."""


@dataclass(frozen=True)
class Case:
    """One test of a backend.

    Args:
        name: a display name.
        check: runs the test. It raises AssertionError with the numbers if the test fails.
    """

    name: str
    check: Callable[[], None] = field(repr=False)

    def __str__(self) -> str:
        return self.name


def cases(target: str) -> Iterator[Case]:
    """Every case for a target whose device is available: each op, whole models, and inputs that must be refused."""
    for record in all_ops():
        for number, sample in enumerate(record.samples):
            yield Case(f"{record.name}-{number}", lambda r=record, s=sample: _check_op(target, r, s))  # type: ignore[misc]
    for name, settings in MODELS:
        text = "-".join(f"{key}={value}" for key, value in settings.items())
        yield Case(f"{name}-{text}", lambda n=name, s=settings: _check_model(target, n, s))  # type: ignore[misc]
    if isinstance(backend_of(target), Differentiable):
        yield Case("gradients", lambda: _check_gradients(target))
        yield Case("gradients-without-tokens", lambda: _check_gradients_without_tokens(target))
    if isinstance(backend_of(target), Trainable):
        yield Case("training", lambda: _check_training(target))
    yield Case("causality", lambda: _check_causality(target))
    yield Case("refusals", lambda: _check_refusals(target))


def agree(got: Array, wanted: Array, limit: float) -> None:
    """Raise AssertionError if two results differ by more than `limit`, relative to the largest value of `wanted`."""
    assert got.shape == wanted.shape, f"wanted shape {wanted.shape}, got {got.shape}"
    if wanted.dtype.kind != "f":
        assert np.array_equal(got, wanted), "whole numbers differ"
        return
    error = relative_error(got, wanted)
    assert error <= limit, f"error {error:.1e} (limit {limit:.0e})"


def _check_op(target: str, record: OpDef, sample: Sample) -> None:
    """Check each result of an op on unit-scale operands."""
    for position in range(len(sample_graph(record, sample).outputs)):
        graph = sample_graph(record, sample, position)
        random = np.random.default_rng(position)
        operands = [_drawn(value.type, random, sample.high) for value in graph.inputs]
        params = unit(graph)
        run = compile(graph, target, params)
        limit = TOLERANCE[compute_type(graph)]
        agree(run(*operands), interpret(graph, params, *operands)[0], limit)


def _drawn(type_: TensorType, random: np.random.Generator, high: int) -> Array:
    """Unit-scale floats, integers below `high`, or random booleans."""
    if type_.dtype.is_float:
        return random.standard_normal(type_.sizes)
    return random.integers(0, 2 if type_.dtype is DType.BOOL else high, type_.sizes).astype(type_.dtype.reference_dtype)


def _small(name: str, settings: Mapping[str, Any]) -> Graph:
    return model(name, **SMALL, **OWN[name], **settings)


def _check_model(target: str, name: str, settings: Mapping[str, Any]) -> None:
    """Check a model at lengths around the ends of chunks, for two rows and for none, from read-only parameters."""
    graph = _small(name, settings)
    params = unit(graph)
    for array in params.values():
        array.setflags(write=False)
    run = compile(graph, target, params)
    for batch, length in (*((2, length) for length in LENGTHS), (0, CHUNK)):
        arrays = [x[:batch, :length] for x in sample_inputs(graph, Workload(2, max(length, 1)).sizes(graph), length)]
        agree(run(*arrays), interpret(run.model, params, *arrays)[0], TOLERANCE[compute_type(graph)])


def _check_gradients(target: str) -> None:
    """Check the gradient of every parameter against the interpreter's, along a random direction."""
    for name, cumsum in (("flash", "scan"), ("mc-transformer++", "native")):
        graph = _small(name, {"cumsum": cumsum})
        params = unit(graph)
        (ids,) = sample_inputs(graph, Workload(2, 3 * CHUNK + 2).sizes(graph))
        weights = np.random.default_rng(0).standard_normal((*ids.shape, SMALL["vocab"])).astype(np.float32)
        got = gradients(graph, target, params)([ids], weights)
        for parameter, error in DirectionalDerivatives(graph, params, [ids], weights).errors(got):
            assert error <= GRADIENT, f"{name} {cumsum}: the gradient of {parameter} has error {error:.1e}"


def _check_gradients_without_tokens(target: str) -> None:
    """Check that gradients are 0 where rows have no token: a chunk of padding alone must not make them NaN."""
    for name in ("flash", "combiner", "mc-transformer++"):
        graph = _small(name, {"task": "mlm"})
        empty = np.zeros((2, 0), np.int64)
        got = gradients(graph, target, unit(graph))([empty], np.zeros((2, 0, SMALL["vocab"]), np.float32))
        wrong = sorted(parameter for parameter, gradient in got.items() if not np.all(gradient == 0))
        assert not wrong, f"{name}: gradients without tokens must be 0, got others for {', '.join(wrong)}"


def _check_training(target: str) -> None:
    """Check that micro-batches equal their batch, and that a restored trainer continues bit for bit."""
    backend, graph = backend_of(target), _small("flash", {"cumsum": "matmul"})
    assert isinstance(backend, Trainable)
    lowered, params, device = Lowering.of(target).run(graph), unit(graph), available_device(target)
    (ids,) = sample_inputs(graph, Workload(3, 2 * CHUNK + 2).sizes(graph))
    labels = np.where(ids % 3, np.roll(ids, -1, axis=1), NO_LABEL)
    batch, parts = Batch((ids,), labels), [Batch((ids[i:j],), labels[i:j]) for i, j in ((0, 1), (1, 3))]
    adamw = AdamW(clip=0.1)
    trainers = [backend.trainer(lowered, params, device, adamw, remat=remat) for remat in (False, True)]
    steps = [(trainers[0].step([batch], 1e-3), trainers[1].step(parts, 1e-3)) for _ in range(3)]
    logits = interpret(graph, params, ids)[0]
    wanted = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    wanted = float(wanted[labels != NO_LABEL].mean())
    for name, got in zip(("whole", "in parts"), steps[0], strict=True):
        assert abs(got.loss - wanted) <= 1e-4 * wanted, f"{name}: wanted a loss of {wanted}, got {got.loss}"
    for one, other in steps:
        assert abs(one.loss - other.loss) <= 1e-4 * one.loss, f"a loss of {one.loss} whole, of {other.loss} in parts"
    assert steps[-1][0].loss < wanted, "the loss did not fall"
    trained, state = trainers[0].params(), trainers[0].state()
    again = backend.trainer(lowered, trained, device, adamw, state=state)
    assert again.step([batch], 1e-3) == trainers[0].step([batch], 1e-3), "a restored trainer differs"


def _check_causality(target: str) -> None:
    """Check that a changed token changes no logit before it, bit for bit."""
    for name, cumsum in (*(("flash", strategy) for strategy in CUMSUM), ("performer", "native"), ("combiner", "")):
        graph = _small(name, {"cumsum": cumsum} if cumsum else {})
        run = compile(graph, target, unit(graph))
        (ids,) = sample_inputs(graph, Workload(1, 3 * CHUNK).sizes(graph))
        before = run(ids)
        for position in (1, CHUNK - 1, CHUNK, 2 * CHUNK + 3):
            other = ids.copy()
            other[0, position] = (other[0, position] + 1) % SMALL["vocab"]
            after = run(other)
            assert np.array_equal(before[:, :position], after[:, :position]), (
                f"{name} {cumsum}: token {position} changes earlier logits"
            )
            assert not np.array_equal(before[:, position:], after[:, position:])


def _check_refusals(target: str) -> None:
    """Check that bad input is refused with the right error before anything runs."""
    graph = _small("flash", {})
    params = unit(graph)
    run = compile(graph, target, params)
    _refused(lambda: run(np.array([[0, SMALL["vocab"]]])), InputError)
    _refused(lambda: run(np.array([[-1]])), InputError)
    _refused(lambda: run(np.array([0.5])), InputError)
    damaged = {**params, "layers.1.norm.scale": np.full_like(params["layers.1.norm.scale"], np.nan)}
    _refused(lambda: compile(graph, target, damaged), ParameterError)


def _refused(act: Callable[[], object], kind: type[FlashirError]) -> None:
    try:
        act()
    except kind:
        return
    raise AssertionError(f"wanted {kind.__name__}, nothing was raised")
