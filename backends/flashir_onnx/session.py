"""ONNX Runtime sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.errors import TargetError
from flashir_onnx.emit import Emitted

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERRORS_ONLY = 3


class Session:
    """A model loaded into ONNX Runtime. Arrays in the order of its inputs -> its one result.

    Args:
        source: an artefact's file, or an emitted model whose weights are passed in memory without a copy.
        device: `cpu` or `cuda`.
        threads: how many, 0 for one a core.
        lean: take as little memory as possible, at the price of speed.
    """

    def __init__(self, source: Path | Emitted, device: str = "cpu", *, threads: int = 0, lean: bool = False) -> None:
        import onnxruntime as ort

        if PROVIDERS.get(device) not in ort.get_available_providers():
            raise TargetError(
                f"ONNX Runtime has no device {device!r} here", mend="choose one that `flashir targets` lists"
            )
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = threads
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
        self._session = ort.InferenceSession(model, options, providers=[PROVIDERS[device]])
        self._inputs = {each.name: _TYPES[each.type] for each in self._session.get_inputs()}

    def __call__(self, arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Run once."""
        feeds = zip(self._inputs.items(), arrays, strict=True)
        return np.asarray(self._run({name: np.asarray(x, dtype, order="C") for (name, dtype), x in feeds}))

    def _run(self, feed: Mapping[str, npt.NDArray[Any]]) -> Any:
        return self._session.run(None, dict(feed))[0]


_TYPES: dict[str, Any] = {
    "tensor(double)": np.float64, "tensor(float)": np.float32, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(bool)": np.bool_,
}  # fmt: skip
