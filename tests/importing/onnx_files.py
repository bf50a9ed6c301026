"""ONNX files as torch.onnx writes them of FLASH-pytorch: einsums, a running sum, no names of weights, any length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = Any
Tensors = Mapping[str, Array]
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


class Writer:
    """Collects nodes and weights; every value has a number as its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *operands: Any, results: int = 1, **attrs: Any) -> Any:
        names = [each if isinstance(each, str) else self.weight(each) for each in operands]
        made = [f"v{len(self.nodes)}_{number}" for number in range(results)]
        self.nodes.append(helper.make_node(kind, names, made, name=f"{kind}_{len(self.nodes)}", **attrs))
        return made[0] if results == 1 else made

    def weight(self, array: Any) -> str:
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.weights.append(
            numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), f"w{len(self.weights)}")
        )
        return self.weights[-1].name

    def model(self, x: str, result: str, shape: list[Any], tokens: bool) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [result], ["y"]))
        inputs = [helper.make_tensor_value_info(x, INT if tokens else FLOAT, shape)]
        outputs = [helper.make_tensor_value_info("y", FLOAT, None)]
        graph = helper.make_graph(self.nodes, "main_graph", inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def transformer(p: Tensors, options: Mapping[str, Any], length: int | None = None) -> onnx.ModelProto:
    """FLASHTransformer with these tensors."""
    w = Writer()
    d = p["token_emb.weight"].shape[1]
    x = w.op("Gather", p["token_emb.weight"], "x", axis=0)
    angles = _angles(w, x, 10000.0 ** (-np.arange(0, d, 2) / d))
    sines = w.op("Concat", w.op("Sin", angles), w.op("Cos", angles), axis=-1)
    x = w.op("Add", w.op("Mul", sines, p["abs_pos_emb.scale"]), x)
    for number in range(sum(name.endswith("to_out.bias") for name in p)):
        prefix = f"layers.{number}."
        own = {name.removeprefix(prefix): array for name, array in p.items() if name.startswith(prefix)}
        x = flash(w, x, own, options)
    x = w.op("LayerNormalization", x, p["to_logits.0.weight"], p["to_logits.0.bias"], axis=-1, epsilon=1e-5)
    return w.model("x", _linear(w, x, p, "to_logits.1"), ["b", length or "n"], True)


def layer(kind: Any, p: Tensors, options: Mapping[str, Any], length: int | None = None) -> onnx.ModelProto:
    """A layer by itself; `kind` is `flash`, `gau` or `paper`."""
    w = Writer()
    d = next(array.shape[0] for name, array in p.items() if name.endswith("to_out.bias") or name == "to_out.0.bias")
    return w.model("x", kind(w, "x", p, options), ["b", length or "n", d], False)


def flash(w: Writer, x: str, p: Tensors, options: Mapping[str, Any]) -> str:
    """FLASH.forward"""
    g, causal = options["group_size"], options["causal"]
    v, gate, qk = _projected(w, x, p, options)
    heads = _offset_scale(w, qk, p, "qk_offset_scale", 4)
    if "rotary_pos_emb.freqs" in p:
        angles = _angles(w, x, p["rotary_pos_emb.freqs"])
        heads = [_rotated(w, head, angles, 2 * len(p["rotary_pos_emb.freqs"])) for head in heads]
    length = _size(w, x, 1)
    lacking = w.op("Mod", w.op("Neg", length), np.array([g]))
    pads = w.op("Concat", np.zeros(4, np.int64), lacking, np.zeros(1, np.int64), axis=0)
    grouped = [
        w.op("Reshape", w.op("Pad", each, pads, np.float32(0)), np.array([0, -1, g, width]))
        for each, width in [*((head, len(p["to_qk.0.bias"])) for head in heads), (v, p["to_out.weight"].shape[1])]
    ]
    quad_q, lin_q, quad_k, lin_k, v = grouped
    scores = w.op("Div", w.op("Einsum", quad_q, quad_k, equation="... i d, ... j d -> ... i j"), np.float32(g))
    scores = w.op("Add", scores, _bias(w, p, g, causal, len(p["to_qk.0.bias"]) ** 0.5))
    real = w.op("Less", w.op("Range", np.int64(0), w.op("Squeeze", w.op("Add", length, lacking)), np.int64(1)), length)
    weights = w.op(
        "Where", w.op("Reshape", real, np.array([1, -1, 1, g])), _function(w, scores, options), np.float32(0)
    )
    if causal:
        weights = w.op("Where", np.triu(np.ones((g, g), bool), 1), np.float32(0), weights)
    local = w.op("Einsum", weights, v, equation="... i j, ... j d -> ... i d")
    if causal:
        state = w.op("Div", w.op("Einsum", lin_k, v, equation="b g n d, b g n e -> b g d e"), np.float32(g))
        state = w.op("CumSum", state, np.int64(1))
        state = w.op("Pad", state, np.array([0, 1, 0, 0, 0, -1, 0, 0]), np.float32(0))
        far = w.op("Einsum", state, lin_q, equation="b g d e, b g n d -> b g n e")
    else:
        context = "b d e" if options["reduce_group_non_causal_attn"] else "b g d e"
        state = w.op("Einsum", lin_k, v, equation=f"b g n d, b g n e -> {context}")
        state = w.op("Div", state, w.op("Cast", length, to=FLOAT))
        far = w.op("Einsum", lin_q, state, equation=f"b g n d, {context} -> b g n e")
    parts = [w.op("Reshape", each, np.array([0, -1, p["to_out.weight"].shape[1]])) for each in (local, far)]
    local, far = (w.op("Slice", each, np.array([0]), length, np.array([1])) for each in parts)
    return w.op("Add", _linear(w, w.op("Mul", gate, w.op("Add", local, far)), p, "to_out"), x)


def gau(w: Writer, x: str, p: Tensors, options: Mapping[str, Any]) -> str:
    """GAU.forward at the length `n` of the options; without a bias if that is None, for any length"""
    n = options["n"]
    v, gate, qk = _projected(w, x, p, options)
    q, k = _offset_scale(w, qk, p, "offsetscale", 2)
    scores = w.op("Einsum", q, k, equation="b i d, b j d -> b i j")
    if n is not None:
        scores = w.op("Add", scores, _bias(w, p, n, options["causal"], len(p["to_out.0.bias"]) ** 0.5))
    length = w.op("Squeeze", _size(w, x, 1))
    weights = _function(w, w.op("Div", scores, w.op("Cast", length, to=FLOAT)), options)
    if options["causal"]:
        at = w.op("Range", np.int64(0), length, np.int64(1))
        after = w.op("Less", w.op("Unsqueeze", at, np.array([1])), at)
        weights = w.op("Where", after, np.float32(0), weights)
    out = w.op("Mul", w.op("Einsum", weights, v, equation="b i j, b j d -> b i d"), gate)
    out = _linear(w, out, p, "to_out.0")
    return w.op("Add", out, x) if options["add_residual"] else out


def paper(w: Writer, x: str, p: Tensors, options: Mapping[str, Any]) -> str:
    """A flash layer in other words: one projection, matrix products, a norm in small ops, the bias of Code 4."""
    g, s, e = options["chunk"], p["offset_scale.gamma"].shape[1], p["proj_out.weight"].shape[0]
    centred = w.op("Sub", x, w.op("ReduceMean", x, axes=[-1]))
    spread = w.op("ReduceMean", w.op("Mul", centred, centred), axes=[-1])
    normed = w.op("Div", centred, w.op("Sqrt", w.op("Add", spread, np.float32(1e-5))))
    normed = w.op("Add", w.op("Mul", normed, p["norm.scale"]), p["norm.bias"])
    hidden = _silu(w, w.op("Add", w.op("MatMul", normed, p["proj_in.weight"]), p["proj_in.bias"]))
    gate, v, z = w.op("Split", hidden, np.array([e, e, s]), axis=-1, results=3)
    heads = []
    for gamma, beta in zip(p["offset_scale.gamma"], p["offset_scale.beta"]):
        heads.append(w.op("Reshape", w.op("Add", w.op("Mul", z, gamma), beta), np.array([0, -1, g, s])))
    quad_q, quad_k, lin_q, lin_k = heads
    v = w.op("Reshape", v, np.array([0, -1, g, e]))
    at = np.arange(g)[None] - np.arange(g)[:, None] + g - 1
    scores = w.op("MatMul", w.op("Mul", quad_q, np.float32(1 / g)), w.op("Transpose", quad_k, perm=[0, 1, 3, 2]))
    scores = w.op("Relu", w.op("Add", scores, p["rel_bias.w"][at]))
    weights = w.op("Mul", w.op("Mul", scores, scores), np.tril(np.ones((g, g), np.float32)))
    state = w.op("MatMul", w.op("Transpose", lin_k, perm=[0, 1, 3, 2]), v)
    state = w.op("CumSum", state, np.int64(1), exclusive=1)
    out = w.op("Add", w.op("MatMul", weights, v), w.op("MatMul", lin_q, state))
    out = w.op("Mul", w.op("Reshape", out, np.array([0, -1, e])), gate)
    return w.op("Add", w.op("Add", w.op("MatMul", out, p["proj_out.weight"]), p["proj_out.bias"]), x)


def _projected(w: Writer, x: str, p: Tensors, options: Mapping[str, Any]) -> tuple[str, str, str]:
    if "norm.g" in p:
        size = w.op("Mul", w.op("ReduceL2", x, axes=[-1]), np.float32(p["to_qk.0.weight"].shape[1] ** -0.5))
        normed = w.op("Mul", w.op("Div", x, w.op("Clip", size, np.float32(1e-5))), p["norm.g"])
    else:
        normed = w.op("LayerNormalization", x, p["norm.weight"], p["norm.bias"], axis=-1, epsilon=1e-5)
    if options.get("shift_tokens"):
        late, own = w.op("Split", normed, axis=-1, results=2)
        late = w.op("Pad", late, np.array([0, 1, 0, 0, -1, 0]), np.float32(0))
        normed = w.op("Concat", late, own, axis=-1)
    v, gate = w.op("Split", _silu(w, _linear(w, normed, p, "to_hidden.0")), axis=-1, results=2)
    return v, gate, _silu(w, _linear(w, normed, p, "to_qk.0"))


def _linear(w: Writer, x: str, p: Tensors, name: str) -> str:
    return w.op("Add", p[f"{name}.bias"], w.op("MatMul", x, p[f"{name}.weight"].T))


def _silu(w: Writer, x: str) -> str:
    return w.op("Mul", x, w.op("Sigmoid", x))


def _offset_scale(w: Writer, qk: str, p: Tensors, name: str, heads: int) -> list[str]:
    scaled = w.op("Add", w.op("Einsum", qk, p[f"{name}.gamma"], equation="... d, h d -> ... h d"), p[f"{name}.beta"])
    return [w.op("Squeeze", each, np.array([-2])) for each in w.op("Split", scaled, axis=-2, results=heads)]


def _size(w: Writer, x: str, axis: int) -> str:
    return w.op("Shape", x, start=axis, end=axis + 1)


def _angles(w: Writer, x: str, rates: Array) -> str:
    """[n, r / 2]"""
    at = w.op("Range", np.int64(0), w.op("Squeeze", _size(w, x, 1)), np.int64(1))
    return w.op("Einsum", w.op("Cast", at, to=FLOAT), rates, equation="i , j -> i j")


def _rotated(w: Writer, head: str, angles: str, dims: int) -> str:
    turned, rest = (w.op("Slice", head, *map(np.array, at)) for at in ([[0], [dims], [-1]], [[dims], [10**9], [-1]]))
    twice = w.op(
        "Reshape", w.op("Expand", w.op("Unsqueeze", angles, np.array([2])), np.array([1, 1, 2])), np.array([-1, dims])
    )
    even, odd = w.op("Split", w.op("Reshape", turned, np.array([0, 0, -1, 2])), axis=-1, results=2)
    across = w.op("Reshape", w.op("Concat", w.op("Neg", odd), even, axis=-1), np.array([0, 0, dims]))
    turned = w.op("Add", w.op("Mul", turned, w.op("Cos", twice)), w.op("Mul", across, w.op("Sin", twice)))
    return w.op("Concat", turned, rest, axis=-1)


def _function(w: Writer, scores: str, options: Mapping[str, Any]) -> str:
    if not options["laplace_attn_fn"]:
        return w.op("Pow", w.op("Relu", scores), np.float32(2))
    width = (4 * np.pi) ** -0.5 * 2**0.5
    shifted = w.op("Div", w.op("Sub", scores, np.float32(0.5**0.5)), np.float32(width))
    return w.op("Mul", w.op("Add", w.op("Erf", shifted), np.float32(1)), np.float32(0.5))


def _bias(w: Writer, p: Tensors, n: int, causal: bool, scale: float) -> str:
    """T5RelativePositionBias"""
    buckets = np.array([[_bucket(query - key, causal) for key in range(n)] for query in range(n)])
    weights = p["rel_pos_bias.relative_attention_bias.weight"]
    return w.op("Mul", w.op("Squeeze", w.op("Gather", weights, buckets, axis=0), np.array([2])), np.float32(scale))


def _bucket(distance: int, causal: bool) -> int:
    half = 16 if causal else 8
    first = 0 if causal or distance >= 0 else 2 * half
    distance = max(distance, 0) if causal else abs(distance)
    if distance < half:
        return first + distance
    return first + min(half + int(np.log(distance / half) / np.log(128 / half) * half + 1e-6), 2 * half - 1)


def saved(model: onnx.ModelProto, path: Path, *, outside: bool = False) -> Path:
    """Writes a model; `outside`, with its weights in a file beside it."""
    onnx.save(model, path, save_as_external_data=outside, location=f"{path.name}.data", size_threshold=0)
    return path
