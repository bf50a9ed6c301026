"""Models on several targets in several compute types, in turn: time, error, and what was chosen for each.

    python -m flashir.experiments.dtypes onnx:cpu openvino:cpu openvino:cpu=bfloat16 --seq-len 1024 4096

Each case is a target with a type, float32 unless given, for which the model is planned. All get the same tokens, and
take turns. The error is against the same model, with the same choices, in float32 on the first target, relative to its
largest logit.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import numpy as np

import flashir
from flashir.bench.interleaved import interleaved
from flashir.experiments.command import count, guarded
from flashir.planning.plan import Plan
from flashir.reference.compare import relative_error

MODELS = ("flash", "transformer++")
SIZE: dict[str, Any] = {"d_model": 768, "vocab": 256}


def choices(plan: Plan) -> dict[str, Any]:
    """The chunk and the strategy of a plan, without those that the model does not have."""
    return {key: value for key, value in (("chunk", plan.chunk), ("cumsum", plan.cumsum)) if value is not None}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", metavar="TARGET[=DTYPE]")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--depth", type=count, nargs="+", default=[1, 2])
    parser.add_argument("--seq-len", type=count, nargs="+", default=[1024, 4096])
    parser.add_argument("--rounds", type=count, default=7)
    args = parser.parse_args()
    print("| model | depth | T | target | type | chosen | ms | over the first | predicted ms | error |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for depth in args.depth:
        for length in args.seq_len:
            rows(args.cases, args.models, depth, length, args.rounds)


def rows(cases: list[str], models: list[str], depth: int, length: int, rounds: int) -> None:
    """Print a row for each case of each model."""
    ids = np.random.default_rng(0).integers(0, SIZE["vocab"], (1, length))
    runs, errors = {}, {}
    for name in models:
        for case in cases:
            target, _, dtype = case.partition("=")
            model = flashir.model(name, depth=depth, **SIZE)
            run = flashir.compile(model, target, dtype=dtype or "float32", seq_len=length)
            wanted = flashir.compile(model, cases[0].partition("=")[0], seq_len=length, **choices(run.plan))(ids)
            errors[name, case] = relative_error(run(ids), wanted)
            runs[name, case] = run
    samples = interleaved({key: partial(run, ids) for key, run in runs.items()}, rounds)
    first = samples[models[0], cases[0]]
    for (name, case), run in runs.items():
        target, _, dtype = case.partition("=")
        sample = samples[name, case]
        chosen = ", ".join(map(str, choices(run.plan).values())) or "-"
        print(
            f"| {name} | {depth} | {length} | {target} | {dtype or 'float32'} | {chosen} | {sample.median:.0f} "
            f"| {sample.ratio(first):.2f} | {run.plan.predicted_ms:.0f} | {errors[name, case]:.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    guarded(main)
