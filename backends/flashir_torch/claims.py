"""The composites that PyTorch implements natively, each with the condition under which it is claimed.

Works without PyTorch, for plans. Every op here has an emitter in `emitters.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from flashir.ir import Node
from flashir.ops import OPS
from flashir_torch.kernels.claims import has_kernel, lacking

Condition = Callable[[Node, str], bool]
"""node, device (`cpu`, `cuda`, `h100`, ..) -> whether the node is claimed."""


def always(node: Node, device: str) -> bool:
    """Always."""
    return True


def vectors(node: Node, device: str) -> bool:
    """If scale and bias are vectors: `layer_norm` does not accept scalars."""
    return all(value.type.rank == 1 for value in node.operands[1:])


def compiled(node: Node, device: str) -> bool:
    """If layers are compiled: then it is one kernel, and no slower than its parts."""
    return not lacking(device)


def short_bias(node: Node, device: str) -> bool:
    """If layers are compiled, for a known number of positions and weights: the gradient is a sum in a fixed order."""
    known = isinstance(node.attrs["n"], int) and all(isinstance(size, int) for size in node.operands[0].type.shape)
    return not lacking(device) and known and bool(node.attrs["n"])


def flash_kernels(node: Node, device: str) -> bool:
    """If PyTorch has a flash kernel: from compute capability 8.0 on, without segments.

    Its kernels for older GPUs are not measured.
    """
    return device != "v100" and len(node.operands) == 3


NATIVE: dict[str, Condition] = {
    "chunked_recurrence": has_kernel,
    "dense": always,
    "gelu": always,
    "gated_mixed_attention": has_kernel,
    "layer_normalization": vectors,
    "offset_scale": always,
    "rel_pos_bias": short_bias,
    "relu2": always,
    "silu": always,
    "softmax": always,
    "softmax_attention": flash_kernels,
    "turn": compiled,
}


def claims(node: Node, device: str) -> bool:
    """Whether the backend implements a node natively. A branch on a GPU would wait for it."""
    condition, record = NATIVE.get(node.op), OPS[node.op]
    if condition is None:
        return record.is_primitive or (bool(record.needed_if) and device == "cpu")
    return condition(node, device)
