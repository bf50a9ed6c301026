"""A task of the tests of several processes or devices: what a trainer shall do; and doing it.

A task: {"model": IR text, "params": file, "state": file or null, "remat": bool, "seeds": one a step, "cuts": where a
batch is cut into parts, "dies": the rank that is killed before the step of seed 3, "program": whether to write the
program that finds gradients too (JAX), "out": folder}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flashir
from flashir.backends.training import AdamW
from flashir.execution.prepare import prepare
from flashir.execution.trainer import new_trainer
from flashir.ir import Graph
from flashir.machine.processes import Processes
from flashir.models.parameters import load_params, save_params, unit
from tests.backends.training import RATE, drawn, parts


def task(model: Graph, out: Path, **settings: Any) -> dict[str, Any]:
    """A task, its parameters written into the folder."""
    out.mkdir()
    save_params(unit(model), out / "given.safetensors")
    usual = {"state": None, "remat": False, "seeds": list(range(20)), "cuts": [0, 4], "dies": None, "program": False}
    given = {"model": flashir.dumps(model), "params": str(out / "given.safetensors"), "out": str(out)}
    return {**given, **usual, **settings}


def run(
    task: dict[str, Any], target: str, look: Callable[[Any, Graph], dict[str, Any]] = lambda *_: {}
) -> dict[str, Any]:
    """Losses and norms of every step, and what is left; written by the first process.

    Args:
        task: see above.
        target: where to train.
        look: at the trainer before the first step; what it finds is in the result.
    """
    model, params = flashir.loads(task["model"]), load_params(task["params"])
    state = load_params(task["state"]) if task["state"] else None
    lowered = prepare(model, target, params).lowered
    optimiser = AdamW(epsilon=1e-3, clip=0.1)  # smaller, and a gradient that is all rounding moves as far as any other
    made = new_trainer(model, target, params, optimiser, lowered=lowered, state=state, remat=task["remat"])
    seen, found = look(made, model), []
    for seed in task["seeds"]:
        if (task["dies"], seed) == (Processes.here().rank, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        step = made.step(parts(drawn(model, seed), task["cuts"]), RATE)
        found.append((step.loss, step.gradient_norm))
    score = made.score(drawn(model))
    total, labels = score.nats, score.labels
    wishes = [made.agreed(Processes.here().rank == rank) for rank in (0, 1, 99)]
    params, state = made.params(), made.state()
    out = Path(task["out"])
    if Processes.here().is_first:
        save_params(params, out / "params.safetensors")
        save_params(state, out / "state.safetensors")
    else:
        assert not params
        assert not state
    return {"steps": found, "loss": [total, labels], "wishes": wishes, **seen}


def work(run: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The program of a worker: the task that a file holds, and a file beside for what this process found."""
    given = json.loads(Path(sys.argv[1]).read_text())
    found = run(given)
    (Path(given["out"]) / f"found-{Processes.here().rank}.json").write_text(json.dumps(found))
