"""`torch.compile` on GPUs: fuse elementwise ops, and compile equal layers once.

On a GPU memory traffic dominates: unfused, a FLASH layer moves its widest tensor a dozen times. Compiling a whole model
of 24 layers takes minutes. So layers are compiled separately. Layers with equal code share a class, whose forward
PyTorch compiles at the first call.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn.functional import cross_entropy

from flashir.backends.training import NO_LABEL
from flashir_torch.joints import add_pieces, open_layers
from flashir_torch.kernels.claims import CAPABILITY, lacking, need_triton
from flashir_torch.remat import layers

WHOLE = 500
"""A model without layers is compiled up to this many nodes; more take minutes."""

EAGER = "lower the model for torch:v100, which is eager, or for torch:cpu"


def fuses(device: str) -> bool:
    """Whether models are compiled for a device: on GPUs that Triton supports."""
    return not lacking(device) and torch.cuda.is_available() and torch.cuda.get_device_capability() >= CAPABILITY


def fuse(module: fx.GraphModule, *, whole_layers: bool = False) -> None:
    """`layer(x)` -> `compiled(layer)(x)` for every layer at its first call, and for the pieces between them (`joints`).

    A model without layers is compiled as a whole, or left eager if it is large.

    Args:
        module: the module, which is changed.
        whole_layers: leave norms and sums in their layers, so that a layer saves nothing but its operand if it is
            computed again.

    Raises:
        TargetError: Triton is not installed.
    """
    need_triton()
    pieces: list[fx.GraphModule] = []
    if any(layers(module)):
        if not whole_layers:
            open_layers(module)
        pieces = add_pieces(module)
    classes: dict[str, type] = {}
    for layer in module.modules():
        if isinstance(layer, fx.GraphModule) and layer is not module:
            layer.__class__ = classes.setdefault(layer.code, type(layer))
    kinds = {type(part) for part in (*layers(module), *pieces)}
    if not kinds and len(module.graph.nodes) <= WHOLE:
        kinds = {type(module)}
    for kind in kinds:
        kind.forward = torch.compile(kind.forward)  # on the class, to avoid a reference cycle in the module


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy in float32, summed over all labels: logits [.., v], labels [..] -> []."""
    return cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL, reduction="sum")
