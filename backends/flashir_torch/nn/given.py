"""Tensors that a module is given, checked before anything is computed.

Types and shapes always, in graphs that `torch.compile` traces too. Values where a look at them costs nothing: in eager
mode on a processor. On a card it would wait for all that is queued there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from flashir.errors import InputError, counted
from flashir.ir import DType, Graph
from flashir.ir.dims import symbol_of
from flashir.planning.extent import Extent
from flashir.reference.inputs import vocabulary

KINDS = {"floats": "floating-point numbers", "bools": "bool", "whole": "whole numbers"}


@dataclass(frozen=True)
class Input:
    """What one input must be.

    Args:
        name: as the model calls it.
        kind: a key of KINDS.
        type: as IR text, for people.
        axes: a size, the name of one that must be the same wherever it stands, or None for any.
        rows: how many token ids there are; 0 where it holds none.
    """

    name: str
    kind: str
    type: str
    axes: tuple[int | str | None, ...]
    rows: int = 0


class Given:
    """The inputs of a graph, from what a module is called with."""

    def __init__(self, graph: Graph) -> None:
        self.inputs = tuple(
            Input(value.name, _kind(value.type.dtype), str(value.type), tuple(map(_axis, value.type.shape)), rows)
            for value in graph.inputs
            for rows in (vocabulary(graph, value, clipped=False) or 0,)
        )
        self.names = tuple(each.name for each in self.inputs)
        self.longest = Extent.of(graph).longest

    def collected(self, given: Sequence[Any], named: Mapping[str, Any]) -> list[Tensor]:
        """The inputs in order, by position or by name. Raises InputError with all that is wrong."""
        problems = []
        if len(given) > len(self.names):
            problems.append(f"the model takes {counted(len(self.names), 'input')}, got {len(given)}")
        found = {**dict(zip(self.names, given)), **{name: x for name, x in named.items() if x is not None}}
        problems += [f"the model has no input {name!r}" for name in named if name not in self.names]
        twice = self.names[: len(given)]
        problems += [f"the input {name!r} is given twice" for name in twice if named.get(name) is not None]
        problems += [f"the input {name!r} is missing" for name in self.names if found.get(name) is None]
        if problems:
            taken = ", ".join(f"{each.name}: {each.type}" for each in self.inputs)
            raise InputError(problems, hint=f"the model takes ({taken})")
        return [found[name] for name in self.names]

    def checked(self, tensors: Sequence[Any], types: Sequence[torch.dtype], device: torch.device) -> list[Tensor]:
        """The tensors in the types that the code has for them. Floats are of that type already, but under autocast.

        Raises:
            InputError: every one that is no tensor, lies elsewhere, or has another type or shape; token ids that there
                are not, rows without a token.
        """
        problems = [
            told for x, each, dtype in zip(tensors, self.inputs, types) for told in _types(x, each, dtype, device)
        ]
        if not problems:
            problems = list(self._shapes(tensors))
        if not problems and not torch.compiler.is_compiling():
            problems = [told for x, each in zip(tensors, self.inputs) for told in _values(x, each)]
        if problems:
            raise InputError(problems)
        return [x.to(dtype) for x, dtype in zip(tensors, types)]

    def _shapes(self, tensors: Sequence[Tensor]) -> Iterator[str]:
        sizes: dict[str, int] = {}
        for x, each in zip(tensors, self.inputs):
            if x.dim() != len(each.axes):
                yield f"{each.name} must have {len(each.axes)} axes, as {each.type}, got shape {tuple(x.shape)}"
                continue
            for axis, (wanted, got) in enumerate(zip(each.axes, x.shape)):
                expected = sizes.setdefault(wanted, got) if isinstance(wanted, str) else wanted
                if expected is not None and expected != got:
                    yield f"axis {axis} of {each.name} ({each.type}) must be {expected}, got {got}"
        if self.longest is not None and tensors and tensors[0].dim() > 1 and tensors[0].shape[1] > self.longest:
            yield f"{self.names[0]} has {tensors[0].shape[1]} tokens a row, the model takes at most {self.longest}"


def _kind(dtype: DType) -> str:
    return "floats" if dtype.is_float else "bools" if dtype is DType.BOOL else "whole"


def _axis(size: Any) -> int | str | None:
    return size if isinstance(size, int) else symbol_of(size)


def _types(x: Any, wanted: Input, dtype: torch.dtype, device: torch.device) -> Iterator[str]:
    if not isinstance(x, Tensor):
        yield f"{wanted.name} must be a tensor, got a {type(x).__name__}"
        return
    if x.device.type != device.type:
        yield f"{wanted.name} lies on {x.device}, the parameters on {device}"
    whole = not x.is_floating_point() and not x.is_complex() and x.dtype != torch.bool
    fits = {"floats": x.is_floating_point(), "bools": x.dtype == torch.bool, "whole": whole}
    if not fits[wanted.kind]:
        yield f"{wanted.name} must hold {KINDS[wanted.kind]}, got {x.dtype}"
    elif wanted.kind == "floats" and x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        yield f"{wanted.name} must be {dtype}, as the parameters are, got {x.dtype}"


def _values(x: Tensor, wanted: Input) -> Iterator[str]:
    if type(x) is not Tensor or x.device.type != "cpu" or not x.numel() or is_functorch_wrapped_tensor(x):
        return
    if wanted.rows:
        low, high = (int(each) for each in torch.aminmax(x))
        if low < 0 or high >= wanted.rows:
            yield f"{wanted.name} holds token ids from {low} to {high}, the model has 0 .. {wanted.rows - 1}"
    if wanted.kind == "bools" and x.dim() == 2 and not bool(x.any(-1).all()):
        empty = (~x.any(-1)).nonzero()[:, 0].tolist()
        yield f"{wanted.name} has {counted(len(empty), 'row')} of padding alone, the first is row {empty[0]}"
