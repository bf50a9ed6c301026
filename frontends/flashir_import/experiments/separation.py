"""Compares MossFormer2_SS of the published size, exported by flashir and by torch.onnx, and PyTorch; random weights.

    python -m flashir_import.experiments.separation files/                      # writes the files, which takes minutes
    python -m flashir_import.experiments.separation files/ --samples 16000 79984 --rounds 5

The second command finds the files of the first. All systems run in turn on the same wave. For torch.onnx the rotary
cache is off, since it cannot be traced.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import flashir
from flashir.importing.converted import Converted
from flashir_import.experiments.draw import clearvoice
from flashir_import.experiments.onnx_files import alternately, session, without_cache

LOUDNESS = 0.1
EXAMPLE = 16000
"""Samples of the example for torch.onnx. If its frames filled groups, the file would take no other length."""
OURS, THEIRS, EAGER = "flashir onnx:cpu", "torch.onnx", "PyTorch eager"

Separate = Callable[[Any], Any]
"""A wave [1, L] -> waves [1, L, speakers]"""


def export_torch(module: Any, path: Path) -> None:
    """Exports with torch.onnx, for any length."""
    import torch

    without_cache(module)
    path.parent.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wave, axes = torch.zeros(1, EXAMPLE), {"input": {1: torch.export.Dim("length")}}
        torch.onnx.export(module, (wave,), path, dynamo=True, dynamic_shapes=axes, verbose=False)


def exported(module: Any, imported: Converted, folder: Path) -> dict[str, Path]:
    """The two ONNX files in the folder, written unless they are there."""
    files = {OURS: folder / "flashir" / "model.onnx", THEIRS: folder / "torch" / "model.onnx"}
    writers: dict[str, Callable[[], Any]] = {
        OURS: lambda: flashir.export(
            imported.model, files[OURS].parent, target="onnx:cpu", params=imported.params, seq_len=16000
        ),
        THEIRS: lambda: export_torch(module, files[THEIRS]),
    }
    for name, write in writers.items():
        if not files[name].exists():
            start = time.perf_counter()
            write()
            size = sum(file.stat().st_size for file in files[name].parent.iterdir())
            print(f"{name}: {time.perf_counter() - start:.0f} s to export, {size / 2**20:.1f} MiB", flush=True)
    return files


def of_file(path: Path, threads: int) -> Separate:
    """An ONNX file in ONNX Runtime. torch.onnx writes an output for each speaker."""
    runs = session(path, threads)
    name = runs.get_inputs()[0].name

    def separate(wave: Any) -> Any:
        outputs = runs.run(None, {name: wave})
        return outputs[0] if len(outputs) == 1 else np.stack(outputs, -1)

    return separate


def eager(module: Any) -> Separate:
    """The module of the package."""
    import torch

    def separate(wave: Any) -> Any:
        with torch.no_grad():
            return torch.stack(module(torch.from_numpy(wave)), -1).numpy()

    return separate


def main(arguments: Sequence[str]) -> int:
    """The command line. Returns 1 if flashir's result has another length than the wave."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the ONNX files are, or are written")
    parser.add_argument("--samples", type=int, nargs="*", default=[])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--more", nargs="*", default=[], help="further targets of flashir, such as jax:cpu")
    settings = parser.parse_args(arguments)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    module = clearvoice("mossformer2_ss", "MossFormer")(num_blocks=settings.layers).eval()
    imported = flashir.convert(module, verify="off")
    settings.folder.mkdir(exist_ok=True)
    files = exported(module, imported, settings.folder)
    systems = {name: of_file(path, settings.threads) for name, path in files.items()} | {EAGER: eager(module)}
    systems |= {
        f"flashir {target}": flashir.compile(imported.model, target=target, params=imported.params, seq_len=16000)
        for target in settings.more
    }
    wrong = 0
    for samples in settings.samples:
        wave = (np.random.default_rng(0).standard_normal((1, samples)) * LOUDNESS).astype(np.float32)
        results = {name: separate(wave) for name, separate in systems.items()}
        wanted = results[EAGER]
        calls = {name: partial(separate, wave) for name, separate in systems.items()}
        times = alternately(calls, settings.rounds)
        for name, result in results.items():
            length = result.shape[1]
            wrong += name.startswith("flashir") and length != samples
            common = min(length, samples)
            apart = np.abs(result[:, :common] - wanted[:, :common]).max() / np.abs(wanted).max()
            ratio = median(theirs / ours for ours, theirs in zip(times[OURS], times[name]))
            print(
                f"{samples} samples, {name}: {length} samples, {apart:.1e} apart, {median(times[name]):.0f} ms,"
                f" {ratio:.2f} times as long as {OURS}",
                flush=True,
            )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
