"""What JAX does natively, beside the primitives. A claim is made without JAX, for a plan needs none."""

from __future__ import annotations

from flashir.ir import Node
from flashir.ops import OPS
from flashir_jax.pallas.claims import has_kernel

COMPOSITES = frozenset(("silu", "sinusoid", "sinusoid_at", "softmax"))
"""What is done whole on every device; all else XLA fuses as well from its parts."""


def claims(node: Node, device: str) -> bool:
    """Whether a node is done as it is on a device (`cpu`, `cuda`, `tpu-v4`, ..)."""
    everywhere = OPS[node.op].is_primitive or node.op in COMPOSITES
    return everywhere or (device.startswith("tpu") and has_kernel(node))
