"""The regret of a plan, and of a tuned one, relative to the best of all measured candidates.

    python -m flashir.experiments.plan_quality --target onnx:cpu --tune
    python -m flashir.experiments.plan_quality --target torch:cpu --training --seq-len 512 --seq-len 2048
    python -m flashir.experiments.plan_quality --target openvino:cpu --dtype bfloat16 --model transformer++

The model is a stack of base layers (d 768). All candidates of a length are timed in turn. With `--fastest`, the fastest
run of each counts instead of the median, as on a machine where other work slows down many runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import mean, median

import flashir
from flashir.bench.interleaved import Samples, interleaved
from flashir.execution.timed_step import subject
from flashir.experiments.command import count, guarded
from flashir.ir import Graph
from flashir.ir.settings import Settings
from flashir.planning.candidates import Candidate
from flashir.planning.plan import Plan
from flashir.planning.workload import Workload
from flashir.transforms.set_dtype import COMPUTE_TYPES, SetDType
from flashir.transforms.settle_choices import settle


@dataclass(frozen=True)
class Quality:
    """The plan for one length, the measured time of every candidate, and the tuned plan if there is one."""

    plan: Plan
    measured: dict[Settings, Samples]
    tuned: Plan | None = None

    def regret(self, plan: Plan) -> float:
        """How much slower the choice of a plan is than the best candidate, as a fraction."""
        return self.measured[plan.settings].median / self.best.median - 1

    @property
    def best(self) -> Samples:
        """The fastest candidate."""
        return min(self.measured.values(), key=lambda samples: samples.median)

    @property
    def rows(self) -> list[tuple[Candidate, Samples]]:
        """Every candidate with its samples."""
        return [(candidate, self.measured[candidate.settings]) for candidate in self.plan.candidates]

    @property
    def pairs(self) -> list[tuple[float, float]]:
        """(predicted, measured) milliseconds of every candidate."""
        return [(candidate.predicted_ms, samples.median) for candidate, samples in self.rows]


def measure(
    model: Graph, target: str, workload: Workload, rounds: int, *, tuned: bool = False, fastest: bool = False
) -> Quality:
    """Plan with `policy = fastest` and no measurements, tune if `tuned`, and then measure every candidate.

    Raises:
        TargetError: the target is not available, or cannot train.
    """
    size = (workload.batch, workload.seq_len, workload.training)
    plan = flashir.plan(model, target, *size, policy="fastest", measured=False)
    best = _tuned(model, target, size) if tuned else None
    choices = [candidate.settings for candidate in plan.candidates]
    runs = {choice: subject(settle(model, choice), target, workload) for choice in choices}
    samples = interleaved(runs, rounds)
    if fastest:
        samples = {choice: replace(of, ms=(min(of.ms),)) for choice, of in samples.items()}
    return Quality(plan, samples, best)


def _tuned(model: Graph, target: str, size: tuple[int, int, bool]) -> Plan:
    """The plan of `tune` with an empty store."""
    previous = os.environ.get("FLASHIR_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FLASHIR_CACHE"] = folder
        try:
            return flashir.tune(model, target, *size, policy="fastest")
        finally:
            os.environ.pop("FLASHIR_CACHE")
            os.environ.update({} if previous is None else {"FLASHIR_CACHE": previous})


def median_error(pairs: Sequence[tuple[float, float]]) -> float:
    """The median relative error of the predictions."""
    return median(abs(predicted / measured - 1) for predicted, measured in pairs)


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float:
    """The fraction of concordant pairs minus that of discordant pairs (Kendall 1938)."""
    signs = [(a[0] - b[0]) * (a[1] - b[1]) for a, b in combinations(pairs, 2)]
    return (sum(sign > 0 for sign in signs) - sum(sign < 0 for sign in signs)) / max(1, len(signs))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="onnx:cpu")
    parser.add_argument("--model", action="append", help="a model of the zoo; flash if none is given")
    parser.add_argument("--dtype", choices=COMPUTE_TYPES, default=COMPUTE_TYPES[0])
    parser.add_argument("--seq-len", type=count, action="append")
    parser.add_argument("--fastest", action="store_true", help="compare the fastest runs instead of the medians")
    parser.add_argument("--training", action="store_true", help="measure a training step instead of a forward run")
    parser.add_argument("--tune", action="store_true", help="also tune, with an empty store")
    parser.add_argument("--depth", type=count, default=2)
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = []
    for name in args.model or ("flash",):
        model = SetDType(args.dtype).apply(flashir.model(name, d_model=768, depth=args.depth, vocab=256))
        for seq_len in args.seq_len or (512, 1024, 2048, 4096, 8192):
            workload = Workload(1, seq_len, args.training)
            result = measure(model, args.target, workload, args.rounds, tuned=args.tune, fastest=args.fastest)
            results.append(result)
            _show(result, as_json=args.json)
    pairs = [pair for result in results for pair in result.pairs]
    planned = _regrets([result.regret(result.plan) for result in results if len(result.measured) > 1] or [0.0])
    print(
        f"{args.target} in {args.dtype}{', training' if args.training else ''}: regret {planned}"
        f"{_of_tuned(results)}; predicted against measured, {len(pairs)} "
        f"candidates: median error {median_error(pairs):.1%}, Kendall tau {kendall_tau(pairs):.2f}",
        file=sys.stderr if args.json else sys.stdout,
    )


def _regrets(shares: Sequence[float]) -> str:
    return f"{mean(shares):.1%} on average, {max(shares):.1%} at worst"


def _of_tuned(results: Sequence[Quality]) -> str:
    tuned = [(result.regret(result.tuned), _share(result.tuned)) for result in results if result.tuned is not None]
    if not tuned:
        return ""
    regrets, shares = zip(*tuned, strict=True)
    return f"; tuned {_regrets(regrets)}, {mean(shares):.0%} of the candidates measured"


def _share(plan: Plan) -> float:
    """The fraction of the candidates that were measured."""
    return mean(candidate.measured_ms is not None for candidate in plan.candidates)


def _show(result: Quality, *, as_json: bool) -> None:
    plan = result.plan
    if as_json:
        rows = [
            {
                "chunk": candidate.chunk,
                "cumsum": candidate.cumsum,
                "predicted_ms": candidate.predicted_ms,
                "measured_ms": samples.median,
            }
            for candidate, samples in result.rows
        ]
        figures = {name: getattr(plan, name) for name in ("target", "seq_len", "training", "chunk", "cumsum")}
        more = {} if result.tuned is None else {"tuned": result.regret(result.tuned), "share": _share(result.tuned)}
        print(json.dumps({**figures, "regret": result.regret(plan), **more, "candidates": rows}), flush=True)
        return
    print(f"T {plan.seq_len}: planned chunk {plan.chunk}, {plan.cumsum}; {result.regret(plan):.1%} over the best")
    if (tuned := result.tuned) is not None:
        measured = f"{_share(tuned):.0%} of the candidates measured"
        print(f"    tuned to chunk {tuned.chunk}, {tuned.cumsum}; {result.regret(tuned):.1%} over the best, {measured}")
    for candidate, samples in result.rows:
        lower, upper = samples.quartiles
        mark = ">" if (candidate.chunk, candidate.cumsum) == (plan.chunk, plan.cumsum) else " "
        over = samples.median / result.best.median - 1
        print(
            f"{mark} {candidate.chunk or '-':>5} {candidate.cumsum or '-':7} predicted {candidate.predicted_ms:8.1f} ms"
            f"  measured {samples.median:8.1f} ms ({lower:.1f} to {upper:.1f})  +{over:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    guarded(main)
