"""The blocks of MossFormer2 in the IR: feed-forward, shared attention, gated memory, mask net.

All take [b, t, d], and their tensors have the package's names.
"""

from __future__ import annotations

from typing import Any

from flashir.importing.importer import Settings
from flashir.ir import Builder, Value
from flashir_import.mossformer2.parameters import Parameters, number, taps

GROUP = 256
HEADS = 4
EPS, MODEL_EPS, MASK_EPS = 1e-5, 1e-6, 1e-8
BLOCK = "mdl.intra_mdl.mossformerM"


def layer_norm(b: Builder, p: Parameters, x: Value, name: str, eps: float = EPS) -> Value:
    """LayerNorm over channels"""
    width: Any = x.type.shape[-1]
    scale, bias = (p.take(b, f"{name}.{part}", (width,)) for part in ("weight", "bias"))
    normed: Value = b.layer_normalization(x, scale, bias, eps=eps)
    return normed


def over_time(b: Builder, p: Parameters, x: Value, name: str, groups: int, eps: float) -> Value:
    """GroupNorm or InstanceNorm, over the channels of a group and time"""
    width: Any = x.type.shape[-1]
    scale, bias = (p.take(b, f"{name}.{part}", (width,)) for part in ("weight", "bias"))
    normed: Value = b.group_normalization(x, scale, bias, groups=groups, over_time=True, eps=eps)
    return normed


def depthwise(b: Builder, x: Value, kernel: Value, groups: int, dilation: int = 1) -> Value:
    """A grouped convolution with zero padding that keeps the length"""
    count: Any = kernel.type.shape[0]
    half = count // 2 * dilation
    result: Value = b.conv1d(x, kernel, groups=groups, dilation=dilation, pads=(half, half))
    return result


def feed_forward(b: Builder, p: Parameters, x: Value, name: str, out: int, kernel: int, *, scale_norm: bool) -> Value:
    """FFConvM: a norm, a projection, silu, and a residual depthwise convolution"""
    if scale_norm:
        gain = p.take(b, f"{name}.mdl.0.g", (1,), number)
        normed = b.scale_normalization(x, gain, eps=EPS, clamp=True)
    else:
        normed = layer_norm(b, p, x, f"{name}.mdl.0")
    h = b.silu(p.dense(b, normed, f"{name}.mdl.1", out))
    weight = p.take(b, f"{name}.mdl.3.sequential.1.conv.weight", (out, 1, kernel), taps)
    result: Value = b.add(h, depthwise(b, h, weight, out))
    return result


def shared_attention(b: Builder, p: Parameters, x: Value, name: str, settings: Settings) -> Value:
    """FLASH_ShareA_FFConvM: two values share one attention; each value gates the result of the other"""
    d, s, kernel = settings["dim"], settings["query_key_dim"], settings["kernel"]
    shifted = b.token_shift(x)
    values = feed_forward(b, p, shifted, f"{name}.to_hidden", 4 * d, kernel, scale_norm=True)
    z = feed_forward(b, p, shifted, f"{name}.to_qk", s, kernel, scale_norm=True)
    gamma, beta = (p.take(b, f"{name}.qk_offset_scale.{part}", (HEADS, s)) for part in ("gamma", "beta"))
    heads = b.offset_scale(z, gamma, beta)
    rotated = b.rope(heads, axis=2, dims=settings["rope_dims"], interleaved=True)
    parts = b.results("split", rotated, axis=1, sizes=(1,) * HEADS)
    quad_q, lin_q, quad_k, lin_k = (b.reshape(head, shape=z.type.shape) for head in parts)
    count = b.maximum(b.size(value=x.type.shape[1], dtype=x.type.dtype), 1.0)
    lin_q, quad_q = b.mul(lin_q, b.reciprocal(count)), b.mul(quad_q, 1 / GROUP)
    attrs: dict[str, Any] = {"chunk": GROUP, "causal": False, "cumsum": "matmul", "lin_norm": "none"}
    attended = b.chunked_recurrence(values, quad_q, quad_k, None, lin_q, lin_k, **attrs)
    v, u = b.results("split", values, axis=-1, sizes=(2 * d, 2 * d))
    attended_v, attended_u = b.results("split", attended, axis=-1, sizes=(2 * d, 2 * d))
    gated = b.mul(b.mul(attended_u, v), b.sigmoid(b.mul(attended_v, u)))
    result: Value = b.add(x, feed_forward(b, p, gated, f"{name}.to_out", d, kernel, scale_norm=True))
    return result


