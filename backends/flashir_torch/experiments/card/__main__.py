"""All that is to be measured on a GPU, in ten minutes: results first, then times, each stage in a file of its own.

    pip install --no-deps --target rival FLASH-pytorch einops rotary-embedding-torch
    PYTHONPATH=rival python -m flashir_torch.experiments.card --out card/
    python -m flashir_torch.experiments.card --out card/ --fit            # anywhere: the record that fits card/
    flashir bench --show card/step.json

A stage that is complete is read back, so the same command continues where time ran out. Stages: ceilings (a copy,
matrix products), exact (kernels against float64), curves (losses by kernels and by parts), step (training steps of
flash, transformer++ and, if it is installed, FLASH-pytorch), calibration (samples of every micro-kernel), kernels
(each by itself, with other blocks too), profile (one step by kernel). `--rehearse` runs all of them without a GPU at
toy size; its times mean nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from flashir.errors import ArtefactError
from flashir.experiments.command import count, guarded
from flashir_torch.experiments.card.calibration import summary
from flashir_torch.experiments.card.run import in_process, run
from flashir_torch.experiments.card.setting import of_card, rehearsal
from flashir_torch.experiments.card.stage import read
from flashir_torch.experiments.card.stages import STAGES
from flashir_torch.experiments.interpreter import round_as_gpus_do

BUDGET_S = 570
NAMES = tuple(stage.name for stage in STAGES)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results, which may hold some")
    parser.add_argument("--budget", type=count, default=BUDGET_S, help="seconds for all stages (default: 570)")
    parser.add_argument("--only", action="append", choices=NAMES, help="stages to run; default: all")
    parser.add_argument("--rehearse", action="store_true", help="run on the processor, at toy size")
    parser.add_argument("--fit", action="store_true", help="measure nothing: fit the target record to the calibration")
    parser.add_argument("--stage", choices=NAMES, help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args()
    if args.fit:
        print("\n".join(summary(read(args.out / "calibration.json"))))
        return
    if args.rehearse:
        round_as_gpus_do()
    setting = rehearsal() if args.rehearse else of_card()
    if args.stage is not None:
        STAGES[NAMES.index(args.stage)].perform(setting, args.out)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    stages = [stage for stage in STAGES if stage.name in (args.only or NAMES)]
    problems = run(stages, setting, args.out, args.budget, in_process, lambda line: print(line, flush=True))
    if problems:
        raise ArtefactError(problems, where=str(args.out), hint="the same command continues with what is missing")


if __name__ == "__main__":
    guarded(main)
