"""How much a plan made without measuring costs over the best of all candidates, each measured.

    python -m flashir.bench.plan_quality --target onnx:cpu --seq-len 512 --seq-len 1024 --seq-len 2048

The model is a stack of base layers (d 768); every candidate of a length is timed in turn with the others.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import partial

import flashir
from flashir.bench.interleaved import Samples, interleaved
from flashir.export import sample_inputs
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
        return self.measured[Choice(self.plan.chunk, self.plan.cumsum)].median / self.best.median - 1

    @property
    def best(self) -> Samples:
        """The fastest candidate."""
        return min(self.measured.values(), key=lambda samples: samples.median)

    @property
    def rows(self) -> list[tuple[Candidate, Samples]]:
        """Every candidate beside its samples."""
        return [(each, self.measured[Choice(each.chunk, each.cumsum)]) for each in self.plan.candidates]


def measure(model: Graph, target: str, seq_len: int, rounds: int) -> Quality:
    """Plan with `policy = fastest` and no measurement, then measure every candidate.

    Raises:
        TargetError: the target is not at hand.
    """
    plan = flashir.plan(model, target, seq_len=seq_len, policy="fastest", measured=False)
    arrays = sample_inputs(model, Workload(1, seq_len).sizes(model))
    runs = {}
    for each in plan.candidates:
        choice = Choice(each.chunk, each.cumsum)
        settled = choice.settle(model)
        runs[choice] = partial(flashir.compile(settled, target, flashir.init(settled), seq_len=seq_len), *arrays)
    return Quality(plan, interleaved(runs, rounds))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="onnx:cpu")
    parser.add_argument("--seq-len", type=int, action="append")
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model = flashir.model("flash", d_model=768, depth=given.depth, vocab=256)
    for seq_len in given.seq_len or (512, 1024, 2048, 4096, 8192):
        _show(measure(model, given.target, seq_len, given.rounds), as_json=given.json)


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
        about = {"target": plan.target, "seq_len": plan.seq_len, "chunk": plan.chunk, "cumsum": plan.cumsum}
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
