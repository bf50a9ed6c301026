"""mixed_chunk_attention as a PyTorch operator, for eager mode, autograd, `torch.compile` and `torch.export`."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from flashir.errors import TargetError
from flashir_torch.kernels import bodies
from flashir_torch.kernels.blocks import HOPPER
from flashir_torch.kernels.claims import CAPABILITY
from flashir_torch.kernels.launch import Mixed, Operands


def mixed_chunk_attention(
    quad_q: Tensor, quad_k: Tensor, lin_q: Tensor, lin_k: Tensor, v: Tensor, bias: Tensor,
    chunk: int, causal: bool, lin_norm: str,
) -> Tensor:  # fmt: skip
    """relu2(quad_q quad_k^T + bias) v within chunks, plus lin_q (sum of lin_k^T v over the chunks it sees).

    Args:
        quad_q, quad_k, lin_q, lin_k: [b, t, s].
        v: float32, bfloat16 or float16 [b, t, e]; the others are cast to its dtype.
        bias: [chunk, chunk].
        chunk: a power of two, at least 16.
        causal, lin_norm: the attributes of the op.

    Returns:
        [b, t, e], once differentiable in every operand.

    Raises:
        TargetError: the tensors are not on a GPU that Triton supports.
    """
    out, _ = _forward(quad_q, quad_k, lin_q, lin_k, v, bias, chunk, causal, lin_norm)
    assert isinstance(out, Tensor)
    return out


@torch.library.custom_op("flashir::mixed_chunk_attention", mutates_args=())
def _forward(
    quad_q: Tensor, quad_k: Tensor, lin_q: Tensor, lin_k: Tensor, v: Tensor, bias: Tensor,
    chunk: int, causal: bool, lin_norm: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    if not v.numel():
        return v.new_empty(v.shape), v.new_empty(_sizes(quad_q, v, chunk, causal, lin_norm).states)
    check_device(v)
    with torch.cuda.device(v.get_device()):  # Triton launches on the current one
        return _sizes(quad_q, v, chunk, causal, lin_norm).forward(_prepared(quad_q, quad_k, lin_q, lin_k, v, bias))


@torch.library.custom_op("flashir::mixed_chunk_attention_backward", mutates_args=())
def _backward(
    d_out: Tensor, states: Tensor,
    quad_q: Tensor, quad_k: Tensor, lin_q: Tensor, lin_k: Tensor, v: Tensor, bias: Tensor,
    chunk: int, causal: bool, lin_norm: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    operands = (quad_q, quad_k, lin_q, lin_k, v, bias)
    if not v.numel():
        q, k, p, r, x, b = (operand.new_zeros(operand.shape) for operand in operands)
        return q, k, p, r, x, b
    check_device(v)
    sizes = _sizes(quad_q, v, chunk, causal, lin_norm)
    with torch.cuda.device(v.get_device()):  # Triton launches on the current one
        gradients = sizes.backward(_prepared(*operands), states, without_gaps(d_out.to(v.dtype)))
    q, k, p, r, x, b = (gradient.to(operand.dtype) for gradient, operand in zip(gradients, operands, strict=True))
    return q, k, p, r, x, b


@_forward.register_fake
def _(
    quad_q: Tensor, quad_k: Tensor, lin_q: Tensor, lin_k: Tensor, v: Tensor, bias: Tensor,
    chunk: int, causal: bool, lin_norm: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return v.new_empty(v.shape), v.new_empty(_sizes(quad_q, v, chunk, causal, lin_norm).states)


@_backward.register_fake
def _(d_out: Tensor, states: Tensor, *operands: Any) -> tuple[Tensor, ...]:
    return tuple(operand.new_empty(operand.shape) for operand in operands[:6])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:6])
    ctx.set_materialize_grads(False)  # the states are never read, so they have no gradient
    ctx.settings = inputs[6:]


def _gradients(ctx: Any, d_out: Tensor, d_states: None) -> tuple[Any, ...]:
    return (*_backward(d_out, *ctx.saved_tensors, *ctx.settings), None, None, None)


_forward.register_autograd(_gradients, setup_context=_keep)


def check_device(v: Tensor) -> None:
    """Raise TargetError unless Triton runs on the device of this tensor."""
    if v.is_meta or not isinstance(bodies.attend, triton.JITFunction):  # counted only, or run by the interpreter
        return
    hint = "lower the model for torch:v100 or torch:cpu, which have no kernels"
    if not v.is_cuda:
        raise TargetError(f"the kernel runs only on CUDA, got tensors on {v.device}", where="torch", hint=hint)
    if (present := capability(v)) < CAPABILITY:
        needed, got = (".".join(map(str, numbers)) for numbers in (CAPABILITY, present))
        raise TargetError(f"Triton needs compute capability {needed}, got {got}", where="torch", hint=hint)


def capability(x: Tensor) -> tuple[int, int]:
    """The compute capability of the GPU that a tensor is on; elsewhere that of the GPU that is counted for."""
    return torch.cuda.get_device_capability(x.device) if x.is_cuda else HOPPER


def _prepared(*operands: Tensor) -> Operands:
    """Cast the operands to the dtype of v, since autocast may leave them mixed, with a contiguous last axis."""
    *keys, v, bias = operands
    quad_q, quad_k, lin_q, lin_k = (without_gaps(key.to(v.dtype)) for key in keys)
    return quad_q, quad_k, lin_q, lin_k, without_gaps(v), bias.contiguous()


def without_gaps(x: Tensor) -> Tensor:
    """The tensor with a contiguous last axis."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _sizes(q: Tensor, v: Tensor, chunk: int, causal: bool, lin_norm: str) -> Mixed:
    batch, length, width = v.shape
    return Mixed(chunk, causal, lin_norm, (batch, length, width), q.shape[-1], v.dtype, capability(v))
