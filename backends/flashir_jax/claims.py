"""The ops that JAX implements natively, besides primitives. Works without JAX, for plans."""

from __future__ import annotations

from flashir.ir import Node
from flashir.ops import OPS
from flashir_jax.mesh import cuts_sequences, is_spread
from flashir_jax.pallas.claims import has_kernel

COMPOSITES = frozenset(("literal", "silu", "sinusoid", "sinusoid_at", "softmax"))
"""Composites claimed on every device. XLA fuses the others equally well from their parts."""


def claims(node: Node, device: str) -> bool:
    """Whether a node is native on a device (`cpu`, `cuda`, `tpu-v4`, ..) in this environment."""
    record = OPS[node.op]
    everywhere = record.is_primitive or node.op in COMPOSITES or bool(record.needed_if)
    return everywhere or _exchanges(node) or (device.startswith("tpu") and has_kernel(node) and not is_spread())


def _exchanges(node: Node) -> bool:
    """Whether devices exchange states: causal linear attention over sharded sequences. With a mask XLA shards it."""
    return node.op == "linear_attention" and len(node.operands) == 3 and bool(node.attrs["causal"]) and cuts_sequences()
