"""ONNX Runtime sessions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.errors import FlashirError, InputError, TargetError
from flashir_onnx.emit import Emitted

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERRORS_ONLY = 3

Array = npt.NDArray[Any]


class Session:
    """A model loaded into ONNX Runtime, which is `runtime`. Arrays in the order of its inputs -> its one result.

    `pools` says whether memory that a run took stays with the session for the next.

    Args:
        source: an artefact's file, or an emitted model whose weights are passed in memory without a copy.
        device: `cpu` or `cuda`.
        threads: how many, 0 for one a core.
        lean: take as little memory as possible, at the price of speed.

    Raises:
        TargetError: the device is not at hand, or ONNX Runtime refuses the model.
    """

    def __init__(self, source: Path | Emitted, device: str = "cpu", *, threads: int = 0, lean: bool = False) -> None:
        from flashir_onnx.runtime import onnxruntime

        ort = onnxruntime()

        if PROVIDERS.get(device) not in ort.get_available_providers():
            raise TargetError(
                f"ONNX Runtime has no device {device!r} here", hint="choose one that `flashir targets` lists"
            )
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.force_spinning_stop", "1")  # idle sessions leave the cores to others
        self.pools = not lean
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
        self._kept: Any = None
        if isinstance(source, Emitted):
            self._kept = {name: source.weights.array(name) for name in source.weights.large()}
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in self._kept.values()]
            options.add_external_initializers(list(self._kept), values)
            self._kept = (self._kept, values)
            model: str | bytes = source.model.SerializeToString()
        else:
            model = str(source)
        with errors_of_runtime(TargetError, "ONNX Runtime does not load the model"):
            self.runtime = ort.InferenceSession(model, options, providers=[PROVIDERS[device]])
        self._inputs = {each.name: np.dtype(_TYPES[each.type]) for each in self.runtime.get_inputs()}

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """Run once. Raises as `outputs` does, and TargetError where the model has several results."""
        results = self.outputs(arrays)
        if len(results) != 1:
            raise TargetError(f"the model has {len(results)} results, wanted one", where="onnx")
        return results[0]

    def outputs(self, arrays: Sequence[Array]) -> tuple[Array, ...]:
        """Run once; every result.

        Raises:
            InputError: inputs that are missing, of another kind, or whose shapes do not fit.
            TargetError: ONNX Runtime fails.
        """
        if len(arrays) != len(self._inputs):
            raise InputError(
                f"the model takes {len(self._inputs)} inputs ({', '.join(self._inputs)}), got {len(arrays)}"
            )
        feed = self.converted(list(self._inputs), arrays)
        with errors_of_runtime(TargetError, "ONNX Runtime fails"):
            return tuple(np.asarray(result) for result in self.runtime.run(None, feed))

    def converted(self, names: Sequence[str], arrays: Sequence[Array]) -> dict[str, Array]:
        """Arrays by name, in the types of those inputs. Raises InputError where that would change a kind."""
        pairs = zip(names, arrays, strict=True)
        return {name: _converted(name, np.asarray(array), self._inputs[name]) for name, array in pairs}


def _converted(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """The array in the type wanted. Raises InputError where that would change its kind, as 1.5 to 1."""
    if array.size and not np.can_cast(array.dtype, dtype, "same_kind"):
        raise InputError(f"{name} must hold {dtype} numbers, got {array.dtype}")
    return np.asarray(array, dtype, order="C")


@contextmanager
def errors_of_runtime(kind: type[FlashirError], what: str) -> Iterator[None]:
    """Turns the exceptions of ONNX Runtime, which have no base of their own, into one of flashir's."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        if type(error).__name__ == "InvalidArgument":
            kind, what = InputError, "ONNX Runtime refuses an input"
        raise kind(f"{what}: {_PREFIX.sub('', str(error))}", where="onnx") from error


_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")

_TYPES: dict[str, Any] = {
    "tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip
