"""`torch.compile` for cards: elementwise ops join in kernels of their own, and layers of one text are compiled once.

A card runs an operator in microseconds, so what it waits for is memory; unfused, a FLASH layer moves its widest tensor
a dozen times. Compiled whole, a model of 24 layers takes minutes to start. So each layer is compiled by itself, and
layers whose texts are equal have one class, whose code PyTorch compiles when the first of them is called.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn.functional import cross_entropy

from flashir.backend import NO_LABEL
from flashir_torch.kernels.claims import DEVICES
from flashir_torch.remat import layers


def fuses(device: str) -> bool:
    """Whether models are compiled for a device: on cards that Triton compiles for."""
    return device in DEVICES


def fuse(made: fx.GraphModule) -> None:
    """`layer(x)` -> `compiled(layer)(x)` for every layer, when it is first called; without layers, all in one."""
    classes: dict[str, type] = {}
    for layer in list(layers(made)) or [made]:
        layer.__class__ = classes.setdefault(layer.code, type(layer))
        object.__setattr__(layer, "forward", torch.compile(layer.forward))


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy in float32, summed up where there is a label: logits [b, t, v], labels [b, t] -> []"""
    return cross_entropy(logits.float().flatten(0, -2), labels.flatten(), ignore_index=NO_LABEL, reduction="sum")
