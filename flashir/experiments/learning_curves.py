"""Compare the learning curves of targets: the same model, seed and batches on each.

python -m flashir.experiments.learning_curves --data books/train
python -m flashir.experiments.learning_curves --data books/train --target torch:cpu --target jax:cpu --steps 200
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import combinations

import flashir
from flashir.backends.training import AdamW, Batch
from flashir.execution.timed_step import LEARNING_RATE
from flashir.execution.trainer import new_trainer
from flashir.experiments.command import count, guarded
from flashir.ir import Graph
from flashir.models.parameters import init
from flashir.train.data import TextBatches, Tokenizer
from flashir.train.data import prepare as read
from flashir.train.schedule import Schedule

CLIP = 0.1  # Table 6


def curve(model: Graph, target: str, batch_of: Callable[[int], Batch], steps: int) -> list[float]:
    """The loss of every step; a tenth of the steps are warm-up.

    Args:
        model: the settled model; its parameters have seed 0.
        target: the target to train on.
        batch_of: returns the batch of a step, from 0.
        steps: the number of steps.

    Raises:
        TargetError: the target is not available, or cannot train.
    """
    trainer = new_trainer(model, target, init(model), AdamW(clip=CLIP))
    rate = Schedule(LEARNING_RATE, steps // 10, steps)
    return [trainer.step([batch_of(number)], rate(number + 1)).loss for number in range(steps)]


def farthest(curves: Sequence[Sequence[float]]) -> float:
    """The largest difference between any two curves at any step."""
    return max((abs(a - b) for one, other in combinations(curves, 2) for a, b in zip(one, other)), default=0.0)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, help="a text file, or a folder of them")
    parser.add_argument("--target", action="append", help="torch:cpu and jax:cpu by default")
    for name, default in (("steps", 200), ("batch", 8), ("seq-len", 256), ("depth", 4), ("d-model", 128), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int if name == "seed" else count, default=default)
    args = parser.parse_args()
    tokenizer = Tokenizer.bytes()
    open_model = flashir.model("flash", d_model=args.d_model, depth=args.depth, vocab=tokenizer.vocab)
    targets = args.target or ["torch:cpu", "jax:cpu"]
    model = flashir.plan(open_model, targets[0], args.batch, args.seq_len, training=True, measured=False).graph
    corpus = read(args.data, tokenizer)
    batches = TextBatches(corpus, "lm", args.batch, args.seq_len, args.seed, segments=False, vocab=tokenizer.vocab)
    curves = {target: curve(model, target, batches.at, args.steps) for target in targets}
    print(f"{'step':>5}", *(f"{target:>10}" for target in curves))
    for number, losses in enumerate(zip(*curves.values()), 1):
        if number == 1 or number % max(1, args.steps // 10) == 0:
            print(f"{number:5}", *(f"{loss:10.5f}" for loss in losses))
    print(f"the largest difference over {args.steps} steps is {farthest(list(curves.values())):.1e} nats")


if __name__ == "__main__":
    guarded(main)
