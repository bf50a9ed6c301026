"""A process of the tests, on the mesh that the environment names: `python worker.py task.json`, see work.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.ir import Graph
from tests.backends import work
from tests.backends.training import drawn


def run(task: dict[str, Any]) -> dict[str, Any]:
    """See work.run."""
    return work.run(task, "jax:cpu", _program if task["program"] else lambda *_: {})


def _program(made: Any, model: Graph) -> dict[str, str]:
    """The program that finds gradients, as XLA divided it."""
    with made._place.together():
        lowered = made._slopes.lower(made._own, np.float32(1), *made._fed(drawn(model)))
        return {"program": str(lowered.compile().as_text())}


if __name__ == "__main__":
    work.work(run)
