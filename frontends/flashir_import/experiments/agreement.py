"""Compares random models, imported from a module and from its file, with the package in float64.

python -m flashir_import.experiments.agreement flash-pytorch --count 100
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import flashir
from flashir.importing.importer import importers
from flashir_import.experiments.draw import FAMILIES

TARGETS = ("onnx:cpu", "torch:cpu", "jax:cpu")
LIMIT = 2e-5


def agreement(family: str, seed: int, targets: Sequence[str], *, mask: bool = False) -> dict[str, float]:
    """The relative error of the imported model on each target, at the critical lengths, batch 2.

    With `mask`, rows are padded, and the package computes each alone.

    Raises AssertionError if the file gives another model than the module.
    """
    from safetensors.torch import save_file

    module, options = FAMILIES[family](seed)
    masked: dict[str, Any] = {"mask": True} if mask else {}
    live = flashir.convert(module, family=family, **masked)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({name: tensor.clone() for name, tensor in module.state_dict().items()}, path)
        imported = flashir.convert(path, family=family, **options, **masked)
    assert flashir.dumps(imported.model) == flashir.dumps(live.model), "the file and the module give different models"
    assert all(np.array_equal(array, imported.params[name]) for name, array in live.params.items())
    structure = next(kind for kind in importers()[family].structures() if kind.name == imported.structure)
    forward, settings = structure.live(module, dict(imported.options)), dict(imported.options)
    runs = {target: flashir.compile(imported.model, target=target, params=imported.params) for target in targets}
    worst = dict.fromkeys(targets, 0.0)
    for length in structure.lengths(settings):
        inputs = structure.inputs(settings, 2, length, np.random.default_rng(seed + length))
        wanted = forward(*inputs)
        real = inputs[1] if mask else np.ones(wanted.shape[:2], np.bool_)
        for target, run in runs.items():
            error = np.max(np.abs(run(*inputs) - wanted)[real]) / np.max(np.abs(wanted[real]))
            worst[target] = max(worst[target], float(error))
    return worst


def main(arguments: Sequence[str]) -> int:
    """The command line. Returns 1 if an error exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=list(FAMILIES))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mask", action="store_true", help="import models that take a mask, and pad rows")
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    options = parser.parse_args(arguments)
    models: list[dict[str, float]] = []
    for seed in range(options.first, options.first + options.count):
        model = agreement(options.family, seed, options.targets, mask=options.mask)
        models.append(model)
        print(seed, *(f"{target} {error:.1e}" for target, error in model.items()), flush=True)
    for target in options.targets:
        errors = [model[target] for model in models]
        print(f"{target}: {len(errors)} models, median {np.median(errors):.1e}, worst {max(errors):.1e}")
    return int(max(max(model.values()) for model in models) > options.limit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
