"""`torch.compile` for cards: elementwise ops join in kernels of their own, and layers of one text are compiled once.

A card runs an operator in microseconds, so what it waits for is memory; unfused, a FLASH layer moves its widest tensor
a dozen times. Compiled whole, a model of 24 layers takes minutes to start. So each layer is compiled by itself, and
layers whose texts are equal have one class, whose code PyTorch compiles when the first of them is called.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn.functional import cross_entropy

from flashir.backends.protocols import NO_LABEL
from flashir_torch.kernels.claims import CAPABILITY, DEVICES, need_triton
from flashir_torch.remat import layers

WHOLE = 500
"""Nodes up to which a model without layers is compiled: more take minutes."""

EAGER = "lower the model for torch:v100, which is eager, or for torch:cpu"


def fuses(device: str) -> bool:
    """Whether models are compiled for a device: on cards that Triton compiles for."""
    return device in DEVICES and torch.cuda.is_available() and torch.cuda.get_device_capability() >= CAPABILITY


def fuse(made: fx.GraphModule) -> None:
    """`layer(x)` -> `compiled(layer)(x)` for every layer, when it is first called.

    A model without layers is compiled whole, or stays as it is where it is large.

    Raises:
        TargetError: Triton is not installed.
    """
    need_triton()
    classes: dict[str, type] = {}
    for each in made.modules():
        if isinstance(each, fx.GraphModule) and each is not made:
            each.__class__ = classes.setdefault(each.code, type(each))
    kinds = {type(layer) for layer in layers(made)}
    if not kinds and len(made.graph.nodes) <= WHOLE:
        kinds = {type(made)}
    for kind in kinds:
        kind.forward = torch.compile(kind.forward)  # of the class: a module that held it would hold itself


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy in float32, summed up where there is a label: logits [b, t, v], labels [b, t] -> []"""
    return cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL, reduction="sum")
