"""How much a plan made without measuring costs over the best of all candidates, each measured.

    python -m flashir.bench.plan_quality --target onnx:cpu
    python -m flashir.bench.plan_quality --target torch:cpu --training --seq-len 512 --seq-len 2048

The model is a stack of base layers (d 768); every candidate of a length is timed in turn with the others.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, median

import flashir
from flashir.bench.interleaved import Samples, interleaved
from flashir.bench.subject import subject
from flashir.ir import Graph
from flashir.passes.choose import Candidate
from flashir.planning import Plan
from flashir.tune.space import Choice
from flashir.workload import Workload


@dataclass(frozen=True)
class Quality:
    """A plan for one length, and what every candidate really takes."""

    plan: Plan
    measured: dict[Choice, Samples]

    @property
    def regret(self) -> float:
        """By how much the planned choice is slower than the best, as a share."""
        return self.measured[Choice.of(self.plan)].median / self.best.median - 1

    @property
    def best(self) -> Samples:
        """The fastest candidate."""
        return min(self.measured.values(), key=lambda samples: samples.median)

    @property
    def rows(self) -> list[tuple[Candidate, Samples]]:
        """Every candidate beside its samples."""
        return [(each, self.measured[Choice.of(each)]) for each in self.plan.candidates]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(predicted, measured) milliseconds of every candidate."""
        return [(each.predicted_ms, samples.median) for each, samples in self.rows]


def measure(model: Graph, target: str, workload: Workload, rounds: int) -> Quality:
    """Plan with `policy = fastest` and no measurement, then measure every candidate.

    Raises:
        TargetError: the target is not at hand, or cannot train.
    """
    plan = flashir.plan(
        model, target, workload.batch, workload.seq_len, workload.training, policy="fastest", measured=False
    )
    choices = [Choice.of(each) for each in plan.candidates]
    runs = {choice: subject(choice.settle(model), target, workload) for choice in choices}
    return Quality(plan, interleaved(runs, rounds))


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
    parser.add_argument("--seq-len", type=int, action="append")
    parser.add_argument("--training", action="store_true", help="a training step instead of one run forward")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model = flashir.model("flash", d_model=768, depth=given.depth, vocab=256)
    found = []
    for seq_len in given.seq_len or (512, 1024, 2048, 4096, 8192):
        found.append(measure(model, given.target, Workload(1, seq_len, given.training), given.rounds))
        _show(found[-1], as_json=given.json)
    pairs = [pair for each in found for pair in each.pairs]
    print(
        f"{given.target}{' training' if given.training else ''}: regret {mean(each.regret for each in found):.1%} on "
        f"average, {max(each.regret for each in found):.1%} at worst; predicted against measured, {len(pairs)} "
        f"candidates: median error {median_error(pairs):.1%}, Kendall tau {kendall_tau(pairs):.2f}",
        file=sys.stderr if given.json else sys.stdout,
    )


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
        print(json.dumps({**about, "regret": found.regret, "candidates": rows}), flush=True)
        return
    print(f"T {plan.seq_len}: planned chunk {plan.chunk}, {plan.cumsum}; {found.regret:.1%} over the best")
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
    main()
