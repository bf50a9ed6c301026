"""The loop, with a trainer whose losses are known: what it writes, when it saves, how it stops."""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import flashir
from flashir.backends.optimizer_state import Moments
from flashir.backends.protocols import Array
from flashir.backends.score import Score
from flashir.backends.training import Batch, Step
from flashir.cli.forecast import duration
from flashir.cli.training import LiveTraining, PlainTraining
from flashir.errors import ArtefactError, InputError, SettingError, TrainingError
from flashir.execution import trainer as new
from flashir.models.checkpoint import load_checkpoint, step_of
from flashir.train import loop, setup
from flashir.train import open_run as opening
from flashir.train.data import Tokenizer
from flashir.train.metrics import Line
from flashir.train.open_run import Run, opened
from flashir.train.pace import Pace
from flashir.train.recipe import Recipe
from flashir.train.run_folder import RunFolder
from flashir.train.setup import begin
from flashir.train.signals import stopping

MODEL = flashir.model("flash", size="tiny", chunk=16, cumsum="scan", vocab=256)
RECIPE = Recipe(
    tokens=128, rows=1, seq_len=32, steps=10, save_every=4, validate_every=3, validation_tokens=64, learning_rate=7e-4
)


class Known:
    """A trainer that adds 1 to every parameter and says what it is told to say."""

    losses: Callable[[int], float] = staticmethod(lambda step: 5.0 / step)

    def __init__(self, graph, params, device, optimiser, *, state=None, remat=False) -> None:  # type: ignore[no-untyped-def]
        self._params, self._moments = dict(params), Moments.read(state, params)
        self.seen: list[tuple[float, list[Array]]] = []

    def step(self, batches: Sequence[Batch], learning_rate: float) -> Step:
        self._params = {name: array + np.float32(1) for name, array in self._params.items()}
        self._moments = replace(self._moments, count=self._moments.count + 1)
        self.seen.append((learning_rate, [batch.inputs[0] for batch in batches]))
        return Step(type(self).losses(self._moments.count), 1.0)

    def score(self, batch: Batch) -> Score:
        return Score(2.0 * batch.wanted, batch.wanted, batch.wanted // 2)

    def agreed(self, wish: bool) -> bool:
        return wish

    def params(self) -> dict[str, Array]:
        return self._params

    def state(self) -> dict[str, Array]:
        return self._moments.state()


class Told:
    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.parts: list[tuple[int, int, int]] = []
        self.saves: list[int] = []
        self.ended = 0

    def started(self, run: Run) -> None:
        pass

    def computing(self, step: int, part: int, parts: int) -> None:
        self.parts.append((step, part, parts))

    def stepped(self, line: Line, pace: Pace) -> None:
        self.lines.append(line)

    def saved(self, checkpoint: Path) -> None:
        self.saves.append(step_of(checkpoint))

    def finished(self) -> None:
        self.ended += 1


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Known, "losses", Known.losses)

    class Backend:
        trainer = Known

    for module in (setup, opening, new):
        monkeypatch.setattr(module, "trainable", lambda target: Backend)


@pytest.fixture
def folder(tmp_path: Path, text: Path) -> RunFolder:
    return begin(MODEL, replace(RECIPE, data=(str(text),)), Tokenizer.bytes(), tmp_path / "run")[0]


@contextmanager
def ready(folder: RunFolder) -> Iterator[tuple[Run, Known, Told]]:
    with opened(folder) as run:
        assert isinstance(run.trainer, Known)
        yield run, run.trainer, Told()


def test_every_step_has_a_line_and_some_a_validation_and_a_checkpoint(folder: RunFolder) -> None:
    with ready(folder) as (run, trainer, told):
        pace = loop.train(run, told)
    assert [line.step for line in told.lines] == list(range(1, 11)) and list(folder.curve.lines()) == told.lines
    assert [line.step for line in told.lines if line.validation_loss == 2.0] == [3, 6, 9, 10]
    assert told.saves == [4, 8, 10] and [step_of(each) for each in folder.checkpoints()] == [4, 8, 10]
    assert told.lines[-1].tokens == 1280 and told.ended == 1
    assert [rate for rate, _ in trainer.seen] == [run.recipe.schedule(number) for number in range(1, 11)]
    assert all(len(parts) == 4 for _, parts in trainer.seen)
    assert told.parts == [(step, part, 4) for step in range(1, 11) for part in range(1, 5)]
    assert pace.steps == 10 and pace.waiting is not None


