"""Checkpoints: a folder with `model.fir` (chunk settled), `params.safetensors`, and a manifest of digests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.errors import ArtefactError
from flashir.files import atomic_write, reading, sha256
from flashir.ir import Graph, dumps
from flashir.models import load
from flashir.parameters import checked, load_params, save_params
from flashir.passes.choose import choosers, is_open

MODEL, PARAMS, MANIFEST = "model.fir", "params.safetensors", "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """A model and the parameters that it was trained to."""

    model: Graph
    params: dict[str, npt.NDArray[np.float32]]


def save_checkpoint(model: Graph, params: Mapping[str, Any], folder: str | Path) -> Path:
    """Write a checkpoint. The manifest comes last: without it, or with another, the folder is no checkpoint.

    Raises:
        ArtefactError: a file cannot be written, or a chunk is still open.
        ParameterError: the parameters are not the model's.
    """
    folder = Path(folder)
    if any(is_open(node, "chunk") for node in choosers(model)):
        raise ArtefactError("the chunk must be chosen before a model has parameters to save", where=str(folder))
    arrays = checked(model, params)
    if (folder / MANIFEST).exists():
        raise ArtefactError("there is a checkpoint already", where=str(folder), mend="choose another folder")
    text = dumps(model).encode()
    atomic_write(folder / MODEL, lambda file: file.write(text))
    save_params(arrays, folder / PARAMS)
    manifest = {"schema": SCHEMA, "sha256": {name: sha256(folder / name) for name in (MODEL, PARAMS)}}
    atomic_write(folder / MANIFEST, lambda file: file.write(json.dumps(manifest, indent=2).encode()))
    return folder


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint, every digest verified.

    Raises:
        ArtefactError: the folder is no checkpoint, and every file that is missing or damaged.
        IRError, ParameterError: what the files hold is not well formed, or does not fit together.
    """
    folder = Path(folder)
    damaged = [f"{name} {problem}" for name, problem in _damage(folder)]
    if damaged:
        raise ArtefactError(damaged, where=str(folder), mend="get a good copy of the checkpoint")
    model = load(folder / MODEL)
    return Checkpoint(model, checked(model, load_params(folder / PARAMS)))


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder says that it is a checkpoint."""
    return (Path(folder) / MANIFEST).is_file()


def _damage(folder: Path) -> list[tuple[str, str]]:
    """What is wrong with each file, by the manifest."""
    path = folder / MANIFEST
    with reading(path):
        text = path.read_bytes()
    try:
        digests = json.loads(text)["sha256"]
        listed = {name: str(digests[name]) for name in (MODEL, PARAMS)}
    except (ValueError, KeyError, TypeError):
        return [(MANIFEST, "is damaged")]
    found = []
    for name, digest in listed.items():
        if not (folder / name).is_file():
            found.append((name, "is missing"))
        elif sha256(folder / name) != digest:
            found.append((name, "is damaged: its SHA-256 is not the one in the manifest"))
    return found
