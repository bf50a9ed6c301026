"""Operators of ONNX Runtime against what flashir emits for the same function: rotary embedding, linear attention.

    python -m flashir_onnx.experiments.contrib --seq-len 4096

LinearAttention needs opset 27, RotaryEmbedding opset 23; a runtime that lacks one raises an error.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper

from flashir.backends.lowering import Lowering
from flashir.bench.interleaved import interleaved
from flashir.ir import Builder, DType, Graph
from flashir.ops.functions.position import ref_sinusoid
from flashir.reference.compare import relative_error
from flashir_onnx.emit import emit
from flashir_onnx.session import Session

Array = npt.NDArray[np.float32]
HEADS, CHEAP, KEY, HEAD = 12, 4, 128, 64  # of a base layer: cheap heads of FLASH; heads of Performer
TILES = (64, 128, 256)
IR_VERSION = 10


@dataclass(frozen=True)
class Contest:
    """One function: the operator of ONNX Runtime and what flashir emits, as callables."""

    name: str
    own: Callable[[], Array]
    emitted: Mapping[str, Callable[[], Array]]


def _operator(kind: str, opset: int, arrays: Mapping[str, Array], outputs: int, **attrs: Any) -> Callable[[], Array]:
    """A function that runs a model of a single operator, and returns its first result."""
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in arrays.items()]
    results = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(outputs)]
    node = helper.make_node(kind, list(arrays), [f"y{i}" for i in range(outputs)], **attrs)
    graph = helper.make_graph([node], kind, inputs, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle sessions must not occupy cores
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: np.asarray(session.run(["y0"], dict(arrays))[0])


def _emitted(graph: Graph, *arrays: Array) -> Callable[[], Array]:
    session = Session(emit(Lowering.of("onnx:cpu").run(graph), {}))
    return lambda: session(arrays)


def rotary(seq_len: int) -> Contest:
    """Rotary embedding of the cheap heads of one layer, [b, h, t, s]."""
    x = np.random.default_rng(0).standard_normal((1, CHEAP, seq_len, KEY)).astype(np.float32)
    sin, cos = (table[None].astype(np.float32) for table in ref_sinusoid(seq_len, KEY // 2, DType.F64))
    b = Builder("rope")
    graph = b.finish(b.rope(b.input("x", f"f32[1, {CHEAP}, {seq_len}, {KEY}]"), axis=2))
    own = _operator("RotaryEmbedding", 23, {"x": x, "cos": cos, "sin": sin}, 1)
    return Contest("RotaryEmbedding", own, {"rope": _emitted(graph, x)})


def linear(seq_len: int) -> Contest:
    """The causal attention of one Performer layer: [b, t, h * s] for the operator, [b, h, t, s] for flashir."""
    random = np.random.default_rng(0)
    q, k, v = (random.random((1, HEADS, seq_len, HEAD)).astype(np.float32) for _ in range(3))
    flat = {name: x.swapaxes(1, 2).reshape(1, seq_len, -1).copy() for name, x in (("q", q), ("k", k), ("v", v))}
    counts = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    own = _operator("LinearAttention", 27, flat, 2, update_rule="linear", scale=1.0, **counts)

    def with_tile(tile: int) -> Callable[[], Array]:
        b = Builder("linear")
        xq, xk, xv = (b.input(name, f"f32[1, {HEADS}, {seq_len}, {HEAD}]") for name in "qkv")
        sums = {"causal": True, "cumsum": "native", "lin_norm": "none", "tile": tile}
        graph = b.finish(b.chunked_recurrence(xv, lin_q=xq, lin_k=xk, **sums))
        return _emitted(graph, q, k, v)

    def heads_apart() -> Array:
        return own().reshape(1, seq_len, HEADS, HEAD).swapaxes(1, 2)

    return Contest("LinearAttention", heads_apart, {f"tile {tile}": with_tile(tile) for tile in TILES})


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seq-len", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    for contest in (rotary(args.seq_len), linear(args.seq_len)):
        reference = contest.own()
        error = max(relative_error(run(), reference) for run in contest.emitted.values())
        samples = interleaved({contest.name: contest.own, **contest.emitted}, args.rounds)
        print(f"{contest.name}, T {args.seq_len}: {samples[contest.name].median:.2f} ms")
        for name in contest.emitted:
            ratio = samples[contest.name].ratio(samples[name])
            print(f"  emitted, {name:9} {samples[name].median:8.2f} ms; the operator takes {ratio:.2f} times as long")
        print(f"  largest difference {error:.1e}")


if __name__ == "__main__":
    main()
