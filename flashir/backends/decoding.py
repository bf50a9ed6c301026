"""decoding: a causal model as a graph for prompts and a graph for what comes after, with explicit state."""

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
    """One state: its name, such as `layers.0.sum`, and its type, of which only the batch may be open."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Decoding:
    """A model that continues sequences.

        logits, *states = prefill(ids, lengths)         # ids [b, t] padded on the right -> logits [b, 1, v]
        logits, *states = step(ids, *states)            # ids [b, 1] -> logits [b, 1, v]

    Args:
        prefill: for prompts; the logits are those of each row's last token.
        step: for what comes after them.
            A state is read by nothing but the op that renews it, wherever it is large; so a target can do it in place.
        state: what goes from one to the other, in this order; `position`, the tokens so far of each row, is the first.
        max_len: how many tokens the caches hold; None where there are none.
    """

    prefill: Graph
    step: Graph
    state: tuple[StateSpec, ...]
    max_len: int | None = None


def lowered(lowering: Lowering, graphs: Decoding) -> Decoding:
    """The graphs of a decoder as a target wants them.

    States, and what is read of caches, are sums over all tokens so far, however few a step takes.
    """
    cached = () if graphs.max_len is None else (graphs.max_len,)
    step = replace(lowering, carried=len(graphs.state), lengths=cached)
    prefill = replace(lowering, lengths=cached)
    return replace(graphs, prefill=prefill.run(graphs.prefill), step=step.run(graphs.step))


@typed
def decoding(model: Graph, *, tokens: int = 1, max_len: int | None = None, length: int | None = None) -> Decoding:
    """Derive the two graphs from a causal model.

    Args:
        model: of tokens, `ids: i32[B, T]`, its chunk chosen. Segment ids and a mask may come beside them; they are left
            out, for a sequence is one document.
        tokens: how many a step takes at most; with more than one, it takes any number up to them.
        max_len: how many tokens caches hold, where a layer attends to every token.
        length: of the whole sequence, where a model divides by it (`qk_scale = length` in gau). The logits are then
            those of a sequence of that length.

    Raises:
        SettingError: the model is not causal, takes something else, or an op in it cannot be continued token by token;
            it is named, and why; or a number is less than 1, or larger than any size.
    """
    given = {"tokens": tokens, "max_len": max_len, "length": length}
    problems = [f"{name} must be at least 1, got {n}" for name, n in given.items() if n is not None and n < 1]
    problems += [
        f"{name} must be at most {LARGEST_SIZE}, got {n}"
        for name, n in given.items()
        if n is not None and n > LARGEST_SIZE
    ]
    if problems:
        raise SettingError(problems, where=f"decoding @{model.name}")
    prefill, types = to_prefill(model, tokens=tokens, max_len=max_len, length=length)
    step = to_step(model, types, tokens=tokens, max_len=max_len, length=length)
    return Decoding(prefill, step, tuple(StateSpec(*each) for each in types.items()), max_len)
