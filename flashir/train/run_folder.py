"""The folder of a run: recipe, tokenizer, curve, and the newest checkpoints.

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
    """One run on disk."""

    path: Path

    @property
    def recipe(self) -> Recipe:
        """Its settings. Raises InputError, SettingError."""
        return Recipe(**read_recipe(self.path / RECIPE))

    @property
    def tokenizer(self) -> Path:
        """The file of its tokenizer."""
        return self.path / TOKENIZER

    @property
    def curve(self) -> Curve:
        """Its curve."""
        return Curve(self.path / CURVE)

    @property
    def board(self) -> Path:
        """What TensorBoard reads."""
        return self.path / BOARD

    def checkpoints(self) -> list[Path]:
        """All there are, the oldest first."""
        return in_order(self.path)

    def newest(self) -> Path:
        """The last checkpoint. Raises InputError where there is none."""
        return newest(self.path)

    def save(self, step: int, model: Graph, params: Mapping[str, Any], state: State, keep: int) -> Path:
        """Write the checkpoint after a step, then remove all but the newest `keep`. Raises ArtefactError."""
        self.curve.sync()
        made = _save(self.path, step, model, params, self.tokenizer, self.recipe, state)
        for old in self.checkpoints()[:-keep]:
            remove_folder(old)
        return made

    def said(self) -> str:
        """What is kept of it, for who interrupts it."""
        goes_on = spoken("`opened` goes on from there", f"`flashir train --resume {self.path}` goes on")
        return f"the run is kept as of {self.newest().name}; {goes_on}"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the folder to oneself, without what a killed run left. Raises ArtefactError where another has it."""
        with locked(self.path, wait=False):
            for folder in (self.path, self.path / CHECKPOINTS):
                sweep(folder)
            yield


def create(path: Path, recipe: Recipe, tokenizer: Path, model: Graph, params: Mapping[str, Any], state: State) -> None:
    """Make the folder of a run, its first checkpoint that of step 0; whole or not at all.

    Raises:
        ArtefactError: it cannot be written, or is there already.
    """
    check_free(path)

    def fill(unfinished: Path) -> None:
        recipe.write(unfinished / RECIPE)
        with reading(tokenizer):
            content = tokenizer.read_bytes()
        atomic_write(unfinished / TOKENIZER, lambda file: file.write(content))
        _save(unfinished, 0, model, params, tokenizer, recipe, state)

    atomic_folder(path, fill)


def check_free(path: Path) -> None:
    """Raises ArtefactError where a run cannot be made, as there is something already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        goes_on = spoken("`opened` goes on with a run that is there", f"--resume {path} goes on with it")
        hint = goes_on if is_run(path) else f"choose another folder{spoken('', ' with -o')}"
        raise ArtefactError("there is something already", where=str(path), hint=hint)


def run_around(path: Path) -> Path | None:
    """The folder of the run that a path is, or lies in as a checkpoint does."""
    path = path.absolute()
    return next((each for each in (path, path.parent.parent) if is_run(each)), None)


def found_run(path: Path) -> RunFolder:
    """The run of that folder. Raises InputError where it is none."""
    if is_run(path):
        return RunFolder(path)
    around = run_around(path)
    raise InputError(
        "this is not the folder of a run (it has no recipe.toml)" if path.exists() else "there is no such folder",
        where=str(path),
        hint=spoken(
            f"give {around or 'the folder that was given when the run began'}",
            f"--resume {around or 'takes the folder that -o named when the run began'}",
        ),
    )


def _save(
    path: Path, step: int, model: Graph, params: Mapping[str, Any], tokenizer: Path, recipe: Recipe, state: State
) -> Path:
    folder = path / CHECKPOINTS / f"step-{step:06d}"
    return save_checkpoint(model, params, folder, tokenizer=tokenizer, reading=recipe.reading, state=state)
