"""Which nodes the TPU kernels do, and under what conditions. No JAX here: a plan asks as well."""

from __future__ import annotations

from flashir.ir import DType, Node

LANES = 128
KERNELS = frozenset(("mixed_chunk_attention",))


def has_kernel(node: Node) -> bool:
    """Whether a node fits the kernel for its op.

    mixed_chunk_attention: no segments, in float32 or bfloat16, chunks and e in whole vectors of 128 lanes; else blocks
    would be padded, and XLA does as well.
    """
    if node.op not in KERNELS or len(node.operands) != 6:
        return False
    _, _, _, _, v, _ = node.operands
    chunk, e, keys = node.attrs["chunk"], v.type.shape[-1], node.operands[0].type.shape[-1]
    if not (isinstance(chunk, int) and isinstance(e, int) and isinstance(keys, int)):
        return False
    return v.type.dtype in (DType.F32, DType.BF16) and chunk % LANES == 0 and e % LANES == 0
