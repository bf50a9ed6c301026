"""MossFormer2 of clearvoice 0.1.2 in NumPy float64, after its source, channels last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from flashir.importing.importer import Arrays, Forward, Settings
from flashir.reference.arrays import Array

Tensors = Callable[[str], Array]
GROUP = 256


def separation(arrays: Arrays, settings: Settings) -> Forward:
    """MossFormer.forward, with speakers on the last axis"""
    p, step = _tensors(arrays), settings["window"] // 2

    def run(wave: Array) -> Array:
        window, kernel = p("enc.conv1d.weight")[:, 0], p("dec.weight")[:, 0]
        frames = (wave.shape[1] - settings["window"]) // step + 1
        windows = np.stack([wave[:, i * step : i * step + settings["window"]] for i in range(frames)], 1)
        x = np.maximum(windows @ window.T, 0)
        out = np.zeros((*wave.shape, settings["speakers"]))
        for speaker, mask in enumerate(_mask_net(p, settings, x, "mask_net.")):
            parts = (x * mask) @ kernel
            for i in range(frames):
                out[:, i * step : i * step + settings["window"], speaker] += parts[:, i]
        return out

    return run


def enhancement(arrays: Arrays, settings: Settings) -> Forward:
    """MossFormer_MaskNet.forward of MossFormer2_SE, the first speaker"""
    p = _tensors(arrays)
    return lambda x: _mask_net(p, settings, x, "")[0]


def _tensors(arrays: Arrays) -> Tensors:
    return lambda name: np.asarray(arrays[name], np.float64)


def _mask_net(p: Tensors, settings: Settings, x: Array, prefix: str) -> list[Array]:
    d = settings["dim"]
    base = _normed(p, x, f"{prefix}norm", (1, 2), 1e-8) @ p(f"{prefix}conv1d_encoder.weight")[:, :, 0].T
    angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(0, d, 2) / d)
    base = base + np.concatenate([np.sin(angle), np.cos(angle)], -1) * p(f"{prefix}pos_enc.scale")
    y = base
    for i in range(settings["depth"]):
        y = _attention(p, settings, y, f"{prefix}mdl.intra_mdl.mossformerM.layers.{i}.")
        y = _memory_block(p, settings, y, f"{prefix}mdl.intra_mdl.mossformerM.fsmn.{i}.")
    y = _normed(p, y, f"{prefix}mdl.intra_mdl.norm", (2,), 1e-6)
    y = _normed(p, y, f"{prefix}mdl.intra_norm", (1, 2), 1e-8) + base
    y = _prelu(y, p(f"{prefix}prelu.weight"))
    y = _linear(p, y, f"{prefix}conv1d_out")
    masks = []
    for part in np.split(y, settings["speakers"], axis=-1):
        gate = _sigmoid(_linear(p, part, f"{prefix}output_gate.0"))
        both = np.tanh(_linear(p, part, f"{prefix}output.0")) * gate
        masks.append(np.maximum(both @ p(f"{prefix}conv1_decoder.weight")[:, :, 0].T, 0))
    return masks


def _attention(p: Tensors, settings: Settings, x: Array, name: str) -> Array:
    """FLASH_ShareA_FFConvM.forward"""
    n, half = x.shape[1], -(-x.shape[2] // 2)
    shifted = x.copy()
    shifted[:, 1:, :half], shifted[:, :1, :half] = x[:, :-1, :half], 0
    v, u = np.split(_feed_forward(p, shifted, f"{name}to_hidden."), 2, axis=-1)
    qk = _feed_forward(p, shifted, f"{name}to_qk.")
    cheap = [
        qk * gamma + beta for gamma, beta in zip(p(f"{name}qk_offset_scale.gamma"), p(f"{name}qk_offset_scale.beta"))
    ]
    quad_q, lin_q, quad_k, lin_k = (_rotated(head, settings["rope_dims"]) for head in cheap)

    def attended(values: Array) -> Array:
        out: Array = lin_q @ (lin_k.swapaxes(1, 2) @ values) / n
        for start in range(0, n, GROUP):
            group = slice(start, start + GROUP)
            scores = np.maximum(quad_q[:, group] @ quad_k[:, group].swapaxes(1, 2) / GROUP, 0) ** 2
            out[:, group] += scores @ values[:, group]
        return out

    out = (attended(u) * v) * _sigmoid(attended(v) * u)
    return x + _feed_forward(p, out, f"{name}to_out.")


def _feed_forward(p: Tensors, x: Array, name: str) -> Array:
    """FFConvM.forward, with scale norm if there is a `g`, else layer norm"""
    try:
        gain = p(f"{name}mdl.0.g")
        length = np.linalg.norm(x, axis=-1, keepdims=True) * x.shape[-1] ** -0.5
        normed = x / np.maximum(length, 1e-5) * gain
    except KeyError:
        normed = _normed(p, x, f"{name}mdl.0", (2,), 1e-5)
    h = _linear(p, normed, f"{name}mdl.1")
    h = h * _sigmoid(h)
    return h + _convolved(h, p(f"{name}mdl.3.sequential.1.conv.weight"), 1)


def _memory_block(p: Tensors, settings: Settings, x: Array, name: str) -> Array:
    """Gated_FSMN_Block.forward and Gated_FSMN_Block_Dilated.forward"""
    h = _prelu(_linear(p, x, f"{name}conv1.0"), p(f"{name}conv1.1.weight"))
    h = _normed(p, h, f"{name}norm1", (2,), 1e-5)
    u = _feed_forward(p, h, f"{name}gated_fsmn.to_u.")
    v = _feed_forward(p, h, f"{name}gated_fsmn.to_v.")
    fsmn = f"{name}gated_fsmn.fsmn."
    f = np.maximum(_linear(p, u, f"{fsmn}linear"), 0) @ p(f"{fsmn}project.weight").T
    if settings["dilated"]:
        skip, out = f, f
        for i, dilation in ((1, 1), (2, 2)):
            out = _convolved(skip, p(f"{fsmn}conv.conv{i}.weight")[..., 0], dilation)
            out = _prelu(_normed(p, out, f"{fsmn}conv.norm{i}", (1,), 1e-5), p(f"{fsmn}conv.prelu{i}.weight"))
            skip = np.concatenate([out, skip], -1)
        f = out
    else:
        f = f + _convolved(f, p(f"{fsmn}conv1.weight")[..., 0], 1)
    y = _normed(p, v * (u + f) + h, f"{name}norm2", (2,), 1e-5)
    return _linear(p, y, f"{name}conv2") + x


def _convolved(x: Array, weight: Array, dilation: int) -> Array:
    """A grouped Conv1d that keeps the length; weight [o, c, k], group g reads channels g c .. g c + c - 1"""
    out_channels, inner, k = weight.shape
    half = k // 2 * dilation
    padded = np.pad(x, ((0, 0), (half, half), (0, 0))).reshape(len(x), -1, out_channels, inner)
    out = np.zeros((len(x), x.shape[1], out_channels))
    for j in range(k):
        out += np.einsum("btoc,oc->bto", padded[:, j * dilation : j * dilation + x.shape[1]], weight[:, :, j])
    return out


def _linear(p: Tensors, x: Array, name: str) -> Array:
    weight = p(f"{name}.weight")
    result: Array = x @ weight.reshape(weight.shape[:2]).T + p(f"{name}.bias")
    return result


def _normed(p: Tensors, x: Array, name: str, axes: Any, eps: float) -> Array:
    centred = x - x.mean(axes, keepdims=True)
    normed: Array = centred / np.sqrt(x.var(axes, keepdims=True) + eps) * p(f"{name}.weight") + p(f"{name}.bias")
    return normed


def _sigmoid(x: Array) -> Array:
    result: Array = 0.5 * (1 + np.tanh(x / 2))
    return result


def _prelu(x: Array, slope: Array) -> Array:
    return np.where(x > 0, x, slope * x)


def _rotated(x: Array, dims: int) -> Array:
    angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(0, dims, 2) / dims)
    even, odd = x[..., 0:dims:2], x[..., 1:dims:2]
    out = x.copy()
    out[..., 0:dims:2] = even * np.cos(angle) - odd * np.sin(angle)
    out[..., 1:dims:2] = odd * np.cos(angle) + even * np.sin(angle)
    return out
