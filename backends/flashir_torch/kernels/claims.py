"""The nodes that have a kernel. Works without PyTorch and Triton, for plans."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from flashir.errors import TargetError
from flashir.ir import DType, Node
from flashir.ops.attention.recurrence import is_mixed_chunk

DEVICES = frozenset(("cuda", "a10", "a100", "h100", "h200", "l4", "l40s", "rtx-4090"))
"""Triton needs compute capability 8.0 or higher, which a v100 does not have."""

CAPABILITY = (8, 0)
"""The compute capability that Triton needs."""

LEAST_CHUNK = 16
MOST_KEYS = 128
"""The largest s; a block of rows holds all keys."""

GATED_CHUNKS = (64, 256)
"""The chunks of the kernels of a whole layer; their scores [64, chunk] stay in registers."""

LEAST_GATED_KEYS = 32
"""The fewest keys of those kernels, whose products are of halves of the keys."""


def _mixed(node: Node) -> bool:
    """Mixed chunk attention without segments, in a narrow dtype or float32, if blocks divide the chunk.

    The kernel is the strategy `scan`, so choosing a strategy chooses between the kernel and its alternatives; without
    causality there is no choice.
    """
    if not is_mixed_chunk(node):
        return False
    v, quad_q, *_ = node.operands
    chunk, keys, e, dtype = node.attrs["chunk"], quad_q.type.shape[-1], v.type.shape[-1], v.type.dtype
    scans = node.attrs["cumsum"] == "scan" or not node.attrs["causal"]
    if not scans or dtype not in (DType.F32, DType.BF16, DType.F16):
        return False
    if not (isinstance(chunk, int) and isinstance(keys, int) and isinstance(e, int)):
        return False
    return chunk >= LEAST_CHUNK and chunk & (chunk - 1) == 0 and 0 < keys <= MOST_KEYS


def _gated(node: Node) -> bool:
    """The core of a causal flash layer in bfloat16, for chunks that a program holds in registers."""
    pre, gamma, *_ = node.operands
    chunk, keys = node.attrs["chunk"], gamma.type.shape[1]
    if pre.type.dtype is not DType.BF16 or not node.attrs["causal"] or node.attrs["cumsum"] != "scan":
        return False
    if not (isinstance(chunk, int) and isinstance(keys, int)):
        return False
    return all(least <= size <= most and size & (size - 1) == 0 for size, least, most in (
        (chunk, GATED_CHUNKS[0], GATED_CHUNKS[1]), (keys, LEAST_GATED_KEYS, MOST_KEYS),
    ))  # fmt: skip


KERNELS: dict[str, Callable[[Node], bool]] = {"chunked_recurrence": _mixed, "gated_mixed_attention": _gated}
"""The ops with a kernel, each with its condition."""


def has_kernel(node: Node, device: str) -> bool:
    """Whether a device has a kernel for this node."""
    return device in DEVICES and node.op in KERNELS and KERNELS[node.op](node)


def need_triton() -> None:
    """Raise TargetError if Triton is not installed."""
    if find_spec("triton") is None:
        raise TargetError(
            "Triton is not installed, and the CUDA kernels need it",
            where="torch",
            hint="pip install triton; or lower the model for torch:v100 or torch:cpu, which have no kernels",
        )
