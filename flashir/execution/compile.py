"""compile: turn a model and its parameters into a function on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.arguments import translated_errors, typed
from flashir.backends.lowering import Lowering
from flashir.backends.protocols import Array, Run
from flashir.backends.results import results_of
from flashir.cost import estimate
from flashir.errors import InputError
from flashir.execution.prepare import prepare
from flashir.ir import DType, Graph
from flashir.ir.graph import Attr
from flashir.machine.device import available_device
from flashir.machine.memory import gigabytes
from flashir.machine.targets import target as find_target
from flashir.planning.plan import Plan
from flashir.reference import inputs
from flashir.transforms import specialise


class Runnable:
    """A compiled model: a function from NumPy arrays to NumPy arrays.

        logits = run(ids)                              # ids: integers [b, t] -> float32 [b, t, vocab]
        logits = run(ids, segment_ids=segment_ids)     # if the model has segments

    Any batch size and any length work, including 0. A model with several results returns a tuple.
    """

    def __init__(self, plan: Plan, run: Run, lowered: Graph | None = None) -> None:
        self.plan = plan
        self._run = run
        self._lowered = lowered
        self._admitted: set[tuple[tuple[str, int], ...]] = set()

    @property
    def model(self) -> Graph:
        """The model with every choice settled."""
        return self.plan.graph

    def __call__(self, *args: npt.ArrayLike, **named: npt.ArrayLike | None) -> Any:
        """Run the model and return its result; a tuple in the order of `return` if it has several.

        Raises:
            InputError: an input is missing, misshapen, of a wrong dtype, has tokens outside the vocabulary, or is so
                large that the run does not fit in memory.
        """
        arrays = inputs.collect(self.model, args, named)
        sizes = inputs.check(self.model, arrays)
        self._admit(sizes)
        with translated_errors():
            results = results_of(self._run, arrays) if all(sizes.values()) else self._of_nothing(arrays, sizes)
        return results[0] if len(self.model.outputs) == 1 else results

    def _of_nothing(self, arrays: Sequence[Array], sizes: Mapping[str, int]) -> tuple[Array, ...]:
        """The results for a size of 0.

        Results without elements are not computed, because runtimes fail on empty loops. Other results are cut to their
        size in the model, because compiled code pads an empty sequence to one chunk.
        """
        types = [value.type for value in specialise(self.model, sizes).outputs]
        if all(type_.dtype is DType.F32 and 0 in type_.sizes for type_ in types):
            return tuple(np.zeros(type_.sizes, np.float32) for type_ in types)
        results = results_of(self._run, arrays)
        return tuple(array[tuple(map(slice, type_.sizes))] for array, type_ in zip(results, types, strict=True))

    def _admit(self, sizes: Mapping[str, int]) -> None:
        """Raise InputError for sizes that an op does not support or that do not fit in memory. Caches valid sizes."""
        key = tuple(sizes.items())
        if key in self._admitted:
            return
        specialise(self.model, sizes)
        if 0 in sizes.values():  # needs no memory
            return
        record = find_target(self.plan.target)
        if self._lowered is None:
            self._lowered = Lowering.of(self.plan.target, check=False).run(self.model)
        needed = estimate(self._lowered, record, sizes).peak_bytes
        if needed > record.memory:
            sizes_text = ", ".join(f"{name} = {size}" for name, size in sizes.items())
            raise InputError(
                f"a run with {sizes_text} needs {gigabytes(needed)}, {record.name} has {gigabytes(record.memory)}",
                hint="use a smaller batch or a shorter length",
            )
        self._admitted.add(key)


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
    tolerance: float | None = None,
    rechunk: bool = False,
    strict: bool = True,
    **choices: Attr,
) -> Runnable:
    """Compile a model into a function on arrays. Open choices are planned for the given batch and length.

    Args:
        model: any graph.
        target: an installed backend and an available device, such as `onnx:cpu`.
        params: arrays by full name, of NumPy, PyTorch or JAX; None for `init(model, seed)`.
        seed: the seed of the parameters if `params` is None.
        batch, seq_len, policy: the typical workload; other batches and lengths work too.
        dtype, tolerance: the compute dtype, or several to choose from, as for `plan`; None for the model's own.
        rechunk: let `chunk` override the one that the parameters were made for, which changes the function.
        strict: refuse parameters that the model does not have. Otherwise they are left out with a warning.
        choices: values set by hand, such as `chunk=256` or `cumsum="scan"`.

    Raises:
        SettingError, TargetError: as for `plan`, or the backend or device is not available.
        ParameterError: parameters are missing, unexpected, misshapen or not finite.
    """
    settings: dict[str, Any] = {"batch": batch, "seq_len": seq_len, "policy": policy}
    settings |= {"dtype": dtype, "tolerance": tolerance, **choices}
    prepared = prepare(model, target, params, seed=seed, rechunk=rechunk, strict=strict, **settings)
    run = prepared.backend.compile(prepared.lowered, prepared.params, available_device(target))
    return Runnable(prepared.plan, run, prepared.lowered)
