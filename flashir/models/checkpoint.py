"""Checkpoints: a folder with `model.fir` (chunk settled), `params.safetensors`, and a manifest of digests.

A checkpoint of a training run also has `tokenizer.json`, `reading.json` (how training tokenised its texts),
`labels.json` (the names of the labels that it predicts), and the state to resume from in `state/`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.arguments import typed
from flashir.backends.optimizer_state import Moments
from flashir.errors import ArtefactError, InputError
from flashir.files.atomic import atomic_folder, atomic_write, sha256
from flashir.files.foreign import SMALL, guarded, parse_json, read_bytes
from flashir.ir import Graph, dumps
from flashir.models.end_tokens import Reading
from flashir.models.load import load
from flashir.models.parameters import checked, load_params, save_params
from flashir.transforms.settle_choices import undecided

MODEL, PARAMS, MANIFEST, TOKENIZER = "model.fir", "params.safetensors", "manifest.json", "tokenizer.json"
READING, LABELS = "reading.json", "labels.json"
OPTIMIZER, POSITION = "state/optimizer.safetensors", "state/position.json"
RECIPE, CHECKPOINTS = "recipe.toml", "checkpoints"
"""The contents of a run: its recipe, and a folder of checkpoints named like `step-000200`."""

FILES = (MODEL, PARAMS, TOKENIZER, READING, LABELS, OPTIMIZER, POSITION)
SCHEMA = 1


@dataclass(frozen=True)
class _Manifest:
    sha256: dict[str, str]
    schema: int


@dataclass(frozen=True)
class State:
    """The state that a run resumes from, besides its parameters.

    Args:
        optimizer: as returned by `Trainer.state`.
        position: the position in the data and in the schedule; any JSON object.
    """

    optimizer: Mapping[str, npt.NDArray[Any]]
    position: Mapping[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A model and its trained parameters.

    Args:
        model: the model, with its chunk settled.
        params: parameters by full name.
        tokenizer: the tokenizer file; None if there is none.
        reading: how training tokenised texts; None if unknown.
        labels: the names of the labels, in the order of the scores; empty if it predicts tokens.
    """

    model: Graph
    params: dict[str, npt.NDArray[np.float32]]
    tokenizer: Path | None = None
    reading: Reading | None = None
    labels: tuple[str, ...] = ()


@typed
def save_checkpoint(
    model: Graph,
    params: Mapping[str, Any],
    folder: str | Path,
    *,
    tokenizer: Path | None = None,
    reading: Reading | None = None,
    labels: Sequence[str] = (),
    state: State | None = None,
) -> Path:
    """Write a checkpoint atomically.

    Args:
        model: the model, with its chunk settled.
        params: parameters by full name.
        folder: the folder to create; may exist if it is empty.
        tokenizer: a tokenizer file to copy into the checkpoint.
        reading: how training tokenised texts.
        labels: the names of the labels that the model predicts.
        state: the state of the training run.

    Raises:
        ArtefactError: a file cannot be written, a chunk is still open, or the folder is in use.
        ParameterError: the parameters do not fit the model, or are not finite.
    """
    folder = Path(folder)
    if names := undecided(model):
        problem = f"the {' and the '.join(names)} must be chosen before a model has parameters to save"
        raise ArtefactError(problem, where=str(folder))
    arrays = checked(model, params)
    if is_checkpoint(folder):
        raise ArtefactError("there is a checkpoint already", where=str(folder), hint="choose another folder")

    def fill(unfinished: Path) -> None:
        _write_text(unfinished / MODEL, dumps(model))
        save_params(arrays, unfinished / PARAMS)
        if tokenizer is not None:
            content = read_bytes(tokenizer, ArtefactError)
            atomic_write(unfinished / TOKENIZER, lambda file: file.write(content))
        if reading is not None:
            _write_text(unfinished / READING, json.dumps(reading.as_dict(), indent=2))
        if labels:
            _write_text(unfinished / LABELS, json.dumps(list(labels), ensure_ascii=False, indent=2))
        if state is not None:
            save_params(state.optimizer, unfinished / OPTIMIZER)
            _write_text(unfinished / POSITION, json.dumps(state.position, indent=2))
        digests = {name: sha256(unfinished / name) for name in FILES if (unfinished / name).exists()}
        _write_text(unfinished / MANIFEST, json.dumps({"schema": SCHEMA, "sha256": digests}, indent=2))

    atomic_folder(folder, fill)
    return folder


