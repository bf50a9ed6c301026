"""The overhead of a model over its contractions: the time of the model relative to that of its matrix products.

    python -m flashir.experiments.contractions --d-model 768 --depth 4 --seq-len 4096 --target onnx:cpu

The products are those of the lowered graph, with the same shapes, in the same runtime, one after the other. A weight
stays a weight, so that the runtime may choose its layout as in the model. The products in the body of a `scan` count as
one batched product over all its steps, which is at least as fast.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.protocols import Run
from flashir.backends.registry import backend
from flashir.bench.interleaved import Samples, interleaved
from flashir.experiments.command import count, guarded
from flashir.ir import Builder, Graph, Node, TensorType, Value
from flashir.machine.targets import target as find_target
from flashir.ops.primitive.scan import cut_scan
from flashir.planning.workload import Workload
from flashir.reference.compare import sample_inputs

PRODUCTS = ("matmul", "dense")


@dataclass(frozen=True)
class Result:
    """The time of a model and of its contractions."""

    whole: Samples
    bare: Samples
    products: int
    gigaflops: float

    @property
    def ratio(self) -> float:
        """The time of the model over that of its contractions, per round."""
        return self.whole.ratio(self.bare)


def measure(model: Graph, target: str, batch: int, seq_len: int, rounds: int) -> Result:
    """Time a settled model and its contractions.

    Raises:
        TargetError: the target is not available.
    """
    sizes = Workload(batch, seq_len).sizes(model)
    arrays = sample_inputs(model, sizes)
    whole = flashir.compile(model, target, flashir.init(model), batch=batch, seq_len=seq_len)
    lowered = Lowering.of(target).run(model)
    bare = list(_bare_products(lowered, sizes, target))
    times = interleaved({"whole": lambda: whole(*arrays), "bare": lambda: [run(xs) for run, xs, _ in bare]}, rounds)
    return Result(times["whole"], times["bare"], len(bare), sum(flops for *_, flops in bare) / 1e9)


def _bare_products(lowered: Graph, sizes: dict[str, int], target: str) -> Iterator[tuple[Run, list[Any], float]]:
    """A Run for each product of the graph, repeated for each layer of a `repeat`."""
    runs: dict[_Product, tuple[Run, list[Any], float]] = {}
    for product, times in _products(lowered, sizes, 1, (), frozenset()):
        if product not in runs:
            runs[product] = product.compiled(target)
        for _ in range(times):
            yield runs[product]


@dataclass(frozen=True)
class _Product:
    """x [.., m, k] times y [.., k, n], where each may be transposed; y may be a weight."""

    x: TensorType
    y: TensorType
    transpose_x: bool
    transpose_y: bool
    weight: bool

    def compiled(self, target: str) -> tuple[Run, list[Any], float]:
        """A Run of the product, its inputs, and its floating-point operations."""
        b = Builder("product")
        left = b.input("x", self.x)
        right = (
            b.param(name="w", shape=self.y.sizes, dtype=self.y.dtype, scope="") if self.weight else b.input("y", self.y)
        )
        graph = b.finish(b.matmul(left, right, transpose_x=self.transpose_x, transpose_y=self.transpose_y))
        random = np.random.default_rng(0)
        arrays = [random.standard_normal(type_.sizes).astype(np.float32) for type_ in (self.x, self.y)]
        record = find_target(target)
        params = {"w": arrays[1]} if self.weight else {}
        run = backend(record.backend).compile(Lowering.of(target).run(graph), params, record.device)
        k = self.x.sizes[-2] if self.transpose_x else self.x.sizes[-1]
        return run, arrays[:1] if self.weight else arrays, 2.0 * graph.outputs[0].type.count * k


def _products(
    graph: Graph, sizes: Mapping[str, int], times: int, steps: tuple[int, ...], weights: Set[Value]
) -> Iterator[tuple[_Product, int]]:
    """Every product, and how often it runs.

    `steps` are the lengths of the enclosing scans, which become batch axes. `weights` are the inputs of the graph that
    are parameters, or parts of one.
    """
    weights = {*weights}
    for node in graph.nodes:
        if node.op == "param" or (node.op == "split" and node.operands[0] in weights):
            weights.update(node.outputs)
        elif node.op == "repeat" and node.region is not None:
            rounds = int(str(node.attrs["times"]))
            yield from _products(node.region, sizes, times * rounds, steps, _seen(node, weights))
        elif node.op == "scan" and node.region is not None:
            sliced = cut_scan(node.operands, node.attrs)[1][0].type.bind(sizes)
            length = sliced.sizes[int(str(node.attrs["axis"]))]
            yield from _products(node.region, sizes, times, (*steps, length), _seen(node, weights))
        elif node.op in PRODUCTS:
            x, y = (value.type.bind(sizes) for value in node.operands[:2])
            weight = node.operands[1] in weights
            x = x.with_shape((*steps, *x.shape))
            y = y if weight else y.with_shape((*steps, *y.shape))
            transpose_x, transpose_y = (bool(node.attrs.get(f"transpose_{name}", False)) for name in "xy")
            yield _Product(x, y, transpose_x, transpose_y, weight), times


def _seen(node: Node, weights: Set[Value]) -> Set[Value]:
    """The inputs of a body that are weights outside."""
    assert node.region is not None
    return {inner for inner, outer in zip(node.region.inputs, node.operands, strict=True) if outer in weights}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="flash")
    parser.add_argument("--d-model", type=count, default=768)
    parser.add_argument("--depth", type=count, default=4)
    parser.add_argument("--vocab", type=count, default=256)
    parser.add_argument("--seq-len", type=count, default=4096)
    parser.add_argument("--batch", type=count, default=1)
    parser.add_argument("--chunk", type=count)
    parser.add_argument("--target", default="onnx:cpu")
    parser.add_argument("--rounds", type=count, default=11)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model = flashir.model(args.model, d_model=args.d_model, depth=args.depth, vocab=args.vocab)
    plan = flashir.plan(model, args.target, args.batch, args.seq_len, chunk=args.chunk)
    result = measure(plan.graph, args.target, args.batch, args.seq_len, args.rounds)
    if args.json:
        figures = {"chunk": plan.chunk, "cumsum": plan.cumsum, "ratio": result.ratio, "products": result.products}
        print(json.dumps({**vars(args), **figures, "whole_ms": result.whole.median, "bare_ms": result.bare.median}))
        return
    print(f"{args.model}, d {args.d_model}, {args.depth} layers, T {args.seq_len}, {args.target}")
    print(f"chunk {plan.chunk}, cumsum {plan.cumsum}")
    print(f"the model            {result.whole.median:9.1f} ms")
    print(f"its {result.products:3d} contractions {result.bare.median:9.1f} ms  ({result.gigaflops:.1f} GFLOP)")
    print(f"ratio                {result.ratio:9.3f}")


if __name__ == "__main__":
    guarded(main)
