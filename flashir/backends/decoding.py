"""A causal model as graphs with explicit state: `extending` as one graph, `decoding` split in prefill and step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from flashir.arguments import typed
from flashir.errors import SettingError
from flashir.ir import DType, Graph, TensorType
from flashir.ir.limits import LARGEST_SIZE
from flashir.ops.decode.context import SPARE
from flashir.transforms.derive_decoder import to_extend, to_prefill, to_step
from flashir.transforms.select_results import first_result


@dataclass(frozen=True)
class StateSpec:
    """One state: its name, such as `layers.0.sum`, and its type. Only its batch may be symbolic."""

    name: str
    type: TensorType


class Lowers(Protocol):
    """What lowers a graph for a target, as `Lowering`."""

    def run(self, graph: Graph, *, carried: int = 0, lengths: tuple[int, ...] = ()) -> Graph:
        """Lower a graph. `carried` and `lengths` are for graphs that run on their own results: see `KeepRange`."""
        ...


@dataclass(frozen=True)
class Extending:
    """A model that continues sequences by any number of tokens at once.

        logits, *states = extend(ids, positions, *states)       # ids [b, t] -> logits [b, 1, v] of the last tokens

    Before the first token every state is zero. `to_extend` says which tokens are padding.

    Args:
        extend: the graph. Rings of keys and values are read before they are updated, and other large states only by the
            op that updates them. So a target can update states in place, if it writes into rings last.
        state: the states in order.
        max_len: the number of tokens that the caches hold; None if there are no caches.
    """

    extend: Graph
    state: tuple[StateSpec, ...]
    max_len: int | None = None

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The graph."""
        return (self.extend,)

    def lowered(self, lowering: Lowers) -> Extending:
        """Lower the graph. States, and reads of caches, are sums over all tokens so far, however few are new."""
        cached = () if self.max_len is None else (self.max_len, self.max_len + SPARE)
        return replace(self, extend=lowering.run(self.extend, carried=len(self.state), lengths=cached))


@dataclass(frozen=True)
class Decoding:
    """A model that continues sequences, split in two graphs.

        logits, *states = prefill(ids, lengths)         # ids [b, t] padded on the right -> logits [b, 1, v]
        logits, *states = step(ids, *states)            # ids [b, 1] -> logits [b, 1, v]

    Args:
        prefill: the graph for prompts; its logits are those of the last token of each row.
        step: the graph for one further token. A large state is read only by the op that updates it, so a target can
            update it in place.
        state: the states in order. The first is `position`, the number of tokens so far of each row.
        max_len: the number of tokens that the caches hold; None if there are no caches.
    """

    prefill: Graph
    step: Graph
    state: tuple[StateSpec, ...]
    max_len: int | None = None

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """Both graphs."""
        return self.prefill, self.step

    def lowered(self, lowering: Lowers) -> Decoding:
        """Lower both graphs, as in `Extending.lowered`."""
        cached = () if self.max_len is None else (self.max_len,)
        prefill = lowering.run(self.prefill, lengths=cached)
        step = lowering.run(self.step, carried=len(self.state), lengths=cached)
        return replace(self, prefill=prefill, step=step)


@typed
def decoding(
    model: Graph, *, max_len: int | None = None, length: int | None = None, kept: DType | None = None
) -> Decoding:
    """Derive `prefill` and `step` from a causal model.

    Args:
        model: a model of tokens, `ids: i32[B, T]`, with its chunk settled. Of several results, the first counts. Inputs
            for segment ids and a mask are removed, because a decoded sequence is one document.
        max_len: the number of tokens that the caches of full attention hold.
        length: the length of the whole sequence, for a model that divides by it (`qk_scale = length` in gau). The
            logits are then those of a sequence of this length.
        kept: the type in which states hold keys and values, such as float16 in a float32 model; None for that of the
            model. Sums keep theirs.

    Raises:
        SettingError: the model is not causal, has other inputs, or has an op that cannot decode token by token; or a
            number is less than 1 or too large.
    """
    _check_numbers(model, max_len=max_len, length=length)
    model = first_result(model)
    prefill, types = to_prefill(model, max_len=max_len, length=length, kept=kept)
    step = to_step(model, types, max_len=max_len, length=length)
    return Decoding(prefill, step, _specs(types), max_len)


@typed
def extending(
    model: Graph,
    *,
    max_len: int | None = None,
    length: int | None = None,
    kept: DType | None = None,
    layout: Layout | None = None,
) -> Extending:
    """Derive `extend` from a causal model.

    Args:
        model, max_len, length, kept: as for `decoding`.
        layout: changes the types of states: an axis of size 1 may stand for heads.

    Raises:
        SettingError: as for `decoding`, or as `layout` raises it.
    """
    _check_numbers(model, max_len=max_len, length=length)
    model = first_result(model)
    _, types = to_prefill(model, many=True, max_len=max_len, length=length, kept=kept)
    types = types if layout is None else layout(types)
    return Extending(to_extend(model, types, max_len=max_len, length=length), _specs(types), max_len)


Layout = Callable[[dict[str, TensorType]], dict[str, TensorType]]
"""The types of states by name -> those that a host wants, in its order."""


def _specs(types: dict[str, TensorType]) -> tuple[StateSpec, ...]:
    return tuple(StateSpec(*item) for item in types.items())


def _check_numbers(model: Graph, **numbers: int | None) -> None:
    """Raise SettingError for each number that is given, and less than 1 or too large."""
    set_ = {name: n for name, n in numbers.items() if n is not None}
    problems = [f"{name} must be at least 1, got {n}" for name, n in set_.items() if n < 1]
    problems += [f"{name} must be at most {LARGEST_SIZE}, got {n}" for name, n in set_.items() if n > LARGEST_SIZE]
    if problems:
        raise SettingError(problems, where=f"decoding @{model.name}")
