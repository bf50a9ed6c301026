"""What a trained model knows, beyond its mean loss: answers by distance for a task, loss by position for a text."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.compare.task_data import TaskFeed
from flashir.execution.compile import Runnable, compile
from flashir.train.by_position import ByPosition
from flashir.train.open_run import Run


def measured(run: Run) -> dict[str, Any]:
    """`accuracy` by distance in chunks for a task; `by_position` in parts of rows for a text."""
    recipe = run.recipe
    model = compile(run.plan.graph, recipe.target, run.trainer.params(), batch=recipe.rows or 1, seq_len=recipe.seq_len)
    if isinstance(run.held_out, TaskFeed):
        return {"accuracy": _accuracy(model, run.held_out)}
    total = ByPosition.of(recipe.seq_len)
    for batch in islice(run.held_out.once(), recipe.validation_parts):
        total = total.plus(model(*batch.inputs), batch.labels)
    return {"by_position": total.as_dict()}


def _accuracy(model: Runnable, feed: TaskFeed) -> dict[str, float]:
    """The share of right answers at each distance."""
    right: dict[int, list[npt.NDArray[np.bool_]]] = {distance: [] for distance in feed.task.distances}
    for drawn in feed.held_out:
        guesses = model(drawn.ids).argmax(-1)
        for distance, seen in right.items():
            at_distance = drawn.distances == distance
            seen.append(guesses[at_distance] == drawn.labels[at_distance])
    return {str(distance): float(np.concatenate(seen).mean()) for distance, seen in right.items()}
