"""Raises files that torch.onnx wrote, exports the models again, and compares error and time with the files.

    python -m flashir_import.experiments.onnx_raised --count 10 --length 2048 --rounds 7

Each is a FLASHTransformer of random settings. Both files run in ONNX Runtime in turn, on the same ids.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import flashir
from flashir_import.experiments.draw import randomised
from flashir_import.experiments.onnx_files import alternately, export_torch, results, session


def settings(seed: int) -> dict[str, Any]:
    """Random arguments of FLASHTransformer. No group size divides the length of the example."""
    random = np.random.default_rng(seed)
    choices: dict[str, Sequence[Any]] = {
        "dim": (64, 128, 256),
        "num_tokens": (97, 256),
        "depth": (1, 2),
        "group_size": (32, 48, 64, 128, 256),
        "query_key_dim": (32, 64, 128),
        "expansion_factor": (1.0, 2.0, 1.5),
        "causal": (True, False),
        "norm_type": ("scalenorm", "layernorm"),
        "shift_tokens": (True, False),
        "laplace_attn_fn": (True, False),
        "reduce_group_non_causal_attn": (True, False),
    }
    return {name: of[int(random.integers(len(of)))] for name, of in choices.items()}


def main(arguments: Sequence[str]) -> int:
    """The command line. Returns 1 if a result is further off than a file of float32 may be."""
    from flash_pytorch import FLASHTransformer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    errors, ratios = [], []
    for seed in range(options.first, options.first + options.count):
        chosen = settings(seed)
        module = randomised(FLASHTransformer(**chosen), seed)
        ids = np.random.default_rng(seed).integers(0, chosen["num_tokens"], (1, options.length))
        with tempfile.TemporaryDirectory() as name:
            theirs = export_torch(module, Path(name))
            began = time.perf_counter()
            raised = flashir.convert(theirs)
            took = time.perf_counter() - began
            out = Path(name) / "out"
            flashir.export(raised.model, out, target="onnx:cpu", params=raised.params, seq_len=options.length)
            files = {"torch.onnx": theirs, "flashir": out / "model.onnx"}
            sessions = {name: session(path, options.threads) for name, path in files.items()}
            wanted, got = (results(one, ids) for one in sessions.values())
            calls = {name: partial(results, one, ids) for name, one in sessions.items()}
            times = alternately(calls, options.rounds)
        errors.append(float(np.abs(got - wanted).max() / np.abs(wanted).max()))
        ratios.append(median(slow / fast for slow, fast in zip(times["torch.onnx"], times["flashir"])))
        print(seed, chosen)
        print(
            f"   raised and verified in {took:.1f} s, {errors[-1]:.1e} apart, {ratios[-1]:.2f} times as fast",
            flush=True,
        )
    print(f"{len(errors)} models: apart {max(errors):.1e} at worst, median {median(errors):.1e}")
    print(f"times as fast as the file: median {median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")
    return int(max(errors) > 1e-3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