@typed
def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint and verify every digest.

    Args:
        folder: the folder of a checkpoint, or of a run to read its newest checkpoint.

    Raises:
        InputError: the run has no checkpoint.
        ArtefactError: the folder is neither, or files are missing or damaged; lists all of them.
        IRError, ParameterError: the files are malformed, or do not fit together.
    """
    folder = Path(folder)
    if is_run(folder) and not is_checkpoint(folder):
        folder = newest(folder)
    damaged = [f"{name} {problem}" for name, problem in _damage(folder)]
    if damaged:
        raise ArtefactError(damaged, where=str(folder), hint="get a good copy of the checkpoint")
    model = load(folder / MODEL)
    tokenizer = folder / TOKENIZER
    params = checked(model, load_params(folder / PARAMS))
    labels = _labels(folder / LABELS)
    return Checkpoint(model, params, tokenizer if tokenizer.exists() else None, _reading(folder / READING), labels)


def load_state(folder: str | Path, params: Mapping[str, Any]) -> State:
    """Read the state to resume from, from a checkpoint with these parameters.

    Raises:
        ArtefactError: the checkpoint has no state.
        ParameterError: the optimiser state is damaged, or belongs to another model.
    """
    folder = Path(folder)
    if not (folder / POSITION).exists():
        raise ArtefactError("this checkpoint has no state to resume from", where=str(folder))
    position = parse_json(_small(folder / POSITION), folder / POSITION, ArtefactError, dict[str, Any])
    optimizer = load_params(folder / OPTIMIZER)
    Moments.read(optimizer, params)
    return State(optimizer, position)


def read_params(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """Read the parameters of a safetensors file, a checkpoint, or the newest checkpoint of a run.

    Raises:
        ParameterError: as for `load_params`.
        InputError, ArtefactError: as for `load_checkpoint`.
    """
    path = Path(path)
    return load_checkpoint(path).params if is_checkpoint(path) or is_run(path) else load_params(path)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run."""
    return (folder / RECIPE).is_file()


def in_order(run: Path) -> list[Path]:
    """All checkpoints of a run, oldest first."""
    folders = (path for path in (run / CHECKPOINTS).glob("step-*") if re.fullmatch(r"step-\d+", path.name))
    return sorted(folders, key=step_of)


def newest(run: Path) -> Path:
    """The last checkpoint of a run. Raises InputError if there is none."""
    checkpoints = in_order(run)
    if not checkpoints:
        raise InputError(
            "there is no checkpoint to resume from",
            where=str(run / CHECKPOINTS),
            hint="restore one, or start the run again in another folder",
        )
    return checkpoints[-1]


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint: 200 for `step-000200`."""
    return int(checkpoint.name.rpartition("-")[2])


def is_checkpoint(folder: str | Path) -> bool:
    """Whether a folder is a checkpoint."""
    return (Path(folder) / MANIFEST).is_file()


def _reading(path: Path) -> Reading | None:
    """How training tokenised texts; None if unknown. Raises ArtefactError."""
    if not path.exists():
        return None
    problem, hint = "does not say what documents end with", "get a good copy of the checkpoint"
    with guarded(path, ArtefactError, problem, hint):
        return Reading.of(parse_json(_small(path), path, ArtefactError, dict[str, Any], problem=problem, hint=hint))


def _labels(path: Path) -> tuple[str, ...]:
    """The names of the labels; none if the file does not exist. Raises ArtefactError."""
    return parse_json(_small(path), path, ArtefactError, tuple[str, ...]) if path.exists() else ()


def _damage(folder: Path) -> list[tuple[str, str]]:
    """The missing and damaged files by the manifest, each with its problem."""
    path = folder / MANIFEST
    text = _small(path)
    try:
        manifest = parse_json(text, path, ArtefactError, _Manifest)
    except ArtefactError as error:
        return [(MANIFEST, f"is damaged: {error.problems[0]}")]
    if manifest.schema != SCHEMA:
        wanted = f"this version of flashir reads schema {SCHEMA}: use the version of flashir that wrote it"
        return [(MANIFEST, f"has schema {manifest.schema}, {wanted}")]
    digests = manifest.sha256
    if missing := [name for name in (MODEL, PARAMS) if name not in digests]:
        return [(MANIFEST, f"is damaged: it has no digest of {' and '.join(missing)}")]
    listed = {name: digests[name] for name in FILES if name in digests}
    problems = [(name, "is not in the manifest") for name in FILES if name not in listed and (folder / name).exists()]
    for name, digest in listed.items():
        if not (folder / name).is_file():
            problems.append((name, "is missing"))
        elif sha256(folder / name) != digest:
            problems.append((name, "is damaged: its SHA-256 is not the one in the manifest"))
    return problems


def _small(path: Path) -> bytes:
    return read_bytes(path, ArtefactError, largest=SMALL, problem="cannot read")


def _write_text(path: Path, text: str) -> None:
    atomic_write(path, lambda file: file.write(text.encode()))
