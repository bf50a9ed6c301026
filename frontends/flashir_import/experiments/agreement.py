"""Random models of a package, imported from the module and from its file, against the package in float64.

python -m flashir_import.experiments.agreement flash-pytorch --count 100
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import flashir
from flashir.importing.importer import importers
from flashir_import.experiments.draw import FAMILIES

TARGETS = ("onnx:cpu", "torch:cpu", "jax:cpu")
LIMIT = 2e-5


def agreement(family: str, seed: int, targets: Sequence[str]) -> dict[str, float]:
    """How far the imported model is off the package on each target, at the lengths that tell most, batch 2.

    Raises AssertionError where the file gives another model than the module.
    """
    from safetensors.torch import save_file

    module, told = FAMILIES[family](seed)
    live = flashir.convert(module, family=family)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({name: tensor.clone() for name, tensor in module.state_dict().items()}, path)
        made = flashir.convert(path, family=family, **told)
    assert flashir.dumps(made.model) == flashir.dumps(live.model), "the file and the module give two models"
    assert all(np.array_equal(array, made.params[name]) for name, array in live.params.items())
    structure = next(each for each in importers()[family].structures() if each.name == made.structure)
    forward, settings = structure.live(module, dict(made.options)), dict(made.options)
    runs = {target: flashir.compile(made.model, target=target, params=made.params) for target in targets}
    worst = dict.fromkeys(targets, 0.0)
    for length in structure.lengths(settings):
        inputs = structure.inputs(settings, 2, length, np.random.default_rng(seed + length))
        wanted = forward(*inputs)
        for target, run in runs.items():
            error = np.max(np.abs(run(*inputs) - wanted)) / np.max(np.abs(wanted))
            worst[target] = max(worst[target], float(error))
    return worst


def main(arguments: Sequence[str]) -> int:
    """The command line; 1 where a model is further off than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", choices=list(FAMILIES))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    given = parser.parse_args(arguments)
    seen: list[dict[str, float]] = []
    for seed in range(given.first, given.first + given.count):
        found = agreement(given.family, seed, given.targets)
        seen.append(found)
        print(seed, *(f"{target} {error:.1e}" for target, error in found.items()), flush=True)
    for target in given.targets:
        errors = [each[target] for each in seen]
        print(f"{target}: {len(errors)} models, median {np.median(errors):.1e}, worst {max(errors):.1e}")
    return int(max(max(each.values()) for each in seen) > given.limit)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
