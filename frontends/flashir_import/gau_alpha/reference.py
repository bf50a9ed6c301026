"""GAUAlphaForMaskedLM of gau-alpha 0.0.3 in NumPy float64, after layer.py, with the package's tensor names."""

from __future__ import annotations

import numpy as np

from flashir.importing.importer import Arrays, Forward, Settings
from flashir.reference.arrays import Array
from flashir_import.parts import each_alone

INF = 1e4


def masked_lm(arrays: Arrays, settings: Settings) -> Forward:
    """The model as a function of token ids, in which those of padding are masked, or of any ids and a mask."""

    def p(name: str) -> Array:
        return np.asarray(arrays[name], np.float64)

    def model(ids: Array, mask: Array) -> Array:
        embeddings = "gau_alpha.embeddings."
        x = p(f"{embeddings}word_embeddings.weight")[ids] + p(f"{embeddings}token_type_embeddings.weight")[0]
        x = _norm(x, settings)
        for i in range(settings["num_hidden_layers"]):
            x = _norm(x + _unit(p, settings, f"gau_alpha.encoder.layer.{i}.gau.", x, mask[:, None]), settings)
        logits: Array = x @ p("cls.predictions.decoder.weight").T
        return logits

    def run(ids: Array, mask: Array | None = None) -> Array:
        if mask is None:
            return model(ids, ids != settings["pad_token_id"])
        return each_alone(lambda row: model(row, np.ones(row.shape, np.bool_)))(ids, mask)

    return run


def _norm(x: Array, settings: Settings) -> Array:
    """Norm.forward"""
    normed: Array = x / np.sqrt(np.mean(x * x, -1, keepdims=True) + settings["layer_norm_eps"])
    return normed


def _unit(p: Forward, settings: Settings, prefix: str, x: Array, mask: Array) -> Array:
    """GatedAttentionUnit.forward"""
    wide, s, bias = settings["intermediate_size"], settings["attention_key_size"], settings["use_bias"]

    def bias_of(name: str) -> Array | float:
        return p(f"{prefix}{name}.bias") if bias else 0.0

    h = x @ p(f"{prefix}i_dense.weight").T + bias_of("i_dense")
    u, v, z = np.split(h / (1 + np.exp(-h)), [wide, 2 * wide], axis=-1)
    q, k = (
        _rotated(z * p(f"{prefix}{name}_scaleoffset.weight") + bias_of(f"{name}_scaleoffset"), s) for name in ("q", "k")
    )
    scores = q @ k.swapaxes(1, 2) / (s**0.5 if settings["attention_scale"] else 1)
    scores = np.where(mask, scores, -INF)
    length = mask.sum(-1, keepdims=True)
    if settings["normalization"] == "squared_relu":
        weights = np.maximum(scores, 0) ** 2 / length
    else:
        softmax = settings["normalization"] == "softmax"
        scores = scores * (1 if softmax else np.log(length) / np.log(512))
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        weights = powers / powers.sum(-1, keepdims=True)
    out: Array = (u * (weights @ v)) @ p(f"{prefix}o_dense.weight").T + bias_of("o_dense")
    return out


def _rotated(x: Array, s: int) -> Array:
    """apply_rotary: pairs of even and odd channels are rotated, then concatenated"""
    angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-2 * np.arange(s // 2) / s)
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.concatenate([even * np.cos(angle) - odd * np.sin(angle), even * np.sin(angle) + odd * np.cos(angle)], -1)
