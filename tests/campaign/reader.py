"""A process that runs artefacts with the runtime of their format only. It imports flashir only for .jax.

python reader.py FORMAT

Each line of standard input has a folder, a file of inputs and a file for results. The answer is `ok` or an error.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np


def run_onnx(folder: Path, arrays: list[Any]) -> list[Any]:
    """The results of model.onnx in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    kinds = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}
    kinds |= {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    inputs = session.get_inputs()
    if len(inputs) != len(arrays):
        raise ValueError(f"the model takes {[each.name for each in inputs]}, there are {len(arrays)} inputs")
    fed = {each.name: array.astype(kinds[each.type]) for each, array in zip(inputs, arrays)}
    return list(session.run(None, fed))


def run_torch(folder: Path, arrays: list[Any]) -> list[Any]:
    """The results of model.pt2 in PyTorch."""
    import torch

    program = torch.export.load(folder / "model.pt2")
    tensors = [torch.tensor(array if array.dtype.kind in "fb" else array.astype(np.int64)) for array in arrays]
    with torch.inference_mode():
        made = program.module()(*tensors)
    return [each.float().numpy() if each.is_floating_point() else each.numpy() for each in _several(made)]


def run_jax(folder: Path, arrays: list[Any]) -> list[Any]:
    """The results of model.jax. Only flashir can stack its parameters."""
    from flashir.backends.registry import backend_of
    from flashir.backends.results import results_of

    _, run = backend_of("jax:cpu").load(folder, "cpu")  # type: ignore[attr-defined]
    return list(results_of(run, arrays))


def _several(made: Any) -> list[Any]:
    return list(made) if isinstance(made, (tuple, list)) else [made]


RUN = {"onnx": run_onnx, "torch": run_torch, "jax": run_jax}


def main() -> None:
    """Serve requests until standard input ends."""
    kind = sys.argv[1]
    for line in sys.stdin:
        folder, given, out = map(Path, line.rstrip("\n").split("\t"))
        try:
            with np.load(given) as archive:
                arrays = [archive[f"x{n}"] for n in range(len(archive.files))]
            results = RUN[kind](folder, arrays)
            np.savez(out, **{f"y{n}": np.asarray(result) for n, result in enumerate(results)})  # type: ignore[arg-type]
            said = "ok"
        except Exception:
            said = " | ".join(traceback.format_exc().splitlines()[-3:])
        if kind != "jax" and "flashir" in sys.modules:
            said = "flashir was imported"
        print(said, flush=True)


if __name__ == "__main__":
    main()
