"""The process that runs one case: warm, idle between rounds, one line of JSON in and one out.

A task comes first; the answer says that it is compiled and warm. Every empty line after it asks for one sample. When
there is nothing more to read, or whoever asked is gone, the process ends.
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
"""A sample is the mean of so many runs that they take this long together: clocks and schedulers are coarse."""

NOTHING = """model @nothing(%ids: i32[B, T]) -> f32[B, T, 2] {
  %x = embed(%ids) {vocab = 2, dim = 2}
  %l = unembed(%x) {tied = true}
  return %l
}"""


def main() -> None:
    """Serve until standard input ends. Whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    with suppress(BrokenPipeError, KeyboardInterrupt):
        try:
            _serve(sys.stdin.buffer, answers)
        except (BrokenPipeError, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever a framework raises
            _say(answers, problem=reason(error))


def _serve(asked: BinaryIO, answers: BinaryIO) -> None:
    from flashir.machine.peak_memory import forget_peak, peak_meter

    line = asked.readline()
    if not line:
        return
    task = json.loads(line)
    _compiled({**task, "model": NOTHING, "batch": 1, "seq_len": 1})()  # frameworks load parts of themselves so late
    peak = peak_meter(task["target"])
    forget_peak()
    baseline = peak()
    call = _compiled(task)
    forget_peak()
    repeats = max(1, ceil(SHORTEST_MS / max(_milliseconds(call, 1), 1e-3)))
    _say(answers, baseline_bytes=baseline)
    while asked.readline():
        _say(answers, ms=_milliseconds(call, repeats), peak_bytes=peak())


def _compiled(task: dict[str, Any]) -> Callable[[], object]:
    """A task as something to call, once called and found well."""
    from flashir.execution.timed_step import subject
    from flashir.ir import loads
    from flashir.planning.workload import Workload

    return subject(loads(task["model"]), task["target"], Workload(task["batch"], task["seq_len"], task["training"]))


def _milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Of one call, the mean of so many."""
    start = perf_counter()
    for _ in range(repeats):
        call()
    return 1e3 * (perf_counter() - start) / repeats


def _say(answers: BinaryIO, **what: object) -> None:
    answers.write(json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    main()
