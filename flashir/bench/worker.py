"""The worker process of one case: reads lines from standard input, and answers each with a line of JSON.

The first line is the task; its answer says that the case is compiled and warm. Every following empty line requests one
sample. The process ends when its input ends or its parent is gone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from time import perf_counter
from typing import Any, BinaryIO

from flashir.bench.reason import reason

SHORTEST_MS = 5.0
"""A sample is the mean of enough runs to take this long in total, because clocks and schedulers are coarse."""

NOTHING = """model @nothing(%ids: i32[B, T]) -> f32[B, T, 2] {
  %x = embed(%ids) {vocab = 2, dim = 2}
  %l = unembed(%x) {tied = true}
  return %l
}"""


def main() -> None:
    """Serve until standard input ends. Output of libraries goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    with suppress(BrokenPipeError, KeyboardInterrupt):
        try:
            _serve(sys.stdin.buffer, answers)
        except (BrokenPipeError, KeyboardInterrupt):
            raise
        except BaseException as error:  # frameworks raise anything
            _answer(answers, problem=reason(error))


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    from flashir.machine.peak_memory import forget_peak, peak_meter

    line = requests.readline()
    if not line:
        return
    task = json.loads(line)
    _compiled({**task, "model": NOTHING, "batch": 1, "seq_len": 1})()  # frameworks load some parts only here
    peak = peak_meter(task["target"])
    forget_peak()
    baseline = peak()
    call = _compiled(task)
    forget_peak()
    repeats = max(1, ceil(SHORTEST_MS / max(_milliseconds(call, 1), 1e-3)))
    _answer(answers, baseline_bytes=baseline)
    while requests.readline():
        _answer(answers, ms=_milliseconds(call, repeats), peak_bytes=peak())


def _compiled(task: dict[str, Any]) -> Callable[[], object]:
    """A function that runs the task, called once to check it."""
    from flashir.execution.timed_step import subject
    from flashir.ir import loads
    from flashir.planning.workload import Workload

    return subject(loads(task["model"]), task["target"], Workload(task["batch"], task["seq_len"], task["training"]))


def _milliseconds(call: Callable[[], object], repeats: int) -> float:
    """The mean milliseconds per call."""
    start = perf_counter()
    for _ in range(repeats):
        call()
    return 1e3 * (perf_counter() - start) / repeats


def _answer(answers: BinaryIO, **what: object) -> None:
    answers.write(json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
