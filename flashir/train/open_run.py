"""Runs are opened: ready to go on from their newest checkpoint, whatever made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashir.backends.protocols import Trainer
from flashir.errors import ArtefactError, FlashirError
from flashir.execution.trainer import new_trainer, trainable
from flashir.machine.device import available_device
from flashir.machine.targets import target as find_target
from flashir.models.checkpoint import RECIPE, State, load_checkpoint, load_state, step_of
from flashir.planning.plan import Plan, plan
from flashir.planning.roofline import floor
from flashir.train.data import Batches, Corpus, Tokenizer
from flashir.train.distributed import ALONE, Meeting
from flashir.train.recipe import Recipe
from flashir.train.run_folder import RunFolder
from flashir.train.setup import Data, Told, batches_of, corpora
from flashir.transforms.settle_choices import reset_execution


@dataclass(frozen=True)
class Run:
    """A run that is ready to go on.

    Args:
        folder: where it lies.
        recipe: its settings.
        plan: the model with every choice made, for one part of a batch.
        trainer: the model in training.
        batches: the parts of batches, in order.
        held_out: what the loss is validated on; without a label where there is no held-out text.
        done: steps made so far.
        floor_ms: no step can be faster by the roofline of the target.
        is_first: whether this process writes; of several that train together, only the first does.
    """

    folder: RunFolder
    recipe: Recipe
    plan: Plan
    trainer: Trainer
    batches: Batches
    held_out: Batches
    done: int
    floor_ms: float
    is_first: bool = True

    def state(self, done: int) -> State:
        """What another process goes on from after so many steps."""
        position = {"step": done, "data": self.batches.corpus.digest, "held_out": self.held_out.corpus.digest}
        return State(self.trainer.state(), position)


@contextmanager
def opened(
    folder: RunFolder,
    told: Told = lambda *_: None,
    data: Data | None = None,
    meeting: Meeting = ALONE,
    **changes: Any,
) -> Iterator[Run]:
    """A run ready to go on from its newest checkpoint, bit for bit where nothing changes. Nobody else has it meanwhile.

    Of several processes each reads the checkpoint, and the first alone holds the folder and writes.

    Args:
        folder: of the run.
        told: is told how far the data are.
        data: what is learned from and what is held out, where that is at hand.
        meeting: of the processes that train together.
        changes: settings that may differ from before, as `target` or `keep`.

    Raises:
        ArtefactError: another process is at work, a file is damaged, or the data are not those of the run.
        InputError, SettingError, TargetError: as `begin`; a change would make it another run.
    """
    is_first = meeting.processes.is_first
    with ExitStack() as held:

        def load(told: Told) -> _Loaded:
            if is_first:
                held.enter_context(folder.held())
            return _loaded(folder, told, data, changes)

        def write(_: Told) -> None:
            if is_first:
                folder.curve.cut(found.done)
                found.recipe.write(folder.path / RECIPE)

        found = meeting.together(load, told)
        trainer = found.trainer()
        meeting.together(write)
        yield found.run(folder, trainer, is_first)


@dataclass(frozen=True)
class _Loaded:
    """What a run goes on from, planned for its target."""

    recipe: Recipe
    plan: Plan
    params: Mapping[str, Any]
    state: State
    data: Data
    done: int

    def trainer(self) -> Trainer:
        """Several processes make theirs at the same time."""
        recipe, state = self.recipe, self.state.optimizer
        return new_trainer(
            self.plan.graph, recipe.target, self.params, recipe.optimiser, state=state, remat=recipe.remat
        )

    def run(self, folder: RunFolder, trainer: Trainer, is_first: bool) -> Run:
        """With the parts of batches, and how fast a step could be."""
        batches, held_out = (batches_of(corpus, self.plan.graph, self.recipe) for corpus in self.data)
        floor_ms = floor(self.plan, find_target(self.recipe.target))[0] * self.recipe.accumulate
        return Run(folder, self.recipe, self.plan, trainer, batches, held_out, self.done, floor_ms, is_first)


def _loaded(folder: RunFolder, told: Told, data: Data | None, changes: Mapping[str, Any]) -> _Loaded:
    last = folder.newest()
    try:
        found = load_checkpoint(last)
        state = load_state(last, found.params)
    except FlashirError as error:
        raise _damaged(folder, last, error) from None
    recipe = folder.recipe
    before, recipe = recipe.target, recipe.changed(**changes).located()
    tokenizer = Tokenizer.read(folder.tokenizer).reads(recipe.reading)
    data = corpora(recipe, tokenizer, told) if data is None else data
    _check_data(folder, state, *data)
    trainable(recipe.target)
    available_device(recipe.target)
    model = found.model if recipe.target == before else reset_execution(found.model)
    made = plan(model, recipe.target, recipe.rows or 1, recipe.seq_len, True, params=found.params)
    return _Loaded(recipe, made, found.params, state, data, step_of(last))


def _check_data(folder: RunFolder, state: State, corpus: Corpus, held_out: Corpus) -> None:
    """Raises ArtefactError where the text is not what the run has seen so far."""
    for name, what in (("data", corpus), ("held_out", held_out)):
        if state.position.get(name, what.digest) != what.digest:
            raise ArtefactError(
                f"the text of {name} is not the one that the run has seen so far",
                where=str(folder.path),
                hint="bring the files back as they were, or begin another run from the checkpoint",
            )


def _damaged(folder: RunFolder, last: Path, error: FlashirError) -> ArtefactError:
    """What to do about a newest checkpoint that cannot be read."""
    earlier = folder.checkpoints()[:-1]
    hint = f"remove it, and the run goes on from {earlier[-1].name}" if earlier else "there is none before it"
    return ArtefactError(error.problems, where=str(last), hint=hint)
