"""Check the input tensors of a module before anything is computed.

Dtypes and shapes are always checked, also in graphs that `torch.compile` traces. Values are checked only in eager mode
on a CPU, since on a GPU the check would synchronise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from flashir.errors import InputError
from flashir.execution.signature import KINDS, Input, Signature, padding_problems, range_problems


class TensorInputs(Signature):
    """The inputs of a graph as tensors."""

    def checked(self, tensors: Sequence[Any], types: Sequence[torch.dtype], device: torch.device) -> list[Tensor]:
        """The tensors in the dtypes of the code. Floats already have that dtype, except under autocast.

        Raises:
            InputError: lists every input that is not a tensor, is on another device, or has a wrong dtype or shape;
                token ids out of range; rows without a token.
        """
        problems = [
            text for x, wanted, dtype in zip(tensors, self.inputs, types) for text in _types(x, wanted, dtype, device)
        ]
        problems = problems or self.shape_problems([x.shape for x in tensors])
        if not problems and not torch.compiler.is_compiling():
            problems = [text for x, wanted in zip(tensors, self.inputs) for text in _values(x, wanted)]
        if problems:
            raise InputError(problems)
        return [x.to(dtype) for x, dtype in zip(tensors, types)]


def _types(x: Any, wanted: Input, dtype: torch.dtype, device: torch.device) -> list[str]:
    if not isinstance(x, Tensor):
        return [f"{wanted.name} must be a tensor, got a {type(x).__name__}"]
    problems = []
    if x.device.type != device.type:
        problems.append(f"{wanted.name} lies on {x.device}, the parameters on {device}")
    whole = not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool
    fits = {"floats": x.is_floating_point(), "bools": x.dtype == torch.bool, "whole": whole}
    if not fits[wanted.kind]:
        problems.append(f"{wanted.name} must hold {KINDS[wanted.kind]}, got {x.dtype}")
    elif wanted.kind == "floats" and x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        problems.append(f"{wanted.name} must be {dtype}, as the parameters are, got {x.dtype}")
    return problems


def _values(x: Tensor, wanted: Input) -> list[str]:
    if type(x) is not Tensor or x.device.type != "cpu" or not x.numel() or is_functorch_wrapped_tensor(x):
        return []
    if wanted.vocabulary:
        low, high = torch.aminmax(x)
        return range_problems(wanted, int(low), int(high))
    if wanted.kind == "bools" and x.dim() == 2:
        return padding_problems(wanted, x.any(-1).tolist())
    return []
