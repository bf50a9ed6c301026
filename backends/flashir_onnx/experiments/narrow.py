"""The products of one token of a base FLASH with each format of quantised weights in ONNX Runtime.

    python -m flashir_onnx.experiments.narrow --rows 1

All layers run in sequence, 112M weights, so that none stays in a cache. `leak` is the relative change of the results of
a row if another row becomes ten times as large. Rows are tokens, which must not affect each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from flashir.backends.protocols import Array
from flashir.bench.interleaved import interleaved
from flashir.reference.compare import relative_error
from flashir_onnx import blocks
from flashir_onnx.blocks import Blocks
from flashir_onnx.quantise import columns

Weights = dict[str, Array]
Form = Callable[[str, str, str, Array, Weights], Iterator[NodeProto]]
"""(input, result, name of the weight [k, n], the weight, the weights of the model to add to) -> nodes."""

D, E, S, LAYERS, VOCAB = 768, 1536, 128, 24, 32000


def _float32(x: str, y: str, name: str, w: Array, out: Weights) -> Iterator[NodeProto]:
    out[name] = w
    yield helper.make_node("MatMul", [x, name], [y])


def _float16(cast: bool) -> Form:
    def form(x: str, y: str, name: str, w: Array, out: Weights) -> Iterator[NodeProto]:
        out[name] = w.astype(np.float16)
        wide, narrow = TensorProto.FLOAT, TensorProto.FLOAT16
        if cast:
            yield helper.make_node("Cast", [name], [f"{name}.wide"], to=wide)
            yield helper.make_node("MatMul", [x, f"{name}.wide"], [y])
        else:
            yield helper.make_node("Cast", [x], [f"{name}.x"], to=narrow)
            yield helper.make_node("MatMul", [f"{name}.x", name], [f"{name}.y"])
            yield helper.make_node("Cast", [f"{name}.y"], [y], to=wide)

    return form


def _in_blocks(block: int) -> Form:
    def form(x: str, y: str, name: str, w: Array, out: Weights) -> Iterator[NodeProto]:
        table = Blocks.of(w.T, blocks=[block])
        out.update(table.named(name))
        yield blocks.product(x, name, table, y)

    return form


def _dequantised(x: str, y: str, name: str, w: Array, out: Weights) -> Iterator[NodeProto]:
    out[f"{name}.w"], out[f"{name}.s"] = columns(w, axis=1)
    yield helper.make_node("DequantizeLinear", [f"{name}.w", f"{name}.s"], [name], axis=1)
    yield helper.make_node("MatMul", [x, name], [y])


def _fused(x: str, y: str, name: str, w: Array, out: Weights) -> Iterator[NodeProto]:
    out[f"{name}.w"], out[f"{name}.s"] = columns(w, axis=1)
    yield helper.make_node("DynamicQuantizeMatMul", [x, f"{name}.w", f"{name}.s"], [y], domain="com.microsoft")


def _integer(x: str, y: str, name: str, w: Array, out: Weights) -> Iterator[NodeProto]:
    """The form that quantize_dynamic of onnxruntime.quantization writes."""
    out[f"{name}.w"], out[f"{name}.s"] = columns(w, axis=1)
    yield helper.make_node("DynamicQuantizeLinear", [x], [f"{name}.x", f"{name}.xs", f"{name}.xz"])
    yield helper.make_node("MatMulInteger", [f"{name}.x", f"{name}.w", f"{name}.xz"], [f"{name}.i"])
    yield helper.make_node("Cast", [f"{name}.i"], [f"{name}.f"], to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [f"{name}.xs", f"{name}.s"], [f"{name}.ss"])
    yield helper.make_node("Mul", [f"{name}.f", f"{name}.ss"], [y])


FORMS: dict[str, Form] = {
    "float32": _float32,
    "float16, cast": _float16(cast=True),
    "float16": _float16(cast=False),
    **{f"MatMulNBits, {block}": _in_blocks(block) for block in (32, 64, 128, 256)},
    "DequantizeLinear": _dequantised,
    "DynamicQuantizeMatMul": _fused,
    "MatMulInteger": _integer,
}


def _model(form: Form, weights: Weights) -> bytes:
    """x [m, d] through every layer and the unembedding -> y [m, vocab]."""
    out: Weights = {"zero": np.array([0]), "e": np.array([E]), "last": np.array([-1])}
    nodes: list[NodeProto] = []
    x = "x"
    for name, w in weights.items():
        nodes += form(x, f"{name}.out", name, w, out)
        x = f"{name}.out"
        if w.shape[1] == 2 * E + S:  # the gate, instead of attention
            nodes.append(helper.make_node("Slice", [x, "zero", "e", "last"], [f"{name}.cut"]))
            x = f"{name}.cut"
    nodes.append(helper.make_node("Identity", [x], ["y"]))
    taken, result = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["m", n]) for name, n in (("x", D), ("y", VOCAB))
    )
    graph = helper.make_graph(nodes, "m", [taken], [result], [numpy_helper.from_array(w, n) for n, w in out.items()])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made_of: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return made_of


def _session(form: Form, weights: Weights) -> Callable[[Array], Array]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle sessions must not occupy cores
    session = ort.InferenceSession(_model(form, weights), options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"x": x})[0])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    random = np.random.default_rng(0)
    shapes = [(D, 2 * E + S), (E, D)] * LAYERS + [(D, VOCAB)]
    weights = {f"w{i}": (random.standard_normal(s) / np.sqrt(s[0])).astype(np.float32) for i, s in enumerate(shapes)}
    runs = {name: _session(form, weights) for name, form in FORMS.items()}
    x = random.standard_normal((max(2, args.rows), D)).astype(np.float32)
    louder = x * np.array([1.0] * (len(x) - 1) + [10.0], np.float32)[:, None]
    reference = runs["float32"](x)
    rows = x[: args.rows]
    samples = interleaved({name: partial(run, rows) for name, run in runs.items()}, args.rounds)
    print(f"{args.rows} rows, {sum(w.size for w in weights.values()) / 1e6:.0f}M weights")
    for name, run in runs.items():
        error, leak = relative_error(run(x), reference), relative_error(run(louder)[:-1], run(x)[:-1])
        print(f"{name:22} {samples[name].median:8.2f} ms   off by {error:.1e}   leak {leak:.0e}")


if __name__ == "__main__":
    main()
