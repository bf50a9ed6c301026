"""One training run of a comparison: a system, a learning rate and a seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from flashir.compare.measure import measured
from flashir.errors import ArtefactError, TrainingError
from flashir.files.atomic import atomic_write
from flashir.files.foreign import parse_json, read_text
from flashir.ir import Graph
from flashir.models.checkpoint import is_run
from flashir.train.feed import Data
from flashir.train.loop import Progress, train
from flashir.train.metrics import Line
from flashir.train.open_run import Run, opened
from flashir.train.recipe import Recipe
from flashir.train.run_folder import RunFolder
from flashir.train.setup import begin_on
from flashir.train.signals import stopping

RESULT = "result.json"
LAST = 0.1
"""The share of the steps, the last ones, whose mean training loss decides between learning rates."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Trial:
    """A run of a comparison.

    Args:
        name: the name of the system.
        model: the system.
        recipe: the settings, with the learning rate and the seed.
        folder: the folder of the run.
        tokenizer: the tokenizer file, if it learns a text.
        choices: `dtype` and others as for `plan`.
    """

    name: str
    model: Graph
    recipe: Recipe
    folder: Path
    tokenizer: Path | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether the run is finished."""
        return (self.folder / RESULT).exists()

    def result(self, data: Data, begins: Callable[[], Progress]) -> Row:
        """Train, or resume, and store the result. A run that diverges has the reason as `failed`.

        Args:
            data: the data of all trials.
            begins: called before training; makes the display of the steps.

        Raises:
            FlashirError: as for `train`.
            KeyboardInterrupt: the run was interrupted; its progress is saved.
        """
        if not is_run(self.folder):
            begin_on(data, self.model, self.recipe, self.folder, tokenizer=self.tokenizer, **self.choices)
        with stopping() as stop, opened(RunFolder(self.folder), data=data) as run:
            try:
                train(run, begins(), stop)
            except TrainingError as error:
                row = {**self._about(run), "failed": error.problems[0]}
            else:
                if stop():
                    raise KeyboardInterrupt
                row = {**self._about(run), **_learned(run), **measured(run)}
        atomic_write(self.folder / RESULT, lambda stream: stream.write(json.dumps(row).encode()))
        return row

    def _about(self, run: Run) -> Row:
        return {
            "name": self.name,
            "learning_rate": run.recipe.learning_rate,
            "seed": run.recipe.seed,
            "parameters": run.plan.parameters,
            "depth": _depth(run.plan.graph),
            "chunk": run.plan.chunk,
        }


def results(out: Path, first: Sequence[Trial] = ()) -> list[Row]:
    """The results of all finished runs in the folder of a comparison; those of some trials come first, in order.

    Raises ArtefactError if a file is damaged.
    """
    files = dict.fromkeys([*(trial.folder / RESULT for trial in first), *sorted(out.glob(f"*/*/{RESULT}"))])
    return [_read(file) for file in files if file.exists()]


def trials(
    models: Mapping[str, Graph],
    recipe: Recipe,
    rates: Mapping[str, tuple[float | None, ...]],
    seeds: int,
    out: Path,
    **fields: Any,
) -> list[Trial]:
    """All trials: each system at each of its rates, with one seed after the other."""

    def trial(name: str, rate: float | None, seed: int) -> Trial:
        where = out / name.replace(" ", "-") / f"{'default' if rate is None else f'{rate:g}'}-seed-{seed}"
        return Trial(name, models[name], replace(recipe, seed=seed, learning_rate=rate), where, **fields)

    by_seed = range(recipe.seed, recipe.seed + seeds)
    return [trial(name, rate, seed) for seed in by_seed for name in models for rate in rates[name]]


def _read(file: Path) -> Row:
    return parse_json(read_text(file, ArtefactError), file, ArtefactError, dict[str, Any])


def _learned(run: Run) -> Row:
    """The numbers and curves of a finished run."""
    lines = list(run.folder.curve.lines())
    seconds = median(line.seconds.step for line in lines)
    last = lines[-max(1, round(LAST * len(lines))) :]
    return {
        "tokens": lines[-1].tokens,
        "last_loss": float(np.mean([line.loss for line in last])),
        "validation_loss": lines[-1].validation_loss,
        "seconds_a_step": seconds,
        "tokens_per_second": run.recipe.tokens / seconds,
        "roofline": run.floor_ms / (1e3 * seconds),
        "waiting": sum(line.seconds.waited for line in lines) / sum(line.seconds.step for line in lines),
        "train": [[line.tokens, line.loss] for line in lines],
        "validation": [[line.tokens, line.validation_loss] for line in lines if _is_validated(line)],
    }


def _is_validated(line: Line) -> bool:
    return isinstance(line.validation_loss, float)


def _depth(graph: Graph) -> int:
    return next((int(str(node.attrs["times"])) for node in graph.walk() if node.op == "repeat"), 0)
