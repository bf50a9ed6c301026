"""gated_mixed_attention as a PyTorch operator, for eager mode, autograd, `torch.compile` and `torch.export`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashir_torch.kernels.gated_launch import Gated, Kept
from flashir_torch.kernels.mixed import capability, check_device, without_gaps


def gated_mixed_attention(
    pre: Tensor, shift: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor, sin: Tensor, cos: Tensor,
    chunk: int, lin_norm: str, scale: float,
) -> Tensor:  # fmt: skip
    """silu(u) times causal mixed chunk attention of silu(v), with heads of silu(z), where [u, v, z] = pre + shift.

    Args:
        pre: bfloat16 or float32 [b, t, 2e + s].
        shift: [2e + s].
        gamma, beta: [4, s], s a power of two.
        bias: [chunk, chunk].
        sin, cos: float32 [t, s / 2].
        chunk: a power of two, from 16 to 256.
        lin_norm, scale: the attributes of the op.

    Returns:
        [b, t, e], once differentiable in all operands but sin and cos.

    Raises:
        TargetError: the tensors are not on a GPU that Triton supports.
    """
    gated, *_ = _forward(pre, shift, gamma, beta, bias, sin, cos, chunk, lin_norm, scale)
    assert isinstance(gated, Tensor)
    return gated


Four = tuple[Tensor, Tensor, Tensor, Tensor]
Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("flashir::gated_mixed_attention", mutates_args=())
def _forward(
    pre: Tensor, shift: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor, sin: Tensor, cos: Tensor,
    chunk: int, lin_norm: str, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    sizes = _sizes(pre, gamma, chunk, lin_norm, scale)
    if not pre.numel():
        return _empty(pre, sizes)
    check_device(pre)
    with torch.cuda.device(pre.get_device()):  # Triton launches on the current one
        tables = (table.contiguous() for table in (shift, gamma, beta, bias, sin, cos))
        gated, kept = sizes.forward(without_gaps(pre), *tables)
    return gated, kept.heads, kept.states, kept.squares


@torch.library.custom_op("flashir::gated_mixed_attention_backward", mutates_args=())
def _backward(
    d_gated: Tensor, gated: Tensor, heads: Tensor, states: Tensor, squares: Tensor,
    pre: Tensor, shift: Tensor, gamma: Tensor, sin: Tensor, cos: Tensor, chunk: int, lin_norm: str, scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    if not pre.numel():
        return torch.zeros_like(pre), *_zeros(pre, gamma, chunk)
    check_device(pre)
    kept, tables = Kept(heads, states, squares), (table.contiguous() for table in (shift, gamma, sin, cos))
    with torch.cuda.device(pre.get_device()):
        d_out = d_gated.to(pre.dtype).contiguous()
        return _sizes(pre, gamma, chunk, lin_norm, scale).backward(d_out, gated, kept, without_gaps(pre), *tables)


@_forward.register_fake
def _(
    pre: Tensor, shift: Tensor, gamma: Tensor, beta: Tensor, bias: Tensor, sin: Tensor, cos: Tensor,
    chunk: int, lin_norm: str, scale: float,
) -> Four:  # fmt: skip
    return _empty(pre, _sizes(pre, gamma, chunk, lin_norm, scale))


@_backward.register_fake
def _(
    d_gated: Tensor, gated: Tensor, heads: Tensor, states: Tensor, squares: Tensor,
    pre: Tensor, shift: Tensor, gamma: Tensor, sin: Tensor, cos: Tensor, chunk: int, lin_norm: str, scale: float,
) -> Five:  # fmt: skip
    return pre.new_empty(pre.shape), *_zeros(pre, gamma, chunk)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Four) -> None:
    pre, shift, gamma, beta, bias, sin, cos, *settings = inputs
    ctx.save_for_backward(*output, pre, shift, gamma, sin, cos)
    ctx.set_materialize_grads(False)  # only the first result is read
    ctx.settings = settings
    ctx.dtypes = shift.dtype, gamma.dtype, beta.dtype, bias.dtype


def _gradients(ctx: Any, d_gated: Tensor, *_: None) -> tuple[Any, ...]:
    d_pre, *others = _backward(d_gated, *ctx.saved_tensors, *ctx.settings)
    return d_pre, *(gradient.to(dtype) for gradient, dtype in zip(others, ctx.dtypes, strict=True)), *[None] * 5


_forward.register_autograd(_gradients, setup_context=_keep)


def _sizes(pre: Tensor, gamma: Tensor, chunk: int, lin_norm: str, scale: float) -> Gated:
    batch, length, inside = pre.shape
    keys = gamma.shape[1]
    sizes = batch, length, (inside - keys) // 2
    return Gated(chunk, lin_norm, scale, sizes, keys, pre.dtype, capability(pre))


def _empty(pre: Tensor, sizes: Gated) -> Four:
    gated, heads, states, squares = (pre.new_empty(shape) for shape in (sizes.shape, *sizes.kept_shapes))
    return gated, heads, states, squares


def _zeros(pre: Tensor, gamma: Tensor, chunk: int) -> Four:
    """The gradients of shift, gamma, beta and bias where there are no tokens."""
    shapes = (pre.shape[-1:], gamma.shape, gamma.shape, (chunk, chunk))
    shift, own, other, bias = (gamma.new_zeros(shape, dtype=torch.float32) for shape in shapes)
    return shift, own, other, bias
