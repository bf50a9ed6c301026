"""Compares MossFormer2_SS, exported by flashir to ONNX Runtime, with PyTorch: published size, random weights.

python -m flashir_import.experiments.separation --samples 16000 79984 --rounds 5
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

import flashir

LOUDNESS = 0.1


def main(arguments: Sequence[str]) -> int:
    """The command line. Returns 1 if the lengths differ."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, nargs="+", default=[16000, 79984])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    settings = parser.parse_args(arguments)
    package = find_spec("clearvoice")
    assert package is not None and package.submodule_search_locations is not None
    sys.path.append(next(iter(package.submodule_search_locations)))
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    module = import_module("models.mossformer2_ss.mossformer2").MossFormer(num_blocks=settings.layers).eval()
    imported = flashir.convert(module, verify="off")
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        flashir.export(imported.model, out, target="onnx:cpu", params=imported.params, seq_len=settings.samples[0])
        session = ort.InferenceSession(str(out / "model.onnx"), options)
    for samples in settings.samples:
        wave = (np.random.default_rng(0).standard_normal((1, samples)) * LOUDNESS).astype(np.float32)
        feed = {session.get_inputs()[0].name: wave}
        ours, theirs = [], []
        with torch.no_grad():
            wanted = torch.stack(module(torch.from_numpy(wave)), -1).numpy()
            got = session.run(None, feed)[0]
            if got.shape != wanted.shape:
                print(f"wanted {wanted.shape}, got {got.shape}")
                return 1
            for _ in range(settings.rounds):
                start = time.perf_counter()
                session.run(None, feed)
                between = time.perf_counter()
                module(torch.from_numpy(wave))
                ours.append(between - start)
                theirs.append(time.perf_counter() - between)
        apart = np.abs(got - wanted).max() / np.abs(wanted).max()
        ratio = median(their / our for our, their in zip(ours, theirs))
        print(f"{samples} samples: flashir {median(ours):.2f} s, PyTorch {median(theirs):.2f} s, {ratio:.2f} times")
        print(f"{samples} samples: {apart:.1e} apart", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
