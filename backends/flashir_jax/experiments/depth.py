"""The time of JAX to trace and compile a model by its number of layers; `repeat` is one loop, traced once.

python -m flashir_jax.experiments.depth --depth 12 --depth 72 --d-model 768 --seq-len 1024
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import flashir
from flashir.bench.interleaved import Samples, interleaved
from flashir.ir import Graph
from flashir.ir.parameter_names import parameters
from flashir_jax.export import specs
from flashir_jax.functions import Function, function, lower


@dataclass(frozen=True)
class Sizes:
    """Flash models for token ids [b, t].

    Args:
        batch, seq_len: b and t.
        d_model, vocab, chunk, cumsum: settings of the models.
        named: pass parameters by full name, each an argument of the program; otherwise one array for all layers.
    """

    batch: int
    seq_len: int
    d_model: int
    vocab: int
    chunk: int
    cumsum: str
    named: bool

    def model(self, depth: int) -> Graph:
        """The model with this many layers."""
        own = {name: getattr(self, name) for name in ("d_model", "vocab", "chunk", "cumsum")}
        return flashir.model("flash", depth=depth, **own)


def measure(sizes: Sizes, depths: list[int], rounds: int) -> dict[tuple[str, int], Samples]:
    """Interleaved milliseconds to trace and compile `forward` and `gradient` for each number of layers."""
    contestants: dict[tuple[str, int], Callable[[], object]] = {}
    for depth in depths:
        model = sizes.model(depth)
        apply = function(lower(model, batch=sizes.batch, seq_len=sizes.seq_len))
        named = {name: _spec(param.shape) for name, param in parameters(model).items()}
        arguments = named if sizes.named else specs(apply.parameters)
        for what, call in (("forward", apply), ("gradient", _gradient(apply))):
            contestants[what, depth] = _compiling(call, arguments, _spec((sizes.batch, sizes.seq_len), np.int32))
    return interleaved(contestants, rounds)


def _gradient(apply: Function) -> Callable[..., Any]:
    """The gradient of the mean of the logits for every parameter."""
    return jax.grad(lambda params, ids: apply(params, ids).mean())


def _compiling(call: Callable[..., Any], *specs: Any) -> Callable[[], object]:
    """A function that traces and compiles again with empty caches."""

    def run() -> None:
        jax.clear_caches()
        jax.jit(call).lower(*specs).compile()

    return run


def _spec(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return jax.ShapeDtypeStruct(shape, dtype)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, action="append", help="repeatable; ratios are relative to the first")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--cumsum", choices=("scan", "matmul", "native"), default="matmul")
    parser.add_argument("--named", action="store_true", help="parameters by full name")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    settings = vars(parser.parse_args())
    as_json, depths, rounds = settings.pop("json"), settings.pop("depth") or [12, 72], settings.pop("rounds")
    results = measure(Sizes(**settings), depths, rounds)
    if as_json:
        rows = [
            {"what": what, "depth": depth, "ms": samples.median, "ratio": samples.ratio(results[what, depths[0]])}
            for (what, depth), samples in results.items()
        ]
        print(json.dumps({**settings, "rounds": rounds, "compiled": rows}))
        return
    print(", ".join(f"{name} {value}" for name, value in settings.items()))
    for (what, depth), samples in results.items():
        low, high = samples.quartiles
        print(
            f"{what:8}  {depth:3} layers  {samples.median:8.0f} ms ({low:.0f} to {high:.0f}),"
            f" {samples.ratio(results[what, depths[0]]):.2f} times {depths[0]} layers"
        )


if __name__ == "__main__":
    main()
