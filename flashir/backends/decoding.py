"""decoding: a causal model as a prefill graph and a step graph with explicit state."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flashir.arguments import typed
from flashir.backends.lowering import Lowering
from flashir.errors import SettingError
from flashir.ir import Graph, TensorType
from flashir.ir.limits import LARGEST_SIZE
from flashir.transforms.derive_decoder import to_prefill, to_step


@dataclass(frozen=True)
class StateSpec:
    """One state: its name, such as `layers.0.sum`, and its type. Only its batch may be symbolic."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Decoding:
    """A model that continues sequences.

        logits, *states = prefill(ids, lengths)         # ids [b, t] padded on the right -> logits [b, 1, v]
        logits, *states = step(ids, *states)            # ids [b, 1] -> logits [b, 1, v]

    Args:
        prefill: the graph for prompts; its logits are those of the last token of each row.
        step: the graph for the following tokens. A large state is read only by the op that updates it, so a target can
            update it in place.
        state: the states in order. The first is `position`, the number of tokens so far of each row.
        max_len: the number of tokens that the caches hold; None if there are no caches.
    """

    prefill: Graph
    step: Graph
    state: tuple[StateSpec, ...]
    max_len: int | None = None


def lowered(lowering: Lowering, graphs: Decoding) -> Decoding:
    """Lower the graphs of a decoder.

    States, and reads of caches, are sums over all tokens so far, however few tokens a step takes.
    """
    cached = () if graphs.max_len is None else (graphs.max_len,)
    step = replace(lowering, carried=len(graphs.state), lengths=cached)
    prefill = replace(lowering, lengths=cached)
    return replace(graphs, prefill=prefill.run(graphs.prefill), step=step.run(graphs.step))


@typed
def decoding(model: Graph, *, tokens: int = 1, max_len: int | None = None, length: int | None = None) -> Decoding:
    """Derive the two graphs from a causal model.

    Args:
        model: a model of tokens, `ids: i32[B, T]`, with its chunk settled. Inputs for segment ids and a mask are
            removed, because a decoded sequence is one document.
        tokens: the most tokens of one step. With more than one, a step takes any number up to this.
        max_len: the number of tokens that the caches of full attention hold.
        length: the length of the whole sequence, for a model that divides by it (`qk_scale = length` in gau). The
            logits are then those of a sequence of this length.

    Raises:
        SettingError: the model is not causal, has other inputs, or has an op that cannot decode token by token; or a
            number is less than 1 or too large.
    """
    numbers = {name: n for name, n in (("tokens", tokens), ("max_len", max_len), ("length", length)) if n is not None}
    problems = [f"{name} must be at least 1, got {n}" for name, n in numbers.items() if n < 1]
    problems += [f"{name} must be at most {LARGEST_SIZE}, got {n}" for name, n in numbers.items() if n > LARGEST_SIZE]
    if problems:
        raise SettingError(problems, where=f"decoding @{model.name}")
    prefill, types = to_prefill(model, tokens=tokens, max_len=max_len, length=length)
    step = to_step(model, types, tokens=tokens, max_len=max_len, length=length)
    return Decoding(prefill, step, tuple(StateSpec(*item) for item in types.items()), max_len)
