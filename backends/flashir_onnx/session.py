"""ONNX Runtime sessions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from flashir.backends.protocols import Array
from flashir.backends.results import check_count, single
from flashir.errors import FlashirError, InputError, TargetError
from flashir_onnx.emit import Emitted

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERRORS_ONLY = 3
MOST_BYTES = 4 << 30
"""The most bytes that the values of bounded sessions take."""
SAME_AS_REQUESTED, DEFAULT = 1, -1
"""Settings of an arena of ONNX Runtime: it grows by what is asked for; what ONNX Runtime would choose."""


class Session:
    """A model loaded into ONNX Runtime. Arrays in the order of its inputs -> its single result.

    `runtime` is the session of ONNX Runtime. `pools` says whether it keeps the memory of a run for the next one.

    Args:
        source: the file of an artefact, or an emitted model, whose weights are passed without a copy.
        device: `cpu` or `cuda`.
        threads: the number of threads; 0 for one per core.
        lean: use as little memory as possible, at the cost of speed.
        bounded: all values together take at most `MOST_BYTES`, and nothing is computed while the model loads. For files
            from others.

    Raises:
        TargetError: the device is not available, or ONNX Runtime rejects the model.
    """

    def __init__(
        self,
        source: Path | Emitted,
        device: str = "cpu",
        *,
        threads: int = 0,
        lean: bool = False,
        bounded: bool = False,
    ) -> None:
        from flashir_onnx.runtime import onnxruntime

        ort = onnxruntime()

        if PROVIDERS.get(device) not in ort.get_available_providers():
            raise TargetError(
                f"ONNX Runtime has no device {device!r} here", hint="choose one that `flashir targets` lists"
            )
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")  # idle sessions must not occupy cores
        self.pools = not lean
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
        if bounded:
            _bounded_memory()
            options.add_session_config_entry("session.use_env_allocators", "1")
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if isinstance(source, Emitted):
            arrays = {name: source.weights.array(name) for name in source.weights.large()}
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
            options.add_external_initializers(list(arrays), values)
            self._weights = (arrays, values)  # must outlive the session, which does not copy them
            model: str | bytes = source.model.SerializeToString()
        else:
            model = str(source)
        with errors_of_runtime(TargetError, "ONNX Runtime does not load the model"):
            self.runtime = ort.InferenceSession(model, options, providers=[PROVIDERS[device]])
        self._inputs = {value.name: np.dtype(NUMPY_TYPES[value.type]) for value in self.runtime.get_inputs()}

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """Run once. Raises the errors of `outputs`, and TargetError if the model has several results."""
        return single(self.outputs(arrays), "onnx")

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run once, and return every result.

        Raises:
            InputError: inputs are missing, of a wrong dtype, or of a wrong shape.
            TargetError: ONNX Runtime fails.
        """
        check_count(list(self._inputs), len(arrays), "onnx")
        feed = self.converted(list(self._inputs), arrays)
        with errors_of_runtime(TargetError, "ONNX Runtime fails"):
            return tuple(np.asarray(result) for result in self.runtime.run(None, feed))

    def converted(self, names: Sequence[str], arrays: Sequence[Array]) -> dict[str, Array]:
        """The arrays by name in the dtypes of these inputs. Raises InputError for a dtype of another kind."""
        pairs = zip(names, arrays, strict=True)
        return {name: _converted(name, np.asarray(array), self._inputs[name]) for name, array in pairs}


@cache
def _bounded_memory() -> None:
    """Memory of at most `MOST_BYTES`, for the sessions that share it. ONNX Runtime has one a process."""
    from flashir_onnx.runtime import onnxruntime

    ort = onnxruntime()
    limits = {"max_mem": MOST_BYTES, "arena_extend_strategy": SAME_AS_REQUESTED}
    limits |= {"initial_chunk_size_bytes": DEFAULT, "max_dead_bytes_per_chunk": DEFAULT}
    arena = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(arena, ort.OrtArenaCfg(limits))


def _converted(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """The array in another dtype. Raises InputError if the kind differs, as from float to int."""
    if array.size and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InputError(f"{name} must hold {dtype} numbers, got {array.dtype}")
    return np.asarray(array, dtype, order="C")


@contextmanager
def errors_of_runtime(kind: type[FlashirError], what: str) -> Iterator[None]:
    """Turn the exceptions of ONNX Runtime, which have no common base class, into errors of flashir."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        if type(error).__name__ == "InvalidArgument":
            kind, what = InputError, "ONNX Runtime refuses an input"
        raise kind(f"{what}: {_PREFIX.sub('', str(error))}", where="onnx") from error


_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")

NUMPY_TYPES: dict[str, Any] = {
    "tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_,
}  # fmt: skip
