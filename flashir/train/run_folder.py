"""The folder of a run: recipe, tokenizer, curve and the newest checkpoints.

RUN/recipe.toml  tokenizer.json  metrics.jsonl  tensorboard/  checkpoints/step-000200/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashir.errors import ArtefactError, InputError, spoken
from flashir.files.atomic import atomic_folder, atomic_write, locked, reading, remove_folder, sweep
from flashir.ir import Graph
from flashir.models.checkpoint import CHECKPOINTS, RECIPE, TOKENIZER, State, in_order, is_run, newest, save_checkpoint
from flashir.train.metrics import Curve
from flashir.train.recipe import Recipe, read_recipe

CURVE, BOARD = "metrics.jsonl", "tensorboard"


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    path: Path

    @property
    def recipe(self) -> Recipe:
        """The settings of the run. Raises InputError, SettingError."""
        return Recipe(**read_recipe(self.path / RECIPE))

    @property
    def tokenizer(self) -> Path:
        """The tokenizer file. A model of features has none."""
        return self.path / TOKENIZER

    @property
    def curve(self) -> Curve:
        """The curve of the run."""
        return Curve(self.path / CURVE)

    @property
    def board(self) -> Path:
        """The folder of the TensorBoard files."""
        return self.path / BOARD

    def checkpoints(self) -> list[Path]:
        """All checkpoints, the oldest first."""
        return in_order(self.path)

    def newest(self) -> Path:
        """The newest checkpoint. Raises InputError if there is none."""
        return newest(self.path)

    def save(self, step: int, model: Graph, params: Mapping[str, Any], state: State, keep: int) -> Path:
        """Write the checkpoint after a step, then remove all but the newest `keep`. Raises ArtefactError."""
        self.curve.sync()
        tokenizer = self.tokenizer if self.tokenizer.exists() else None
        checkpoint = _save(self.path, step, model, params, tokenizer, self.recipe, state)
        for old in self.checkpoints()[:-keep]:
            remove_folder(old)
        return checkpoint

    def interrupted(self) -> str:
        """The message after an interrupt: what is saved, and how to resume."""
        hint = spoken("`opened` resumes from there", f"`flashir train --resume {self.path}` resumes it")
        return f"the run is saved up to {self.newest().name}; {hint}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder and remove leftovers of killed runs. Raises ArtefactError if another process holds it."""
        with locked(self.path, wait=False):
            for folder in (self.path, self.path / CHECKPOINTS):
                sweep(folder)
            yield


def create(
    path: Path, recipe: Recipe, tokenizer: Path | None, model: Graph, params: Mapping[str, Any], state: State
) -> None:
    """Create the folder of a run with the checkpoint of step 0, completely or not at all.

    Raises:
        ArtefactError: the folder cannot be written, or already exists.
    """
    check_free(path)

    def fill(unfinished: Path) -> None:
        recipe.write(unfinished / RECIPE)
        if tokenizer is not None:
            with reading(tokenizer):
                content = tokenizer.read_bytes()
            atomic_write(unfinished / TOKENIZER, lambda file: file.write(content))
        _save(unfinished, 0, model, params, tokenizer, recipe, state)

    atomic_folder(path, fill)


def check_free(path: Path) -> None:
    """Raises ArtefactError if the path already exists, except as an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        resume = spoken("`opened` resumes an existing run", f"--resume {path} resumes it")
        hint = resume if is_run(path) else f"choose another folder{spoken('', ' with -o')}"
        raise ArtefactError("already exists", where=str(path), hint=hint)


def run_around(path: Path) -> Path | None:
    """The run at a path, or the run of the checkpoint at a path; None if it is neither."""
    path = path.absolute()
    return next((folder for folder in (path, path.parent.parent) if is_run(folder)), None)


def found_run(path: Path) -> RunFolder:
    """The run in a folder. Raises InputError if it is not a run."""
    if is_run(path):
        return RunFolder(path)
    around = run_around(path)
    raise InputError(
        "this is not the folder of a run (it has no recipe.toml)" if path.exists() else "there is no such folder",
        where=str(path),
        hint=spoken(
            f"give {around or 'the folder of the run'}",
            f"--resume {around or 'takes the folder that the run was created with (-o)'}",
        ),
    )


def _save(
    path: Path, step: int, model: Graph, params: Mapping[str, Any], tokenizer: Path | None, recipe: Recipe, state: State
) -> Path:
    folder = path / CHECKPOINTS / f"step-{step:06d}"
    return save_checkpoint(
        model, params, folder, tokenizer=tokenizer, reading=recipe.reading, labels=recipe.labels, state=state
    )