def test_a_run_that_goes_on_sees_the_data_that_it_had_not_seen(folder: RunFolder) -> None:
    stops = iter([False] * 5 + [True])
    with ready(folder) as (run, first, told):
        loop.train(run, told, lambda: next(stops))
    assert told.saves == [4, 6]
    with ready(folder) as (run, second, told):
        assert run.done == 6
        loop.train(run, told)
    with ready(folder) as (run, _, told):
        assert run.done == 10
        loop.train(run, told)
    assert told.lines == [] and told.saves == []
    rows = [row for _, parts in [*first.seen, *second.seen] for row in parts]
    assert len(rows) == 40
    for at, row in enumerate(rows):
        assert np.array_equal(row, run.batches.at(at).inputs[0])
    assert [line.step for line in folder.curve.lines()] == list(range(1, 11))


def test_what_a_killed_run_wrote_after_its_checkpoint_is_done_again(folder: RunFolder) -> None:
    with ready(folder) as (run, _, told):
        loop.train(run, told)
    for each in folder.checkpoints()[1:]:
        for file in (*each.rglob("*.*"),):
            file.unlink()
        (each / "state").rmdir()
        each.rmdir()
    with ready(folder) as (run, _, again):
        assert run.done == 4 and len(list(folder.curve.lines())) == 4
        loop.train(run, again)
    assert again.lines[-1].loss == told.lines[-1].loss
    assert [line.step for line in folder.curve.lines()] == list(range(1, 11))


