"""How much a plan made without measuring, and a tuned one, cost over the best of all candidates, each measured.

    python -m flashir.experiments.plan_quality --target onnx:cpu --tune
    python -m flashir.experiments.plan_quality --target torch:cpu --training --seq-len 512 --seq-len 2048

The model is a stack of base layers (d 768); every candidate of a length is timed in turn with the others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, median

import flashir
from flashir.bench.interleaved import Samples, interleaved
from flashir.execution.timed_step import subject
from flashir.experiments.command import count, guarded
from flashir.ir import Graph
from flashir.planning.candidates import Candidate
from flashir.planning.plan import Plan
from flashir.planning.workload import Workload
from flashir.transforms.settle_choices import Settings, settle


@dataclass(frozen=True)
class Quality:
    """A plan for one length, and what every candidate really takes; the tuned plan, where there is one."""

    plan: Plan
    measured: dict[Settings, Samples]
    tuned: Plan | None = None

    def regret(self, plan: Plan) -> float:
        """By how much what a plan chose is slower than the best, as a share."""
        return self.measured[plan.settings].median / self.best.median - 1

    @property
    def best(self) -> Samples:
        """The fastest candidate."""
        return min(self.measured.values(), key=lambda samples: samples.median)

    @property
    def rows(self) -> list[tuple[Candidate, Samples]]:
        """Every candidate beside its samples."""
        return [(each, self.measured[each.settings]) for each in self.plan.candidates]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(predicted, measured) milliseconds of every candidate."""
        return [(each.predicted_ms, samples.median) for each, samples in self.rows]


def measure(model: Graph, target: str, workload: Workload, rounds: int, *, tuned: bool = False) -> Quality:
    """Plan with `policy = fastest` and no measurement, and tune where asked; then measure every candidate.

    Raises:
        TargetError: the target is not at hand, or cannot train.
    """
    size = (workload.batch, workload.seq_len, workload.training)
    plan = flashir.plan(model, target, *size, policy="fastest", measured=False)
    best = _tuned(model, target, size) if tuned else None
    choices = [each.settings for each in plan.candidates]
    runs = {choice: subject(settle(model, choice), target, workload) for choice in choices}
    return Quality(plan, interleaved(runs, rounds), best)


def _tuned(model: Graph, target: str, size: tuple[int, int, bool]) -> Plan:
    """What `tune` chooses that knows of no earlier measurement."""
    kept = os.environ.get("FLASHIR_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FLASHIR_CACHE"] = folder
        try:
            return flashir.tune(model, target, *size, policy="fastest")
        finally:
            os.environ.pop("FLASHIR_CACHE")
            os.environ.update({} if kept is None else {"FLASHIR_CACHE": kept})


def median_error(pairs: Sequence[tuple[float, float]]) -> float:
    """The middle of the errors of predictions, as shares of what was measured."""
    return median(abs(predicted / measured - 1) for predicted, measured in pairs)


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float:
    """The share of pairs that are in the right order less the share of those in the wrong one (Kendall 1938)."""
    signs = [(a[0] - b[0]) * (a[1] - b[1]) for a, b in combinations(pairs, 2)]
    return (sum(sign > 0 for sign in signs) - sum(sign < 0 for sign in signs)) / max(1, len(signs))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="onnx:cpu")
    parser.add_argument("--seq-len", type=count, action="append")
    parser.add_argument("--training", action="store_true", help="a training step instead of one run forward")
    parser.add_argument("--tune", action="store_true", help="tune as well, from an empty store")
    parser.add_argument("--depth", type=count, default=2)
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model = flashir.model("flash", d_model=768, depth=given.depth, vocab=256)
    found = []
    for seq_len in given.seq_len or (512, 1024, 2048, 4096, 8192):
        found.append(measure(model, given.target, Workload(1, seq_len, given.training), given.rounds, tuned=given.tune))
        _show(found[-1], as_json=given.json)
    pairs = [pair for each in found for pair in each.pairs]
    planned = _regrets([each.regret(each.plan) for each in found])
    print(
        f"{given.target}{' training' if given.training else ''}: regret {planned}"
        f"{_of_tuned(found)}; predicted against measured, {len(pairs)} "
        f"candidates: median error {median_error(pairs):.1%}, Kendall tau {kendall_tau(pairs):.2f}",
        file=sys.stderr if given.json else sys.stdout,
    )


def _regrets(shares: Sequence[float]) -> str:
    return f"{mean(shares):.1%} on average, {max(shares):.1%} at worst"


def _of_tuned(found: Sequence[Quality]) -> str:
    tuned = [(each.regret(each.tuned), _share(each.tuned)) for each in found if each.tuned is not None]
    if not tuned:
        return ""
    regrets, shares = zip(*tuned, strict=True)
    return f"; tuned {_regrets(regrets)}, {mean(shares):.0%} of the candidates measured"


def _share(plan: Plan) -> float:
    """Of the candidates, those that were measured."""
    return mean(each.measured_ms is not None for each in plan.candidates)


def _show(found: Quality, *, as_json: bool) -> None:
    plan = found.plan
    if as_json:
        rows = [
            {
                "chunk": each.chunk,
                "cumsum": each.cumsum,
                "predicted_ms": each.predicted_ms,
                "measured_ms": samples.median,
            }
            for each, samples in found.rows
        ]
        about = {name: getattr(plan, name) for name in ("target", "seq_len", "training", "chunk", "cumsum")}
        more = {} if found.tuned is None else {"tuned": found.regret(found.tuned), "share": _share(found.tuned)}
        print(json.dumps({**about, "regret": found.regret(plan), **more, "candidates": rows}), flush=True)
        return
    print(f"T {plan.seq_len}: planned chunk {plan.chunk}, {plan.cumsum}; {found.regret(plan):.1%} over the best")
    if (tuned := found.tuned) is not None:
        measured = f"{_share(tuned):.0%} of the candidates measured"
        print(f"    tuned to chunk {tuned.chunk}, {tuned.cumsum}; {found.regret(tuned):.1%} over the best, {measured}")
    for each, samples in found.rows:
        lower, upper = samples.quartiles
        mark = ">" if (each.chunk, each.cumsum) == (plan.chunk, plan.cumsum) else " "
        over = samples.median / found.best.median - 1
        print(
            f"{mark} {each.chunk or '-':>5} {each.cumsum or '-':7} predicted {each.predicted_ms:8.1f} ms"
            f"  measured {samples.median:8.1f} ms ({lower:.1f} to {upper:.1f})  +{over:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    guarded(main)
