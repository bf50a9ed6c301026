"""The signature of a model for calls from user code: names, kinds and shapes of inputs.

Nothing here reads values, so it also works on traced tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashir.errors import InputError, counted
from flashir.ir import DType, Graph
from flashir.ir.dims import symbol_of
from flashir.planning.extent import Extent
from flashir.reference.inputs import vocabulary

KINDS = {"floats": "floating-point numbers", "bools": "bool", "whole": "whole numbers"}


@dataclass(frozen=True)
class Input:
    """The requirements of one input.

    Args:
        name: the name of the input.
        kind: a key of KINDS.
        type: the type as IR text, for messages.
        axes: for each axis, a size, the name of a shared symbolic size, or None for any size.
        vocabulary: the number of token ids; 0 if it does not hold tokens.
    """

    name: str
    kind: str
    type: str
    axes: tuple[int | str | None, ...]
    vocabulary: int = 0


class Signature:
    """The inputs of a graph.

    Args:
        graph: the graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.inputs = tuple(
            Input(
                value.name,
                _kind(value.type.dtype),
                str(value.type),
                tuple(map(_axis, value.type.shape)),
                vocabulary(graph, value, clipped=False) or 0,
            )
            for value in graph.inputs
        )
        self.names = tuple(spec.name for spec in self.inputs)
        self.longest = Extent.of(graph).longest

    def collected(self, positional: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        """The inputs in order, passed by position or by name. Raises InputError with all problems."""
        problems = []
        if len(positional) > len(self.names):
            problems.append(f"the model takes {counted(len(self.names), 'input')}, got {len(positional)}")
        inputs = {**dict(zip(self.names, positional)), **{name: x for name, x in named.items() if x is not None}}
        problems += [f"the model has no input {name!r}" for name in named if name not in self.names]
        twice = self.names[: len(positional)]
        problems += [f"the input {name!r} is given twice" for name in twice if named.get(name) is not None]
        problems += [f"the input {name!r} is missing" for name in self.names if inputs.get(name) is None]
        if problems:
            signature = ", ".join(f"{own.name}: {own.type}" for own in self.inputs)
            raise InputError(problems, hint=f"the model takes ({signature})")
        return [inputs[name] for name in self.names]

    def shape_problems(self, shapes: Sequence[Sequence[int]]) -> list[str]:
        """All problems of the shapes of the inputs."""
        problems: list[str] = []
        sizes: dict[str, int] = {}
        for shape, spec in zip(shapes, self.inputs):
            if len(shape) != len(spec.axes):
                problems.append(
                    f"{spec.name} must have {len(spec.axes)} axes, as {spec.type}, got shape {tuple(shape)}"
                )
                continue
            for axis, (wanted, got) in enumerate(zip(spec.axes, shape)):
                expected = sizes.setdefault(wanted, got) if isinstance(wanted, str) else wanted
                if expected is not None and expected != got:
                    problems.append(f"axis {axis} of {spec.name} ({spec.type}) must be {expected}, got {got}")
        if self.longest is not None and shapes and len(shapes[0]) > 1 and shapes[0][1] > self.longest:
            problems.append(f"{self.names[0]} has {shapes[0][1]} tokens a row, the model takes at most {self.longest}")
        return problems


def range_problems(wanted: Input, low: int, high: int) -> list[str]:
    """Problems of token ids from `low` to `high`."""
    if low >= 0 and high < wanted.vocabulary:
        return []
    return [f"{wanted.name} holds token ids from {low} to {high}, the model has 0 .. {wanted.vocabulary - 1}"]


def padding_problems(wanted: Input, tokens: Sequence[bool]) -> list[str]:
    """Problems of a mask, from whether each row has a token."""
    empty = [row for row, has_some in enumerate(tokens) if not has_some]
    if not empty:
        return []
    return [f"{wanted.name} has {counted(len(empty), 'row')} with only padding, the first is row {empty[0]}"]


def _kind(dtype: DType) -> str:
    return "floats" if dtype.is_float else "bools" if dtype is DType.BOOL else "whole"


def _axis(size: Any) -> int | str | None:
    return size if isinstance(size, int) else symbol_of(size)
