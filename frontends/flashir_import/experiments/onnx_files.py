"""Compares a model exported by torch.onnx with the same model imported and exported by flashir: time, size, speed.

    python -m flashir_import.experiments.onnx_files --length 4096 --rounds 9

Both files run in ONNX Runtime in turn, on the same ids. For torch.onnx the rotary cache is off, since it cannot be
traced, and the length of the example is not a multiple of the group size, since otherwise the file takes no other
length.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort

import flashir
from flashir_import.experiments.draw import randomised

SETTINGS = {"dim": 256, "depth": 2, "num_tokens": 256, "group_size": 256, "query_key_dim": 128, "causal": True}
EXAMPLE = 300


def without_cache(module: Any) -> None:
    """Switches the rotary cache off, which cannot be traced."""
    for part in module.modules():
        if hasattr(part, "cache_if_possible"):
            part.cache_if_possible = False


def export_torch(module: Any, folder: Path) -> Path:
    """Exports with torch.onnx, for any batch and length. Returns the file."""
    import torch

    without_cache(module)
    axes = {"x": {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}}
    path = folder / "torch.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids = torch.zeros(2, EXAMPLE, dtype=torch.int64)
        torch.onnx.export(module, (ids,), path, dynamo=True, dynamic_shapes=axes, verbose=False)
    return path


def size_of(path: Path) -> int:
    """The bytes of a model and its external data."""
    return sum(file.stat().st_size for file in path.parent.iterdir())


def session(path: Path, threads: int) -> Any:
    """A session of ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options)


def results(session: Any, ids: Any) -> Any:
    """The only result of a session."""
    return session.run(None, {session.get_inputs()[0].name: ids})[0]


def alternately(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """The times of functions that are called in turn, in milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    from flash_pytorch import FLASHTransformer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args(arguments)
    module = randomised(FLASHTransformer(**SETTINGS, norm_type="layernorm"), 0)
    ids = np.random.default_rng(0).integers(0, SETTINGS["num_tokens"], (1, settings.length))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "torch").mkdir()
        began = time.perf_counter()
        imported = flashir.convert(module)
        converted = time.perf_counter()
        flashir.export(
            imported.model, folder / "flashir", target="onnx:cpu", params=imported.params, seq_len=settings.length
        )
        exported = time.perf_counter()
        theirs = export_torch(module, folder / "torch")
        ended = time.perf_counter()
        files = {"flashir": folder / "flashir" / "model.onnx", "torch.onnx": theirs}
        sessions = {name: session(path, settings.threads) for name, path in files.items()}
        logits = {name: results(one, ids) for name, one in sessions.items()}
        calls = {name: partial(results, one, ids) for name, one in sessions.items()}
        times = alternately(calls, settings.rounds)
        wanted, got = logits["torch.onnx"], logits["flashir"]
        print(f"apart {np.abs(got - wanted).max() / np.abs(wanted).max():.1e}")
        print(f"import and verify {converted - began:.1f} s, export {exported - converted:.1f} s")
        print(f"torch.onnx {ended - exported:.1f} s, {(ended - exported) / (exported - converted):.1f} times as long")
        for name, path in files.items():
            print(f"{name} {size_of(path) / 2**20:.2f} MiB, {median(times[name]):.0f} ms")
        pairs = [theirs / ours for ours, theirs in zip(times["flashir"], times["torch.onnx"])]
        print(f"torch.onnx takes {median(pairs):.2f} times as long, {min(pairs):.2f} to {max(pairs):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
