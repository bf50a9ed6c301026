"""The training loop: steps, lines of the curve, validations and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import isfinite, log
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from msgspec.structs import replace

from flashir.backends.score import Score
from flashir.backends.training import Batch
from flashir.errors import ParameterError, TrainingError, option
from flashir.train.board import board
from flashir.train.data import ahead
from flashir.train.evaluate import validate
from flashir.train.metrics import Clock, Line
from flashir.train.open_run import Run
from flashir.train.pace import Pace
from flashir.train.task import scores_of
from flashir.train.writer import Writer

EXPLODED = 3.0
"""A loss above this multiple of that of a uniform guess means that training has diverged."""


class Progress(Protocol):
    """Displays the progress of a run."""

    def started(self, run: Run) -> None:
        """The loop begins."""
        ...

    def computing(self, step: int, part: int, parts: int) -> None:
        """A part of the batch of a step is about to be computed, counted from 1; some devices are told ahead."""
        ...

    def stepped(self, line: Line, pace: Pace) -> None:
        """A step is done, perhaps with a validation after it."""
        ...

    def saved(self, checkpoint: Path) -> None:
        """A checkpoint is written."""
        ...

    def finished(self) -> None:
        """The loop ends, also by an error."""
        ...


def train(run: Run, progress: Progress, stop: Callable[[], bool] = lambda: False) -> Pace:
    """Run all remaining steps, or until `stop` returns true after one, and save the result.

    Every process calls this. The first one writes and reports progress. If it cannot write, it raises, and the others
    return as if one of them had been asked to stop.

    Raises:
        TrainingError: the loss, a gradient or a parameter is not finite, or the loss explodes.
        ArtefactError: a file cannot be written, for example on a full disk.
        TargetError: another process has ended.

    After each of these errors the last checkpoint is good.
    """
    pace, writer = Pace(run.recipe.tokens, run.floor_ms), Writer(run.is_first)

    def write(line: Line) -> None:
        run.folder.curve.append(line)
        shown.add(line)
        progress.stepped(line, pace)

    with ExitStack() as ended:
        if run.is_first:
            ended.callback(progress.finished)
            progress.started(run)
            shown = ended.enter_context(board(run.folder.board, run.done + 1))
        parts = ended.enter_context(closing(_parts(run)))
        for number in range(run.done + 1, run.recipe.steps + 1):
            line = _step(run, parts, number, partial(progress.computing, number) if run.is_first else None)
            pace.add(line.seconds)
            if run.recipe.validates(number):
                score = _validated(run)
                line = replace(line, validation_loss=score.loss, validation_accuracy=score.accuracy)
            writer.do(partial(write, line))
            stopped = run.trainer.agreed(stop() or writer.failed)
            if stopped or run.recipe.saves(number):
                _save(run, number, writer, progress)
                stopped = run.trainer.agreed(stopped or writer.failed)
            if stopped:
                break
        writer.check()
    return pace


def _parts(run: Run) -> Generator[Batch, None, None]:
    """The parts of batches from the current step on, read ahead in a thread until the generator is closed."""
    yield from ahead(run.batches, run.done * run.recipe.accumulate, depth=2 * run.recipe.accumulate)


@dataclass(frozen=True)
class _Followed(Sequence[Batch]):
    """Parts of a batch that tell when they are taken."""

    batches: list[Batch]
    tell: Callable[[int, int], None]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: Any) -> Any:
        return self.batches[index]

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches, 1):
            self.tell(number, len(self.batches))
            yield batch


def _step(run: Run, parts: Iterator[Batch], number: int, tell: Callable[[int, int], None] | None) -> Line:
    """Run one step. Raises TrainingError if its loss or gradient is not finite, or the loss explodes."""
    recipe, rate = run.recipe, run.recipe.schedule(number)
    start = perf_counter()
    batches = list(islice(parts, recipe.accumulate))
    waited = perf_counter() - start
    step = run.trainer.step(batches if tell is None else _Followed(batches, tell), rate)
    clock = Clock(perf_counter() - start, waited)
    limit = EXPLODED * log(max(2, scores_of(run.plan.graph)))
    if not (isfinite(step.loss) and isfinite(step.gradient_norm)):
        raise _lost(run, number, f"the loss is {step.loss:.4g}, the norm of the gradient {step.gradient_norm:.4g}")
    if step.loss > limit:
        raise _lost(run, number, f"the loss explodes: {step.loss:.4g} nats, a uniform guess has {limit / EXPLODED:.4g}")
    return Line(number, number * recipe.tokens, step.loss, rate, step.gradient_norm, clock)


def _validated(run: Run) -> Score:
    """The validation, on as many tokens of the held-out data as the recipe says."""
    return validate(run.trainer, islice(run.held_out.once(), run.recipe.validation_parts))


def _save(run: Run, number: int, writer: Writer, progress: Progress) -> None:
    """Save a checkpoint: all processes gather it, the first writes it. Fails if parameters are not finite."""
    params, state = run.trainer.params(), run.state(number)

    def write() -> None:
        try:
            checkpoint = run.folder.save(number, run.plan.graph, params, state, run.recipe.keep)
        except ParameterError as error:
            raise _lost(run, number, "; ".join(error.problems)) from None
        progress.saved(checkpoint)

    writer.do(write)


def _lost(run: Run, number: int, problem: str) -> TrainingError:
    last, rate = run.folder.newest(), option("learning_rate", f"{run.recipe.schedule.peak / 2:.2g}")
    half, narrow = option("dtype", "float16"), option("clip", "")
    return TrainingError(
        f"step {number}: {problem}",
        where=str(run.folder.path),
        hint=f"the last good checkpoint is {last}. Start a new run from it with a lower peak "
        f"({rate}), a longer warm-up or a smaller {narrow}; with {half}, use bfloat16",
    )
