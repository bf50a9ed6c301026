"""What PyTorch does natively, beside the primitives: an op, and the condition under which it is claimed.

A claim is made without PyTorch, for a plan needs none. Every name here has an emitter in `emitters.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from flashir.ir import Node
from flashir.ops import OPS
from flashir_torch.kernels.claims import DEVICES, has_kernel

Condition = Callable[[Node, str], bool]
"""The node and the device (`cpu`, `cuda`, `h100`, ..) -> whether it is done natively."""


def always(node: Node, device: str) -> bool:
    """Whatever the operands."""
    return True


def vectors(node: Node, device: str) -> bool:
    """Where scale and bias are vectors: `layer_norm` takes no single numbers."""
    return all(value.type.rank == 1 for value in node.operands[1:])


def compiled(node: Node, device: str) -> bool:
    """Where layers are compiled: there it is one kernel, and no slower than its parts."""
    return device in DEVICES


def flash_kernels(node: Node, device: str) -> bool:
    """Where PyTorch has a flash kernel: from compute capability 8.0 on, without documents.

    What it has for older cards is not measured.
    """
    return device != "v100" and len(node.operands) == 3


NATIVE: dict[str, Condition] = {
    "chunked_recurrence": has_kernel,
    "dense": always,
    "gelu": always,
    "layer_normalization": vectors,
    "offset_scale": always,
    "relu2": always,
    "silu": always,
    "softmax": always,
    "softmax_attention": flash_kernels,
    "turn": compiled,
}


def claims(node: Node, device: str) -> bool:
    """Whether the backend does a node as it is."""
    condition = NATIVE.get(node.op)
    return OPS[node.op].is_primitive if condition is None else condition(node, device)