@pytest.mark.parametrize("loss", [nan, inf, 17.0])
def test_a_lost_run_names_the_step_and_keeps_the_last_good_checkpoint(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    monkeypatch.setattr(Known, "losses", staticmethod(lambda step: loss if step == 7 else 3.0))
    with ready(folder) as (run, _, told), pytest.raises(TrainingError) as caught:
        loop.train(run, told)
    message = caught.value.message
    assert "step 7: the loss" in message and "step-000004" in message and "learning_rate=0.00035" in message
    assert step_of(folder.newest()) == 4 and load_checkpoint(folder.newest())
    assert told.ended == 1 and [line.step for line in folder.curve.lines()] == list(range(1, 7))


def test_parameters_that_are_not_finite_are_never_a_checkpoint(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ready(folder) as (run, trainer, told):
        whole = trainer.params
        monkeypatch.setattr(
            trainer,
            "params",
            lambda: {name: array * (nan if len(trainer.seen) > 4 else 1) for name, array in whole().items()},
        )
        with pytest.raises(TrainingError, match=r"step 8: .*not finite"):
            loop.train(run, told)
    assert step_of(folder.newest()) == 4


def test_a_full_disk_leaves_a_run_that_goes_on(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, full = os.fsync, False

    def fsync(handle: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with ready(folder) as (run, trainer, told):
        step = trainer.step

        def stepping(batches: Sequence[Batch], learning_rate: float) -> Step:
            nonlocal full
            full = len(trainer.seen) >= 6
            return step(batches, learning_rate)

        monkeypatch.setattr(trainer, "step", stepping)
        with pytest.raises(ArtefactError, match="No space left on device\nfree some space"):
            loop.train(run, told)
    full = False
    assert step_of(folder.newest()) == 4
    with ready(folder) as (run, _, told):
        loop.train(run, told)
    assert [line.step for line in folder.curve.lines()] == list(range(1, 11))


def test_a_process_that_is_not_the_first_computes_and_writes_nothing(folder: RunFolder) -> None:
    with ready(folder) as (run, trainer, told):
        loop.train(replace(run, is_first=False), told)
    assert len(trainer.seen) == 10 and told.lines == [] and told.saves == [] and told.ended == 0
    assert step_of(folder.newest()) == 0 and list(folder.curve.lines()) == []


@pytest.mark.parametrize("is_first", [True, False])
def test_a_wish_of_another_process_stops_this_one_saved(
    folder: RunFolder, is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ready(folder) as (run, trainer, told):
        monkeypatch.setattr(trainer, "agreed", lambda wish: wish or len(trainer.seen) == 3)
        loop.train(replace(run, is_first=is_first), told)
    assert len(trainer.seen) == 3 and told.saves == ([3] if is_first else [])


def test_a_run_goes_on_from_wherever_one_is(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder, _ = begin(MODEL, replace(RECIPE, data=(text.name,)), Tokenizer.bytes(), tmp_path / "run")
    monkeypatch.chdir("/")
    with ready(folder) as (run, _, _):
        assert run.recipe.data == (str(text),)


def test_text_that_changed_is_not_gone_on_with(folder: RunFolder, text: Path) -> None:
    with ready(folder) as (run, _, told):
        loop.train(run, told)
    text.write_text(text.read_text() + "more")
    with pytest.raises(ArtefactError, match="has changed since the run began"), ready(folder):
        pass


def test_a_damaged_checkpoint_says_what_to_do(folder: RunFolder) -> None:
    with ready(folder) as (run, _, told):
        loop.train(run, told)
    (folder.newest() / "state" / "optimizer.safetensors").unlink()
    with pytest.raises(ArtefactError) as caught, ready(folder):
        pass
    assert "step-000010" in caught.value.where and "resume from step-000008" in caught.value.hint
    assert caught.value.problems == ("state/optimizer.safetensors is missing",)


def test_other_settings_make_another_run(folder: RunFolder) -> None:
    with pytest.raises(SettingError, match="steps is 10 in this run and may only grow, got 5"), opened(folder, steps=5):
        pass
    with opened(folder, keep=1, save_every=2) as run:
        loop.train(run, Told())
    assert folder.recipe.keep == 1 and [step_of(each) for each in folder.checkpoints()] == [10]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": ()}, SettingError, "there is no training data"),
        ({"data": ("nowhere",)}, InputError, "nowhere does not exist"),
    ],
)
def test_nothing_is_made_of_a_recipe_without_data(
    tmp_path: Path, change: dict[str, tuple[str, ...]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        begin(MODEL, replace(RECIPE, **change), Tokenizer.bytes(), tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_that_is_not_the_models_is_refused(tmp_path: Path, text: Path) -> None:
    other = flashir.model("flash", size="tiny", chunk=16, vocab=100)
    with pytest.raises(InputError, match="vocabulary of 100"):
        begin(other, replace(RECIPE, data=(str(text),)), Tokenizer.bytes(), tmp_path / "run")


def test_rows_longer_than_the_positions_are_refused_before_any_work(tmp_path: Path, text: Path) -> None:
    model = flashir.model("transformer", size="tiny", vocab=257, max_len=16)
    with pytest.raises(InputError, match="max_len = 16"):
        begin(model, replace(RECIPE, data=(str(text),), seq_len=32), Tokenizer.bytes(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_interrupt_is_heard_once_and_insisted_on() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping() as stop:
        assert not stop()
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_tensorboard_has_the_curve_each_step_once(folder: RunFolder) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with ready(folder) as (run, _, told):
        loop.train(run, told)
    found = accumulator.EventAccumulator(str(folder.board))
    found.Reload()
    assert [(each.step, each.value) for each in found.Scalars("train/loss")] == [
        (line.step, pytest.approx(line.loss)) for line in told.lines
    ]
    assert [each.step for each in found.Scalars("validation/loss")] == [3, 6, 9, 10]


def test_a_terminal_sees_the_numbers_of_the_latest_step_and_nothing_stays(folder: RunFolder) -> None:
    shown = StringIO()
    with ready(folder) as (run, _, _):
        loop.train(run, LiveTraining(Console(file=shown, force_terminal=True, width=200)))
    for part in (
        "chunk 16",
        "4 x 1 row of 32 tokens per step",
        "10 of 10",
        " a step by the cost model",
        "2.0000, perplexity 7.389 after step 9",
        "step-000008",
    ):
        assert part in shown.getvalue(), part
    assert shown.getvalue().endswith("\x1b[2K")


def test_a_pipe_sees_the_parts_of_a_long_step(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashir.cli.training.EVERY_S", 0.0)
    shown = StringIO()
    with ready(folder) as (run, _, _):
        loop.train(run, PlainTraining(Console(file=shown, width=200)))
    assert "\nstep 2: part 1 of 4\nstep 2: part 2 of 4\n" in shown.getvalue()


def test_a_pipe_gets_lines(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashir.cli.training.EVERY_S", 1e9)
    shown = StringIO()
    with ready(folder) as (run, _, _):
        loop.train(run, PlainTraining(Console(file=shown, width=200)))
    lines = shown.getvalue().splitlines()
    assert lines[0].startswith("flash on torch:cpu: 69k parameters, chunk 16")
    assert re.fullmatch(r"[\d.,]+ m?s a step by the cost model, \d+ s for 10 steps", lines[1])
    assert [line.split()[1] for line in lines if line.startswith("step")] == ["1/10", "3/10", "6/10", "9/10", "10/10"]
    assert sum("saved" in line for line in lines) == 3
    assert "perplexity 148.4" in lines[2] and "validation 2.0000" in lines[3] and "waiting for data" in lines[3]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (3700, "1 h 02 min"), (2.6e5, "3 d 00 h")]
)
def test_durations_are_for_people(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
