"""Exports every model of the zoo, imports the artefact, and compares the text and the parameters exactly.

python -m flashir_import.experiments.round_trip --targets onnx:cpu torch:cpu jax:cpu
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence

import numpy as np

import flashir
from flashir.models.load import model_names

TASKS = ("lm", "mlm")


def comes_back(name: str, task: str, target: str) -> bool:
    """Whether a small model with random parameters comes back with the same text and the same parameters."""
    model = flashir.model(name, size="tiny", task=task, vocab=64)
    with tempfile.TemporaryDirectory() as folder:
        exported = flashir.export(model, folder, target=target, seed=1, seq_len=256)
        converted = flashir.convert(folder)
    params = flashir.init(exported.plan.graph, seed=1)
    same = converted.params.keys() == params.keys() and flashir.dumps(converted.model) == flashir.dumps(
        exported.plan.graph
    )
    return same and all(np.array_equal(array, converted.params[name]) for name, array in params.items())


def main(arguments: Sequence[str]) -> int:
    """The command line. Returns 1 if a model differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="+", default=["onnx:cpu"])
    options = parser.parse_args(arguments)
    names = model_names()
    differ = 0
    for target in options.targets:
        equal = [(name, task, comes_back(name, task, target)) for name in names for task in TASKS]
        differ += sum(not same for *_, same in equal)
        print(f"{target}: {sum(same for *_, same in equal)} of {len(equal)} models come back exactly", flush=True)
        print(*(f"   {name} {task} differs\n" for name, task, same in equal if not same), sep="", end="", flush=True)
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
