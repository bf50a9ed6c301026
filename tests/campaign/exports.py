"""Exports of random models, run in another process with the runtime of their format only."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from flashir import export
from flashir.errors import ArtefactError
from flashir.generation.generate import restored
from tests.campaign.agreement import LEAST, Array, Reference
from tests.campaign.case import Case
from tests.campaign.compose import drawn
from tests.campaign.decode import steps_of
from tests.campaign.values import note, settled, workload
from tests.campaign.verdict import WrongError, sign_of

TARGETS = ("onnx:cpu", "onnx:cpu", "onnx:cpu", "onnx:cpu", "torch:cpu", "torch:cpu", "jax:cpu")


def case(case: Case) -> str:
    """An export of a model, in some cases with a decoder."""
    random, target = case.random, case.random.choice(TARGETS)
    decode = target == "onnx:cpu" and random.random() < 0.3
    model = settled(drawn(random, causal=True if decode else None), target)
    note(case, model, target)
    reference = Reference(model)
    if not reference.usable:
        return "numbers too large"
    room: dict[str, Any] = {"max_len": max(2, model.length), "length": max(2, model.length)} if decode else {}
    out = case.folder / "out"
    try:
        made = export(model.graph, out, target, reference.params, decode=decode, **room, **workload(model))
    except ArtefactError as error:
        raise WrongError(
            f"{target}: an export fails its own checks: {sign_of(error.message)}", error.message
        ) from error
    results = run_elsewhere(target.partition(":")[0], made.path.parent, reference.arrays, case.folder)
    reference.compare(results, f"{target}, elsewhere")
    if not decode or model.length < 2 or not len(reference.arrays[0]):
        return f"{target}"
    off = steps_of(restored(made.path.parent), reference, random)
    if not off <= LEAST[model.dtype] and not off <= reference.allowed(0):
        raise WrongError(f"{target}: steps of an export differ from the whole", f"{off:.1e} off")
    return f"{target}, decoder"


def run_elsewhere(kind: str, folder: Path, arrays: list[Array], scratch: Path) -> list[Array]:
    """The results of an artefact in a process without flashir. Raises WrongError if it fails."""
    given, out = scratch / "given.npz", scratch / "results.npz"
    np.savez(given, **{f"x{n}": array for n, array in enumerate(arrays)})  # type: ignore[arg-type]
    reader = _reader(kind)
    assert reader.stdin is not None and reader.stdout is not None
    reader.stdin.write(f"{folder}\t{given}\t{out}\n")
    reader.stdin.flush()
    said = reader.stdout.readline().strip()
    if said != "ok":
        _reader.cache_clear()
        raise WrongError(f"{kind}: an export cannot be run", said or f"the process ended, {reader.wait()}")
    with np.load(out) as archive:
        return [archive[f"y{n}"] for n in range(len(archive.files))]


@cache
def _reader(kind: str) -> subprocess.Popen[str]:
    """The process, which never imports flashir and serves many cases."""
    environment = {name: value for name, value in os.environ.items() if kind == "jax" or name != "PYTHONPATH"}
    line = [sys.executable, str(Path(__file__).with_name("reader.py")), kind]
    return subprocess.Popen(
        line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
