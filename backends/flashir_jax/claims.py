"""What JAX does natively, beside the primitives. A claim is made without JAX, for a plan needs none."""

from __future__ import annotations

from flashir.ir import Node
from flashir.ops import OPS
from flashir_jax.mesh import cuts_sequences, is_spread
from flashir_jax.pallas.claims import has_kernel

COMPOSITES = frozenset(("literal", "silu", "sinusoid", "sinusoid_at", "softmax"))
"""What is done whole on every device; all else XLA fuses as well from its parts."""


def claims(node: Node, device: str) -> bool:
    """Whether a node is done as it is on a device (`cpu`, `cuda`, `tpu-v4`, ..), in this environment."""
    everywhere = OPS[node.op].is_primitive or node.op in COMPOSITES
    return everywhere or _exchanges(node) or (device.startswith("tpu") and has_kernel(node) and not is_spread())


def _exchanges(node: Node) -> bool:
    """Where rows lie in parts on several devices, sums over all chunks before; with a mask XLA divides the parts."""
    return node.op == "linear_attention" and len(node.operands) == 3 and bool(node.attrs["causal"]) and cuts_sequences()
