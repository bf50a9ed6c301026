"""The nodes that have a kernel. Works without PyTorch and Triton, for plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from flashir.errors import TargetError, either
from flashir.ir import DType, Node
from flashir.ir.limits import LARGEST_SIZE
from flashir.machine.hardware import compute_capability
from flashir.ops.attention.recurrence import is_mixed_chunk

DEVICES = frozenset(("cuda", "a10", "a100", "h100", "h200", "l4", "l40s", "rtx-4090"))
"""Triton needs compute capability 8.0 or higher, which a v100 does not have."""

CAPABILITY = (8, 0)
"""The compute capability that Triton needs."""

TRITON = (3, 6)
"""The oldest Triton that the kernels were compiled with."""

LEAST_CHUNK = 16
MOST_KEYS = 128
"""The largest s; a block of rows holds all keys."""

GATED_CHUNKS = (64, 256)
"""The chunks of the kernels of a whole layer; their scores [64, chunk] stay in registers."""

LEAST_GATED_KEYS = 32
"""The fewest keys of those kernels, whose products are of halves of the keys."""


def _mixed(node: Node) -> list[str]:
    """Mixed chunk attention without segments, in a narrow dtype or float32, if blocks divide the chunk.

    The kernel is the strategy `scan`, so choosing a strategy chooses between the kernel and its alternatives; without
    causality there is no choice.
    """
    if not is_mixed_chunk(node):
        return ["it is not attention within chunks and sums between them, without segments"]
    v, quad_q, *_ = node.operands
    return [
        *_sizes(node.attrs["chunk"], (LEAST_CHUNK, LARGEST_SIZE), quad_q.type.shape[-1], (1, MOST_KEYS)),
        *_types(v.type.dtype, (DType.F32, DType.BF16, DType.F16)),
        *([] if isinstance(v.type.shape[-1], int) else ["its width is not known"]),
        *(_strategy(node) if node.attrs["causal"] else []),
    ]


def _gated(node: Node) -> list[str]:
    """The core of a causal flash layer in bfloat16, for chunks that a program holds in registers."""
    pre, _shift, gamma, *_ = node.operands
    keys = gamma.type.shape[1]
    return [
        *_sizes(node.attrs["chunk"], GATED_CHUNKS, keys, (LEAST_GATED_KEYS, MOST_KEYS)),
        *(["its keys are no power of two"] if isinstance(keys, int) and keys & (keys - 1) else []),
        *_types(pre.type.dtype, (DType.BF16,)),
        *([] if node.attrs["causal"] else ["it is not causal"]),
        *_strategy(node),
    ]


def _sizes(chunk: Any, chunks: tuple[int, int], keys: Any, most: tuple[int, int]) -> Iterator[str]:
    if not isinstance(chunk, int) or not chunks[0] <= chunk <= chunks[1] or chunk & (chunk - 1):
        upper = f" to {chunks[1]}" if chunks[1] < LARGEST_SIZE else " up"
        yield f"its chunk is {chunk}, wanted a power of two from {chunks[0]}{upper}"
    if not isinstance(keys, int) or not most[0] <= keys <= most[1]:
        yield f"it has {keys} keys, wanted {most[0]} to {most[1]}"


def _types(dtype: DType, known: tuple[DType, ...]) -> Iterator[str]:
    if dtype not in known:
        yield f"its numbers are {dtype}, wanted {either(map(str, known))}"


def _strategy(node: Node) -> Iterator[str]:
    if node.attrs["cumsum"] != "scan":
        yield f"its cumsum is {node.attrs['cumsum']}, wanted scan"


KERNELS: dict[str, Callable[[Node], list[str]]] = {"chunked_recurrence": _mixed, "gated_mixed_attention": _gated}
"""The ops with a kernel, each with what keeps a node from it."""


def lacking(device: str) -> str:
    """What keeps a device from running kernels; empty if nothing does.

    A named GPU has them wherever the plan is made. `cuda` is the GPU at hand, if there is one, with the Triton at hand.
    """
    if device not in DEVICES:
        return f"{device} has no kernels"
    return condition() if device == "cuda" else ""


def hindrances(node: Node, device: str) -> list[str]:
    """What keeps a node from the kernels of a device; empty if one computes it."""
    if why := lacking(device):
        return [why]
    return KERNELS[node.op](node) if node.op in KERNELS else [f"{node.op} has no kernel"]


def has_kernel(node: Node, device: str) -> bool:
    """Whether a device has a kernel for this node."""
    return not hindrances(node, device)


def condition() -> str:
    """What the kernels lack on this machine; empty if nothing, or without a GPU."""
    capability = compute_capability()
    if capability is None:
        return ""
    if capability < CAPABILITY:
        return f"the GPU has compute capability {_dotted(capability)}, wanted {_dotted(CAPABILITY)} or later"
    if find_spec("triton") is None:
        return "Triton is not installed"
    installed = version("triton")
    if tuple(map(int, installed.split(".")[:2])) < TRITON:
        return f"Triton is {installed}, wanted {_dotted(TRITON)} or later"
    return ""


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def need_triton() -> None:
    """Raise TargetError if Triton is not installed."""
    if find_spec("triton") is None:
        raise TargetError(
            "Triton is not installed, and the CUDA kernels need it",
            where="torch",
            hint="pip install triton; or lower the model for torch:v100 or torch:cpu, which have no kernels",
        )
