"""A process of the tests, with the mesh that the environment names: trains what a task says, writes what it found.

    python worker.py task.json

A task: {"model": IR text, "params": file, "state": file or null, "remat": bool, "seeds": one a step, "cuts": where a
batch is cut into parts, "dies": the rank that is killed before the step of seed 3, "program": whether to write the
program that finds gradients too, "out": folder}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

import flashir
from flashir.backend import AdamW
from flashir.compiler import prepare
from flashir.ir import Graph
from flashir.parameters import load_params, save_params
from flashir.processes import Processes
from flashir_jax import JaxBackend
from tests.backends.training import RATE, drawn, parts


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Losses and norms of every step, and what is left; written by the first process."""
    model, params = flashir.loads(task["model"]), load_params(task["params"])
    state = load_params(task["state"]) if task["state"] else None
    lowered = prepare(model, "jax:cpu", params).lowered
    made = JaxBackend().trainer(lowered, params, "cpu", AdamW(clip=0.1), state=state, remat=task["remat"])
    program = _program(made, model) if task["program"] else ""
    found = []
    for seed in task["seeds"]:
        if (task["dies"], seed) == (Processes.here().rank, 3):
            os.kill(os.getpid(), signal.SIGKILL)
        step = made.step(parts(drawn(model, seed), task["cuts"]), RATE)
        found.append((step.loss, step.gradient_norm))
    total, labels = made.loss(drawn(model))
    wishes = [made.agreed(Processes.here().rank == rank) for rank in (0, 1, 99)]
    params, state = made.params(), made.state()
    out = Path(task["out"])
    if Processes.here().is_first:
        save_params(params, out / "params.safetensors")
        save_params(state, out / "state.safetensors")
    else:
        assert not params
        assert not state
    return {"steps": found, "loss": [total, labels], "wishes": wishes, "program": program}


def _program(made: Any, model: Graph) -> str:
    """As XLA divided it."""
    with made._place.together():
        lowered = made._slopes.lower(made._own, np.float32(1), *made._fed(drawn(model)))
        return str(lowered.compile().as_text())


if __name__ == "__main__":
    task = json.loads(Path(sys.argv[1]).read_text())
    found = run(task)
    (Path(task["out"]) / f"found-{Processes.here().rank}.json").write_text(json.dumps(found))
