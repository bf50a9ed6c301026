"""GAUAlphaForMaskedLM of gau-alpha 0.0.3 in NumPy float64, after layer.py, with the package's tensor names."""

from __future__ import annotations

import numpy as np

from flashir.importing.importer import Array, Arrays, Forward, Settings

INF = 1e4


def masked_lm(arrays: Arrays, settings: Settings) -> Forward:
    """The model as a function of token ids."""

    def p(name: str) -> Array:
        return np.asarray(arrays[name], np.float64)

    def run(ids: Array) -> Array:
        embeddings = "gau_alpha.embeddings."
        x = p(f"{embeddings}word_embeddings.weight")[ids] + p(f"{embeddings}token_type_embeddings.weight")[0]
        x = _norm(x, settings)
        mask = (ids != settings["pad_token_id"])[:, None, :]
        for i in range(settings["num_hidden_layers"]):
            x = _norm(x + _unit(p, settings, f"gau_alpha.encoder.layer.{i}.gau.", x, mask), settings)
        logits: Array = x @ p("cls.predictions.decoder.weight").T
        return logits

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
