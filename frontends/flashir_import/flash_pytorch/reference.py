"""FLASH-pytorch 0.1.9 in NumPy float64, after flash_pytorch.py, with the package's tensor names.

Imported models are compared with it, so it uses none of flashir's ops.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf

import numpy as np

from flashir.importing.importer import Arrays, Forward, Settings
from flashir.reference.arrays import Array
from flashir_import.parts import each_alone

Tensors = Callable[[str], Array]


def forward(model: Callable[[Tensors, Settings, Array], Array], arrays: Arrays, settings: Settings) -> Forward:
    """A model as a function of its input, and of a mask."""

    def tensor(name: str) -> Array:
        return np.asarray(arrays[name], np.float64)

    return each_alone(lambda x: model(tensor, settings, x))


def transformer(p: Tensors, settings: Settings, ids: Array) -> Array:
    """FLASHTransformer.forward (line 437)"""
    x = p("token_emb.weight")[ids]
    d = x.shape[-1]
    angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(0, d, 2) / d)
    x = x + np.concatenate([np.sin(angle), np.cos(angle)], -1) * p("abs_pos_emb.scale")
    for i in range(settings["depth"]):
        x = flash(lambda name, i=i: p(f"layers.{i}.{name}"), settings, x)  # type: ignore[misc]
    return layer_norm(x, p("to_logits.0.weight"), p("to_logits.0.bias"), 1e-5) @ p("to_logits.1.weight").T + p(
        "to_logits.1.bias"
    )


def flash(p: Tensors, settings: Settings, x: Array) -> Array:
    """FLASH.forward (line 279)"""
    n, g, causal = x.shape[1], settings["group_size"], settings["causal"]
    v, gate, qk = _projected(p, settings, x)
    cheap = [qk * gamma + beta for gamma, beta in zip(p("qk_offset_scale.gamma"), p("qk_offset_scale.beta"))]
    if settings["rope_dims"]:
        cheap = [_rotated(head, settings["rope_dims"]) for head in cheap]
    quad_q, lin_q, quad_k, lin_k = cheap
    bias = _bias(p, g, causal) * settings["query_key_dim"] ** 0.5
    out = np.zeros_like(v)
    linear = np.zeros((len(x), lin_k.shape[-1], v.shape[-1]))
    total = np.einsum("bnd,bne->bde", lin_k, v) / max(n, 1)
    for start in range(0, n, g):
        group = slice(start, min(start + g, n))
        length = group.stop - group.start
        scores = _function(settings, quad_q[:, group] @ quad_k[:, group].swapaxes(1, 2) / g + bias[:length, :length])
        out[:, group] = (np.tril(scores) if causal else scores) @ v[:, group]
        own = np.einsum("bnd,bne->bde", lin_k[:, group], v[:, group])
        if causal:
            out[:, group] += lin_q[:, group] @ linear
            linear = linear + own / g
        else:
            out[:, group] += lin_q[:, group] @ (total if settings["reduce_group_non_causal_attn"] else own / n)
    return (gate * out) @ p("to_out.weight").T + p("to_out.bias") + x


def gau(p: Tensors, settings: Settings, x: Array) -> Array:
    """GAU.forward (line 183)"""
    n = x.shape[1]
    v, gate, qk = _projected(p, settings, x)
    q, k = (qk * gamma + beta for gamma, beta in zip(p("offsetscale.gamma"), p("offsetscale.beta")))
    bias = _bias(p, n, settings["causal"]) * settings["dim"] ** 0.5
    scores = _function(settings, (q @ k.swapaxes(1, 2) + bias) / max(n, 1))
    out = (np.tril(scores) if settings["causal"] else scores) @ v * gate
    out = out @ p("to_out.0.weight").T + p("to_out.0.bias")
    return out + x if settings["add_residual"] else out


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    """nn.LayerNorm"""
    normed: Array = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias
    return normed


def _projected(p: Tensors, settings: Settings, x: Array) -> tuple[Array, Array, Array]:
    """v, gate, qk"""
    if settings["norm"] == "scale_norm":
        length = np.linalg.norm(x, axis=-1, keepdims=True) * x.shape[-1] ** -0.5
        normed = x / np.maximum(length, settings["norm_eps"]) * p("norm.g")
    else:
        normed = layer_norm(x, p("norm.weight"), p("norm.bias"), settings["norm_eps"])
    if settings.get("shift_tokens"):
        half = -(-x.shape[-1] // 2)  # torch.chunk makes the first part longer
        shifted = np.zeros_like(normed[..., :half])
        shifted[:, 1:] = normed[:, :-1, :half]
        normed = np.concatenate([shifted, normed[..., half:]], -1)
    hidden = _silu(normed @ p("to_hidden.0.weight").T + p("to_hidden.0.bias"))
    v, gate = np.split(hidden, 2, axis=-1)
    return v, gate, _silu(normed @ p("to_qk.0.weight").T + p("to_qk.0.bias"))


def _silu(x: Array) -> Array:
    result: Array = x * 0.5 * (1 + np.tanh(x / 2))
    return result


def _function(settings: Settings, x: Array) -> Array:
    """ReLUSquared or LaplacianAttnFn"""
    if not settings["laplace_attn_fn"]:
        return np.square(np.maximum(x, 0))
    deviation = (4 * np.pi) ** -0.5
    cumulative: Array = 0.5 * (1 + np.vectorize(erf, otypes=[np.float64])((x - 0.5**0.5) / (deviation * 2**0.5)))
    return cumulative


def _bias(p: Tensors, n: int, causal: bool) -> Array:
    """T5RelativePositionBias without its scale, [n, n]"""
    weights = p("rel_pos_bias.relative_attention_bias.weight")[:, 0]
    distance = np.arange(n)[:, None] - np.arange(n)
    buckets, offset = (32, 0) if causal else (16, 16 * (distance < 0))
    distance = np.maximum(distance, 0) if causal else np.abs(distance)
    exact = buckets // 2
    log_bucket = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.log(128 / exact) * (buckets - exact)
    far = np.minimum(exact + np.floor(log_bucket + 1e-6).astype(int), buckets - 1)
    bias: Array = weights[offset + np.where(distance < exact, distance, far)]
    return bias


def _rotated(x: Array, dims: int) -> Array:
    """RotaryEmbedding.rotate_queries_or_keys: adjacent pairs of the first `dims` channels"""
    angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(0, dims, 2) / dims)
    even, odd = x[..., 0:dims:2], x[..., 1:dims:2]
    out = x.copy()
    out[..., 0:dims:2] = even * np.cos(angle) - odd * np.sin(angle)
    out[..., 1:dims:2] = odd * np.cos(angle) + even * np.sin(angle)
    return out
