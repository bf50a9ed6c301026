"""Which kernels of a GPU a model misses, and why. Works without PyTorch, for plans."""

from __future__ import annotations

from flashir.backends.lowering import Lowering
from flashir.ir import Graph, Node
from flashir.ops.attention.recurrence import is_mixed_chunk
from flashir.transforms.split_activations import SplitActivations
from flashir_torch.claims import claims
from flashir_torch.fuse_gated import FuseGatedAttention
from flashir_torch.kernels.claims import hindrances


def missed_kernels(model: Graph, device: str) -> tuple[str, ...]:
    """A sentence for each kernel that a settled model cannot use on a GPU.

    The model is lowered as for the GPU, except that all mixed chunk attention is kept and no core of a layer is fused:
    what would be either is asked what hinders it.
    """

    def kept(node: Node) -> bool:
        return claims(node, device) or (node.op == "chunked_recurrence" and is_mixed_chunk(node))

    lowered = Lowering(f"torch:{device}", kept, (SplitActivations(),), check=False).run(model)
    remarks: dict[str, None] = {}

    def ask(node: Node) -> bool:
        if why := hindrances(node, device):
            remarks[f"The core of a layer is not one kernel each way: {', '.join(why)}."] = None
        return False

    FuseGatedAttention(ask).apply(lowered)
    for node in lowered.walk():
        if node.op == "chunked_recurrence" and is_mixed_chunk(node) and (why := hindrances(node, device)):
            remarks[f"Mixed chunk attention runs in parts, without a kernel: {', '.join(why)}."] = None
    return tuple(remarks)
