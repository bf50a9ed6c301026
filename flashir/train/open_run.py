"""Opens a run, ready to resume from its newest checkpoint on any target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashir.backends.lowering import Lowering
from flashir.backends.training import Trainer
from flashir.errors import ArtefactError, FlashirError
from flashir.execution.prepare import lowered
from flashir.execution.trainer import new_trainer, trainable
from flashir.ir import Graph
from flashir.machine.device import available_device
from flashir.machine.targets import target as find_target
from flashir.models.checkpoint import RECIPE, State, load_checkpoint, load_state, step_of
from flashir.planning.plan import Plan, plan
from flashir.planning.roofline import floor
from flashir.train.data import Tokenizer
from flashir.train.datasets import read_data
from flashir.train.distributed import ALONE, Meeting, Report
from flashir.train.feed import Data, Feed
from flashir.train.recipe import Recipe
from flashir.train.run_folder import RunFolder
from flashir.transforms.settle_choices import reset_execution


@dataclass(frozen=True)
class Run:
    """A run that is ready to train.

    Args:
        folder: the folder of the run.
        recipe: the settings.
        plan: the model with every choice settled, for one part of a batch.
        trainer: the trainer, with the parameters and the optimiser state.
        data: the data.
        batches: the parts of batches in order.
        held_out: the batches to validate on; without labels if there are none.
        done: the number of steps done.
        floor_ms: the lower bound of the time of a step by the roofline of the target, in milliseconds.
        is_first: whether this process writes. Only the first of several does.
    """

    folder: RunFolder
    recipe: Recipe
    plan: Plan
    trainer: Trainer
    data: Data
    batches: Feed
    held_out: Feed
    done: int
    floor_ms: float
    is_first: bool = True

    def state(self, done: int) -> State:
        """The state to resume from after `done` steps."""
        return State(self.trainer.state(), {"step": done, **self.data.digests})


@contextmanager
def opened(
    folder: RunFolder,
    report: Report = lambda *_: None,
    data: Data | None = None,
    meeting: Meeting = ALONE,
    **changes: Any,
) -> Iterator[Run]:
    """A run ready to resume from its newest checkpoint, bit for bit if no setting changes. Its folder is locked.

    Every process reads the checkpoint. Only the first one locks the folder and writes.

    Args:
        folder: the folder of the run.
        report: called with the progress of preparing the data.
        data: the data, if already loaded.
        meeting: the processes that train together.
        changes: settings that may change, such as `target` or `keep`.

    Raises:
        ArtefactError: another process uses the run, a file is damaged, or the data have changed.
        InputError, SettingError, TargetError: as `begin`, or a setting cannot change.
    """
    is_first = meeting.processes.is_first
    with ExitStack() as held:

        def load(report: Report) -> _Loaded:
            if is_first:
                held.enter_context(folder.held())
            return _loaded(folder, report, data, changes)

        def write(_: Report) -> None:
            if is_first:
                folder.curve.cut(loaded.done)
                loaded.recipe.write(folder.path / RECIPE)

        loaded = meeting.together(load, report)
        trainer = loaded.trainer()
        meeting.together(write)
        yield loaded.run(folder, trainer, is_first)


@dataclass(frozen=True)
class _Loaded:
    """The checkpoint to resume from, planned for its target."""

    recipe: Recipe
    plan: Plan
    params: Mapping[str, Any]
    state: State
    data: Data
    done: int

    def trainer(self) -> Trainer:
        """The trainer. Several processes must create theirs at the same time."""
        recipe, known = self.recipe, lowered(self.plan, Lowering.of(self.recipe.target))
        return new_trainer(
            self.plan.graph,
            recipe.target,
            self.params,
            recipe.optimiser,
            lowered=known,
            state=self.state.optimizer,
            remat=recipe.remat,
        )

    def run(self, folder: RunFolder, trainer: Trainer, is_first: bool) -> Run:
        """Add the batches and the roofline."""
        feeds = self.data.feeds(self.plan.graph, self.recipe)
        floor_ms = floor(self.plan, find_target(self.recipe.target))[0] * self.recipe.accumulate
        return Run(folder, self.recipe, self.plan, trainer, self.data, *feeds, self.done, floor_ms, is_first)


def _loaded(folder: RunFolder, report: Report, data: Data | None, changes: Mapping[str, Any]) -> _Loaded:
    last = folder.newest()
    try:
        checkpoint = load_checkpoint(last)
        state = load_state(last, checkpoint.params)
    except FlashirError as error:
        raise _damaged(folder, last, error) from None
    recipe = folder.recipe
    before, recipe = recipe.target, recipe.changed(**changes).located()
    data = _read(folder, checkpoint.model, recipe, report) if data is None else data
    _check_data(folder, state, data)
    trainable(recipe.target)
    available_device(recipe.target)
    model = checkpoint.model if recipe.target == before else reset_execution(checkpoint.model)
    planned = plan(model, recipe.target, recipe.rows or 1, recipe.seq_len, True, params=checkpoint.params)
    return _Loaded(recipe, planned, checkpoint.params, state, data, step_of(last))


def _read(folder: RunFolder, model: Graph, recipe: Recipe, report: Report) -> Data:
    """The data of a run. Raises ArtefactError if it learns a task that has no files."""
    if not recipe.data:
        hint = "`flashir compare` resumes it, with the command that began it"
        raise ArtefactError("this run learns a task, not data in files", where=str(folder.path), hint=hint)
    tokenizer = Tokenizer.read(folder.tokenizer).reads(recipe.reading) if folder.tokenizer.exists() else None
    return read_data(model, recipe, tokenizer, report)


def _check_data(folder: RunFolder, state: State, data: Data) -> None:
    """Raises ArtefactError if the data have changed since the run began."""
    for name, digest in data.digests.items():
        if state.position.get(name, digest) != digest:
            raise ArtefactError(
                f"the content of {name} has changed since the run began",
                where=str(folder.path),
                hint="restore the files, or start a new run from the checkpoint",
            )


def _damaged(folder: RunFolder, last: Path, error: FlashirError) -> ArtefactError:
    """The error for a newest checkpoint that cannot be read."""
    earlier = folder.checkpoints()[:-1]
    hint = f"remove it to resume from {earlier[-1].name}" if earlier else "there is no earlier checkpoint"
    return ArtefactError(error.problems, where=str(last), hint=hint)
