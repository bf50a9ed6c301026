"""compile: a model and its parameters as a function on arrays, on a device at hand."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.arguments import translated_errors, typed
from flashir.backends.lowering import Lowering, portable_form
from flashir.backends.protocols import Array, Backend, Run
from flashir.backends.registry import backend_of
from flashir.backends.results import results_of
from flashir.errors import InputError
from flashir.ir import DType, Graph
from flashir.ir.graph import Attr
from flashir.machine.device import available_device
from flashir.machine.memory import gigabytes
from flashir.machine.targets import target as find_target
from flashir.models.parameters import Params, checked, fitted, init, rechunked
from flashir.planning.plan import Plan, Ranking, plan
from flashir.planning.workload import Workload
from flashir.reference import inputs
from flashir.transforms import specialise
from flashir.transforms.settle_choices import settled_values


class Runnable:
    """A compiled model: numpy in, numpy out.

        logits = run(ids)                              # ids: whole numbers [b, t] -> float32 [b, t, vocab]
        logits = run(ids, segment_ids=segment_ids)     # where the model has segments

    Any batch and any length work, from 0 up. A model with several results gives a tuple of them.
    """

    def __init__(self, plan: Plan, run: Run) -> None:
        self.plan = plan
        self._run = run
        self._admitted: set[tuple[tuple[str, int], ...]] = set()

    @property
    def model(self) -> Graph:
        """The model with every choice made."""
        return self.plan.graph

    def __call__(self, *given: npt.ArrayLike, **named: npt.ArrayLike | None) -> Any:
        """Run the model once: its result, or a tuple of them in the order of `return` where it has several.

        Raises:
            InputError: an input is missing, misshapen, of a wrong type, holds tokens outside the vocabulary, or is so
                large that the machine has no memory for the run.
        """
        arrays = inputs.collect(self.model, given, named)
        sizes = inputs.check(self.model, arrays)
        self._admit(sizes)
        with translated_errors():
            results = results_of(self._run, arrays) if all(sizes.values()) else self._of_nothing(arrays, sizes)
        return results[0] if len(self.model.outputs) == 1 else results

    def _of_nothing(self, arrays: Sequence[Array], sizes: Mapping[str, int]) -> tuple[Array, ...]:
        """The results where a size is 0.

        What has no elements is not computed, for runtimes fail on loops over nothing. Of the rest it is the part that
        the model means: compiled code has a chunk where an empty sequence has none.
        """
        wanted = [value.type for value in specialise(self.model, sizes).outputs]
        if all(type_.dtype is DType.F32 and 0 in type_.sizes for type_ in wanted):
            return tuple(np.zeros(type_.sizes, np.float32) for type_ in wanted)
        results = results_of(self._run, arrays)
        return tuple(array[tuple(map(slice, type_.sizes))] for array, type_ in zip(results, wanted, strict=True))

    def _admit(self, sizes: Mapping[str, int]) -> None:
        """Refuse what an op cannot do, or memory cannot hold; sizes seen before pass at once."""
        key = tuple(sizes.items())
        if key in self._admitted:
            return
        specialise(self.model, sizes)
        if 0 in sizes.values():  # nothing to hold
            return
        record = find_target(self.plan.target)
        needed = Ranking(record, Workload()).needed(self.model, sizes)
        if needed > record.memory:
            shown = ", ".join(f"{name} = {size}" for name, size in sizes.items())
            raise InputError(
                f"a run with {shown} needs {gigabytes(needed)}, {record.name} has {gigabytes(record.memory)}",
                hint="use a smaller batch or a shorter length",
            )
        self._admitted.add(key)


@dataclass(frozen=True)
class Prepared:
    """A model ready for a backend: choices made, parameters checked."""

    plan: Plan
    params: Params
    backend: Backend
    lowering: Lowering

    @cached_property
    def lowered(self) -> Graph:
        """The model as the backend wants it."""
        return self.lowering.run(self.plan.graph)


def prepare(
    model: Graph,
    target: str,
    params: Mapping[str, Any] | None,
    *,
    seed: int = 0,
    rechunk: bool = False,
    strict: bool = True,
    portable: bool = False,
    **choices: Any,
) -> Prepared:
    """Settle and check a model, before any work starts. Arguments as for `compile`, and `portable` as for `export`.

    Without parameters, those of `init` with that seed are made, once the chunk is chosen.
    """
    find_target(target)
    found = backend_of(target)
    lowering = Lowering.of(target, portable=portable)
    if portable:
        found = portable_form(found, target)
    choices["portable"] = portable
    if params is not None:
        params = fitted(model, params, strict=strict)
    if params is None:
        made = plan(model, target, **choices)
        params = init(made.graph, seed)
    elif rechunk and choices.get("chunk") is not None:
        params = _rechunk(model, params, choices["chunk"])
        made = plan(model, target, **choices)
    else:
        made = plan(model, target, params=params, **choices)
    return Prepared(made, checked(made.graph, params), found, lowering)


@typed
def compile(
    model: Graph,
    target: str = "onnx:cpu",
    params: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    batch: int = 1,
    seq_len: int = 4096,
    policy: str = "quality",
    dtype: str | None = None,
    rechunk: bool = False,
    strict: bool = True,
    **choices: Attr,
) -> Runnable:
    """A model as a function on arrays. What it leaves open is planned for the batch and length given.

    Args:
        model: any graph.
        target: a backend that is installed, and a device at hand, such as `onnx:cpu`.
        params: by full name, as `init` or `load_params` give them, or tensors of PyTorch or arrays of JAX; without any,
            `init(model, seed)`.
        seed: of the parameters, where there are none.
        batch, seq_len, policy: what is typical; other batches and lengths work too.
        dtype: the compute type; without one, the model's own.
        rechunk: let `chunk` override the one that the parameters were made for; the model computes another function
            then.
        strict: refuse parameters that the model does not have; else they are left out with a warning.
        choices: values set by hand, such as `chunk=256` or `cumsum="scan"`.

    Raises:
        SettingError, TargetError: as `plan`; and where the backend or device is not at hand.
        ParameterError: parameters that are missing, extra, misshapen or not finite.
    """
    planned: dict[str, Any] = {"batch": batch, "seq_len": seq_len, "policy": policy, "dtype": dtype, **choices}
    ready = prepare(model, target, params, seed=seed, rechunk=rechunk, strict=strict, **planned)
    return Runnable(ready.plan, ready.backend.compile(ready.lowered, ready.params, available_device(target)))


def _rechunk(model: Graph, params: Mapping[str, Any], chunk: int) -> Params:
    before = settled_values(model, "chunk")
    if set(before) - {chunk}:
        warnings.warn(
            f"rechunked from {', '.join(map(str, before))} to {chunk}: the parameters were made for the former chunk, "
            "and with the latter they compute another function",
            stacklevel=3,
        )
    return rechunked(params, chunk)