def memory(b: Builder, p: Parameters, x: Value, name: str, settings: Settings) -> Value:
    """UniDeepFsmn: a projection, and a long depthwise convolution, or two dilated ones, as memory"""
    wide, length = settings["inner"], settings["memory"]
    hidden = b.relu(p.dense(b, x, f"{name}.linear", wide))
    h = p.dense(b, hidden, f"{name}.project", wide, bias=False)
    if not settings["dilated"]:
        kernel = p.take(b, f"{name}.conv1.weight", (wide, 1, length, 1), taps)
        plain: Value = b.add(x, b.add(h, depthwise(b, h, kernel, wide)))
        return plain
    skip, out = h, h
    for i, dilation in ((1, 1), (2, 2)):
        kernel = p.take(b, f"{name}.conv.conv{i}.weight", (wide, i, length, 1), taps)
        normed = over_time(b, p, depthwise(b, skip, kernel, wide, dilation), f"{name}.conv.norm{i}", wide, EPS)
        out = b.prelu(normed, p.take(b, f"{name}.conv.prelu{i}.weight", (wide,)))
        skip = b.concat(out, skip, axis=-1)
    dilated: Value = b.add(x, out)
    return dilated


def gated_memory(b: Builder, p: Parameters, x: Value, name: str, settings: Settings) -> Value:
    """Gated_FSMN_Block, dilated or not"""
    wide, kernel = settings["inner"], settings["kernel"]
    h = p.dense(b, x, f"{name}.conv1.0", wide, pointwise=True)
    h = b.prelu(h, p.take(b, f"{name}.conv1.1.weight", (1,), number))
    h = layer_norm(b, p, h, f"{name}.norm1")
    u, v = (
        feed_forward(b, p, h, f"{name}.gated_fsmn.to_{part}", wide, kernel, scale_norm=False) for part in ("u", "v")
    )
    u = memory(b, p, u, f"{name}.gated_fsmn.fsmn", settings)
    normed = layer_norm(b, p, b.add(b.mul(v, u), h), f"{name}.norm2")
    result: Value = b.add(p.dense(b, normed, f"{name}.conv2", settings["dim"], pointwise=True), x)
    return result


def mask_net(b: Builder, p: Parameters, x: Value, prefix: str, settings: Settings) -> list[Value]:
    """MossFormer_MaskNet: [b, t, c] -> a mask [b, t, c'] for each speaker"""
    d = settings["dim"]
    h = over_time(b, p, x, f"{prefix}norm", 1, MASK_EPS)
    h = p.dense(b, h, f"{prefix}conv1d_encoder", d, bias=False, pointwise=True)
    sines = b.concat(*b.results("sinusoid", length=h.type.shape[1], half=d // 2), axis=-1)
    h = b.add(h, b.mul(sines, p.take(b, f"{prefix}pos_enc.scale", (1,), number)))

    def body(b: Builder, y: Value) -> Value:
        y = shared_attention(b, p, y, f"{prefix}{BLOCK}.layers.{{i}}", settings)
        return gated_memory(b, p, y, f"{prefix}{BLOCK}.fsmn.{{i}}", settings)

    y = b.repeat(h, times=settings["depth"], body=body)
    y = layer_norm(b, p, y, f"{prefix}mdl.intra_mdl.norm", MODEL_EPS)
    y = b.add(over_time(b, p, y, f"{prefix}mdl.intra_norm", 1, MASK_EPS), h)
    y = b.prelu(y, p.take(b, f"{prefix}prelu.weight", (1,), number))
    y = p.dense(b, y, f"{prefix}conv1d_out", d * settings["speakers"], pointwise=True)
    masks = []
    for part in b.results("split", y, axis=-1, sizes=(d,) * settings["speakers"]):
        value = b.tanh(p.dense(b, part, f"{prefix}output.0", d, pointwise=True))
        gate = b.sigmoid(p.dense(b, part, f"{prefix}output_gate.0", d, pointwise=True))
        out = p.dense(
            b, b.mul(value, gate), f"{prefix}conv1_decoder", settings["channels_out"], bias=False, pointwise=True
        )
        masks.append(b.relu(out))
    return masks
