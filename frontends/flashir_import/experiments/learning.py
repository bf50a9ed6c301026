"""Trains a FLASHTransformer of FLASH-pytorch, and what flashir imports of it, on the same rows with the same steps.

python -m flashir_import.experiments.learning --steps 400
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import flashir
from flashir.backends.training import NO_LABEL, AdamW
from flashir.compare.task_data import TaskData, TaskFeed
from flashir.compare.tasks import TASKS, Task, task_named
from flashir.execution.trainer import new_trainer
from flashir.experiments.command import count, guarded
from flashir.reference.arrays import Array
from flashir.train.recipe import Recipe
from flashir.train.schedule import Schedule

OPTIMISER = AdamW(epsilon=1e-6, weight_decay=0.01)  # unclipped: flashir joins matrices of the package, and clips each


def rival(*, width: int, depth: int, keys: int, chunk: int, vocab: int, seed: int) -> Any:
    """A causal FLASHTransformer as the package starts it."""
    import torch
    from flash_pytorch import FLASHTransformer

    torch.manual_seed(seed)
    sizes = {"dim": width, "depth": depth, "num_tokens": vocab, "query_key_dim": keys, "group_size": chunk}
    return FLASHTransformer(**sizes, causal=True, norm_type="layernorm", shift_tokens=True)


def _losses(module: Any, feed: TaskFeed, schedule: Schedule) -> Iterator[float]:
    """Train the module, and yield the loss of each step."""
    import torch
    from torch.nn.functional import cross_entropy

    optimiser = torch.optim.AdamW(list(_groups(module)), betas=(OPTIMISER.beta1, OPTIMISER.beta2))
    for number in range(schedule.steps):
        batch = feed.at(number)
        for group in optimiser.param_groups:
            group["lr"] = schedule(number + 1) / group["scale"]
        logits = module(torch.from_numpy(batch.inputs[0]))
        loss = cross_entropy(logits.flatten(0, 1), torch.from_numpy(batch.labels).flatten(), ignore_index=NO_LABEL)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        yield loss.item()


def _groups(module: Any) -> Iterator[dict[str, Any]]:
    """The parameters of each scale. flashir learns the relative bias multiplied by the constant that the package has.

    A parameter p with w = c p follows w under AdamW if its rate is divided by c, and epsilon and decay multiplied by c.
    """
    scales = {
        id(layer.rel_pos_bias.relative_attention_bias.weight): layer.rel_pos_bias.scale for layer in module.layers
    }
    for parameter in module.parameters():
        if parameter.requires_grad:
            scale = scales.get(id(parameter), 1.0)
            settings = {"eps": OPTIMISER.epsilon * scale, "weight_decay": OPTIMISER.weight_decay * scale}
            yield {"params": [parameter], "scale": scale, **settings}


@dataclass
class Pair:
    """A module of the package, and what flashir imports of it, which learn the same task with the same recipe.

    Args:
        module: the module.
        task: the task.
        recipe: the settings, with a learning rate.
    """

    module: Any
    task: Task
    recipe: Recipe

    def __post_init__(self) -> None:
        imported, recipe = flashir.convert(self.module), self.recipe
        planned = flashir.plan(
            imported.model, recipe.target, recipe.batch, recipe.seq_len, training=True, measured=False
        )
        self._trainer = new_trainer(planned.graph, recipe.target, imported.params, OPTIMISER)
        self._graph = planned.graph
        self._feed, self._held_out = TaskData(self.task).feeds(planned.graph, recipe)

    def losses(self) -> Iterator[tuple[float, float]]:
        """The losses of each step: of flashir, and of the package."""
        schedule = self.recipe.schedule
        for number, theirs in enumerate(_losses(self.module, self._feed, schedule)):
            yield self._trainer.step([self._feed.at(number)], schedule(number + 1)).loss, theirs

    def shares(self) -> dict[str, dict[int, float]]:
        """The share of right answers by distance, of both."""
        import torch

        def theirs(ids: Array) -> Array:
            with torch.no_grad():
                logits: Array = self.module(torch.from_numpy(ids)).numpy()
            return logits

        learned = flashir.compile(self._graph, self.recipe.target, params=self._trainer.params())
        return {"flashir": self._shares(learned), "FLASH-pytorch": self._shares(theirs)}

    def _shares(self, logits: Callable[[Array], Array]) -> dict[int, float]:
        rows = self._held_out.held_out
        guesses, labels, distances = (
            np.concatenate(batches)
            for batches in zip(*((logits(row.ids).argmax(-1), row.labels, row.distances) for row in rows), strict=True)
        )
        places = {distance: distances == distance for distance in self.task.distances}
        return {distance: float(np.mean(guesses[at] == labels[at])) for distance, at in places.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, default="recall")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--steps", type=count, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    task = task_named(args.task, seq_len=60, chunk=12, vocab=80, items=4)
    module = rival(width=64, depth=2, keys=32, chunk=task.chunk, vocab=task.vocab, seed=args.seed)
    tokens, rate = 32 * task.seq_len, args.learning_rate
    recipe = Recipe(seq_len=task.seq_len, tokens=tokens, steps=args.steps, learning_rate=rate, seed=args.seed)
    pair, apart = Pair(module, task, recipe), 0.0
    print(f"{'step':>5} {'flashir':>10} {'FLASH-pytorch':>14} {'largest difference so far':>26}")
    for number, (ours, theirs) in enumerate(pair.losses(), 1):
        apart = max(apart, abs(ours - theirs))
        if number == 1 or number % max(1, args.steps // 10) == 0:
            print(f"{number:5} {ours:10.5f} {theirs:14.5f} {apart:26.1e}", flush=True)
    for name, shares in pair.shares().items():
        print(name, ", ".join(f"right at {distance}: {share:.2f}" for distance, share in shares.items()))


if __name__ == "__main__":
    guarded(main)
