"""One FLASH layer in ONNX Runtime: flashir against FLASH-pytorch exported by torch.onnx, interleaved in one process.

    pip install --no-deps --target rival FLASH-pytorch einops rotary-embedding-torch
    pip install --target rival onnxscript
    PYTHONPATH=rival python -m flashir_onnx.experiments.layer --seq-len 4096 --d-model 768 --chunk 256

They have the same architecture but not the same function (see flashir_torch.experiments.layer). All products have the
same sizes.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort

import flashir
from flashir.bench.interleaved import Samples, interleaved
from flashir.errors import TargetError
from flashir.ir import Builder

RIVAL, NEEDED = "FLASH-pytorch", ("torch", "flash_pytorch", "rotary_embedding_torch", "onnxscript")


def measure(seq_len: int, d_model: int, chunk: int, cumsum: str, rounds: int) -> dict[str, tuple[float, Samples]]:
    """The export time in seconds and the samples of both. Raises TargetError if a needed package is missing."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise TargetError(f"{', '.join(missing)} cannot be imported", hint=f"see the head of {__name__}")
    x = np.random.default_rng(0).standard_normal((1, seq_len, d_model)).astype(np.float32)
    with TemporaryDirectory() as folder:
        exports = {"flashir": _ours(Path(folder), d_model, chunk, cumsum), RIVAL: _rival(Path(folder), x, chunk)}
        sessions = {name: _session(path) for name, (_, path) in exports.items()}
    runs = {name: (lambda s=session: s.run(None, {s.get_inputs()[0].name: x})) for name, session in sessions.items()}
    samples = interleaved(runs, rounds)
    return {name: (exports[name][0], samples[name]) for name in exports}


def _ours(folder: Path, d_model: int, chunk: int, cumsum: str) -> tuple[float, Path]:
    """Export with flashir, verified, for any batch and length."""
    b = Builder("layer")
    graph = b.finish(b.flash(b.input("x", f"f32[B, T, {d_model}]"), chunk=chunk, cumsum=cumsum, causal=True))
    start = time.perf_counter()
    exported = flashir.export(graph, folder / "ours", target="onnx:cpu", seed=0)
    return time.perf_counter() - start, exported.path


def _rival(folder: Path, x: Any, chunk: int) -> tuple[float, Path]:
    """Export with torch.onnx, for one length."""
    torch: Any = import_module("torch")
    rotary = import_module("rotary_embedding_torch").RotaryEmbedding(dim=32)
    net: Any = import_module("flash_pytorch").FLASH(
        dim=x.shape[2], group_size=chunk, causal=True, rotary_pos_emb=rotary
    )
    path = folder / "rival.onnx"
    start = time.perf_counter()
    torch.onnx.export(net.eval(), (torch.from_numpy(x),), dynamo=True, verbose=False).save(path)
    return time.perf_counter() - start, path


def _session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle sessions must not occupy cores
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq-len", type=int, default=4096)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--cumsum", default="scan", choices=("scan", "matmul", "native"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    settings = vars(parser.parse_args())
    as_json = settings.pop("json")
    results = measure(**settings)
    (export, ours), (other_export, other) = results["flashir"], results[RIVAL]
    if as_json:
        rows = {name: {"export_s": seconds, "ms": samples.median} for name, (seconds, samples) in results.items()}
        print(json.dumps({**settings, "layers": rows, "ratio": other.ratio(ours)}))
        return
    print(", ".join(f"{name} {value}" for name, value in settings.items()))
    for name, (seconds, samples) in results.items():
        print(f"{name:14}  run {samples.median:8.1f} ms   export {seconds:6.2f} s")
    print(f"{RIVAL} takes {other.ratio(ours):.2f} times as long to run, {other_export / export:.1f} to export")


if __name__ == "__main__":
    main()
