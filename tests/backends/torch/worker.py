"""One of the processes that torchrun starts for the tests: `python worker.py task.json`, see tests.backends.work."""

from __future__ import annotations

from typing import Any

from tests.backends import work


def run(task: dict[str, Any]) -> dict[str, Any]:
    """See work.run."""
    return work.run(task, "torch:cpu")


if __name__ == "__main__":
    work.work(run)
