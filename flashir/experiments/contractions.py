"""How close a model comes to its own contractions: the time of the whole over that of its matrix products alone.

    python -m flashir.experiments.contractions --d-model 768 --depth 4 --seq-len 4096 --target onnx:cpu

The products are those of the lowered graph, of the same shapes, in the same runtime, one after the other; those with
a weight get it as a weight, so that the runtime may lay it out as it likes, as it does in the model. The products in
the body of a `scan` count as one batched product over all its steps, which runs at least as fast.
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
    """The model's time, and that of its contractions."""

    whole: Samples
    bare: Samples
    products: int
    gigaflops: float

    @property
    def ratio(self) -> float:
        """Time of the model over the time of its contractions, round by round."""
        return self.whole.ratio(self.bare)


def measure(model: Graph, target: str, batch: int, seq_len: int, rounds: int) -> Result:
    """Time a model, choices made, against its own contractions.

    Raises:
        TargetError: the target is not at hand.
    """
    sizes = Workload(batch, seq_len).sizes(model)
    arrays = sample_inputs(model, sizes)
    whole = flashir.compile(model, target, flashir.init(model), batch=batch, seq_len=seq_len)
    lowered = Lowering.of(target).run(model)
    bare = list(_bare_products(lowered, sizes, target))
    times = interleaved({"whole": lambda: whole(*arrays), "bare": lambda: [run(xs) for run, xs, _ in bare]}, rounds)
    return Result(times["whole"], times["bare"], len(bare), sum(flops for *_, flops in bare) / 1e9)


def _bare_products(lowered: Graph, sizes: dict[str, int], target: str) -> Iterator[tuple[Run, list[Any], float]]:
    """One runnable for each product of the graph, those of a `repeat` once a round."""
    made: dict[_Product, tuple[Run, list[Any], float]] = {}
    for product, times in _products(lowered, sizes, 1, (), frozenset()):
        if product not in made:
            made[product] = product.compiled(target)
        for _ in range(times):
            yield made[product]


@dataclass(frozen=True)
class _Product:
    """x [.., m, k] times y [.., k, n], either of them given transposed; y may be a weight."""

    x: TensorType
    y: TensorType
    transpose_x: bool
    transpose_y: bool
    weight: bool

    def compiled(self, target: str) -> tuple[Run, list[Any], float]:
        """The product alone as a runnable, its inputs, and its floating-point operations."""
        b = Builder("product")
        left = b.input("x", self.x)
        right = (
            b.param(name="w", shape=self.y.sizes, dtype=self.y.dtype, scope="") if self.weight else b.input("y", self.y)
        )
        graph = b.finish(b.matmul(left, right, transpose_x=self.transpose_x, transpose_y=self.transpose_y))
        random = np.random.default_rng(0)
        arrays = [random.standard_normal(each.sizes).astype(np.float32) for each in (self.x, self.y)]
        record = find_target(target)
        params = {"w": arrays[1]} if self.weight else {}
        run = backend(record.backend).compile(Lowering.of(target).run(graph), params, record.device)
        k = self.x.sizes[-2] if self.transpose_x else self.x.sizes[-1]
        return run, arrays[:1] if self.weight else arrays, 2.0 * graph.outputs[0].type.count * k


def _products(
    graph: Graph, sizes: Mapping[str, int], times: int, steps: tuple[int, ...], weights: Set[Value]
) -> Iterator[tuple[_Product, int]]:
    """Every product, and how often it runs; `steps` are the lengths of the scans around it, joined to its rows.

    Among the inputs of the graph, `weights` are parameters, or parts of one.
    """
    weights = {*weights}
    for node in graph.nodes:
        if node.op == "param" or (node.op == "split" and node.operands[0] in weights):
            weights.update(node.outputs)
        elif node.op == "repeat" and node.region is not None:
            rounds = int(str(node.attrs["times"]))
            yield from _products(node.region, sizes, times * rounds, steps, _seen(node, weights))
        elif node.op == "scan" and node.region is not None:
            walked = cut_scan(node.operands, node.attrs)[1][0].type.bind(sizes)
            length = walked.sizes[int(str(node.attrs["axis"]))]
            yield from _products(node.region, sizes, times, (*steps, length), _seen(node, weights))
        elif node.op in PRODUCTS:
            x, y = (value.type.bind(sizes) for value in node.operands[:2])
            weight = node.operands[1] in weights
            x = x.with_shape((*steps, *x.shape))
            y = y if weight else y.with_shape((*steps, *y.shape))
            transpose_x, transpose_y = (bool(node.attrs.get(f"transpose_{name}", False)) for name in "xy")
            yield _Product(x, y, transpose_x, transpose_y, weight), times


def _seen(node: Node, weights: Set[Value]) -> Set[Value]:
    """The inputs of a body that are weights outside of it."""
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
    given = parser.parse_args()
    model = flashir.model(given.model, d_model=given.d_model, depth=given.depth, vocab=given.vocab)
    plan = flashir.plan(model, given.target, given.batch, given.seq_len, chunk=given.chunk)
    found = measure(plan.graph, given.target, given.batch, given.seq_len, given.rounds)
    if given.json:
        about = {"chunk": plan.chunk, "cumsum": plan.cumsum, "ratio": found.ratio, "products": found.products}
        print(json.dumps({**vars(given), **about, "whole_ms": found.whole.median, "bare_ms": found.bare.median}))
        return
    print(f"{given.model}, d {given.d_model}, {given.depth} layers, T {given.seq_len}, {given.target}")
    print(f"chunk {plan.chunk}, cumsum {plan.cumsum}")
    print(f"the model            {found.whole.median:9.1f} ms")
    print(f"its {found.products:3d} contractions {found.bare.median:9.1f} ms  ({found.gigaflops:.1f} GFLOP)")
    print(f"ratio                {found.ratio:9.3f}")


if __name__ == "__main__":
    guarded(main)
