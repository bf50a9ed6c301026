"""What the tests of decoding share: causal models, prompts of several lengths, and runs of the derived graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import assume

import flashir
from flashir.backends.decoding import Decoding, Extending, decoding, extending
from flashir.errors import SettingError
from flashir.ir import Graph
from flashir.models.parameters import unit

Array = npt.NDArray[Any]
Call = Callable[[Sequence[Array], Sequence[Any]], tuple[Array, Sequence[Any]]]
"""Arrays and states -> logits and states: a prefill takes no states, a step those before it."""

CHUNK = 5
ROOM = 32
SMALL: dict[str, Any] = {"d_model": 16, "depth": 2, "vocab": 11}
CHUNKED: dict[str, Any] = {**SMALL, "chunk": CHUNK}
FLASH: dict[str, Any] = {**CHUNKED, "key_dim": 8, "cumsum": "native"}
QUAD: dict[str, Any] = {**SMALL, "key_dim": 8, "max_len": ROOM, "qk_scale": "max_len"}
ZOO: dict[str, tuple[str, dict[str, Any]]] = {
    "flash": ("flash", FLASH),
    "flash-scan-plain-sum": ("flash", {**FLASH, "cumsum": "scan", "lin_norm": "none"}),
    "flash-divided-by-the-chunk": ("flash", {**FLASH, "cumsum": "matmul", "lin_norm": "chunk"}),
    "flash-chunks-of-one": ("flash", {**FLASH, "chunk": 1}),
    "flash-local": ("flash", {**FLASH, "use_global": False, "rope_dims": 4, "rope_interleaved": True}),
    "flash-global": ("flash", {**FLASH, "use_local": False, "lin_norm": "none"}),
    "flash-overlap-shift-t5": ("flash", {**FLASH, "overlap": True, "token_shift": True, "rel_bias": "t5"}),
    "flash-scale-norm": ("flash", {**FLASH, "norm": "scale_norm", "tied": False, "qk_scale": "sqrt_key"}),
    "flash-softmax-clamped": (
        "flash",
        {**FLASH, "attention": "softmax", "norm": "scale_norm", "norm_clamp": True, "norm_eps": 0.1, "rope_dims": 0},
    ),
    "flash-laplace-overlap-bare": (
        "flash",
        {**FLASH, "attention": "laplace", "overlap": True, "norm": "none", "residual": False, "expanded": 20},
    ),
    "flash-quad": ("flash-quad", QUAD),
    "flash-quad-long-bias": ("flash-quad", {**QUAD, "max_len": 600, "token_shift": True}),
    "flash-quad-softmax-heads-t5": (
        "flash-quad",
        {**QUAD, "heads": 2, "attention": "softmax", "rel_bias": "t5", "gating": False, "qk_scale": "sqrt_key"},
    ),
    "transformer": ("transformer", {**SMALL, "heads": 2, "max_len": ROOM}),
    "transformer+": ("transformer+", {**SMALL, "heads": 2, "gating": True, "token_shift": True}),
    "transformer++": ("transformer++", {**SMALL, "heads": 2}),
    "performer": ("performer", {**SMALL, "heads": 2, "cumsum": "native", "tile": CHUNK}),
    "combiner": ("combiner", {**CHUNKED, "heads": 2}),
    "mc-transformer++": ("mc-transformer++", {**CHUNKED, "heads": 2, "cumsum": "native"}),
}
LENGTH = 3 * CHUNK + 2
STARTS = (1, CHUNK, CHUNK + 1)
"""Lengths of prompts in one batch: around the border of a chunk, and far from each other."""


def model(name: str) -> Graph:
    """A small causal system."""
    system, settings = ZOO[name]
    return flashir.model(system, **settings)


def tokens(batch: int, length: int, seed: int = 0) -> Array:
    """Token ids [b, t]."""
    return np.random.default_rng(seed).integers(0, SMALL["vocab"], (batch, length))


def prompts(ids: Array, lengths: Sequence[int]) -> Array:
    """The first tokens of each row, padded on the right with whatever."""
    padded = np.full((len(ids), max(lengths)), ids.max())
    for row, length in enumerate(lengths):
        padded[row, :length] = ids[row, :length]
    return padded


def decoded(prefill: Call, step: Call, ids: Array, lengths: Sequence[int]) -> Iterator[tuple[int, int, Array]]:
    """(row, position, logits) of every position from the last of each prompt on, by a prefill and steps."""
    position = np.array(lengths)
    logits, states = prefill([prompts(ids, lengths), position], ())
    while True:
        yield from ((row, last, logits[row, 0]) for row, last in enumerate(position - 1))
        if position.max() == ids.shape[1]:
            return
        logits, states = step([ids[np.arange(len(ids)), position][:, None]], states)
        position = position + 1


def extended(extend: Call, ids: Array, seed: int, most: int) -> Iterator[tuple[int, int, Array]]:
    """(row, position, logits) of the last token of each row in each call, of texts cut into calls at random.

    A call takes up to `most` tokens of a row, and sometimes none of one.
    """
    random, position, states = np.random.default_rng(seed), np.zeros(len(ids), int), ()
    while position.min() < ids.shape[1]:
        taken = np.minimum(random.integers(0, most + 1, len(ids)), ids.shape[1] - position)
        if not taken.any():
            continue
        own = np.arange(taken.max()) < taken[:, None]
        places = np.where(own, position[:, None] + np.arange(own.shape[1]), -1)
        given = np.where(own, ids[np.arange(len(ids))[:, None], np.maximum(places, 0)], ids.max())
        logits, states = extend([given, places], states)
        position = position + taken
        yield from ((row, last, logits[row, 0]) for row, last in enumerate(position - 1) if taken[row])


def worst(wanted: Array, found: Iterator[tuple[int, int, Array]]) -> float:
    """The largest difference to the logits of the whole, relative to the largest of them."""
    scale = max(float(np.abs(wanted).max()), 1.0)
    return max(float(np.abs(logits - wanted[row, at]).max()) / scale for row, at, logits in found)


def interpreted(graph: Graph, params: Any) -> Call:
    """A graph in float64; without states, they are zeros."""

    def run(arrays: Sequence[Array], states: Sequence[Any]) -> tuple[Array, Sequence[Any]]:
        zeros = [value.type.bind({"B": len(arrays[0])}) for value in graph.inputs[len(arrays) :]]
        logits, *after = flashir.interpret(
            graph, params, *arrays, *(states or [np.zeros(type_.sizes) for type_ in zeros])
        )
        return logits, after

    return run


@dataclass(frozen=True)
class RandomCase:
    """A random model that can be continued: tokens, lengths of prompts, and the graphs derived from it."""

    graph: Graph
    split: Decoding
    made: Extending
    params: Any
    ids: Array
    lengths: list[int]
    seed: int

    @staticmethod
    def of(drawn: tuple[Graph, int, int, int]) -> RandomCase:
        """As `tests.strategies.models` draws it; what is refused, or has no room for a token, is drawn again."""
        graph, batch, length, seed = drawn
        assume(batch and length > 1)
        try:
            split, made = (derive(graph, max_len=length, length=length) for derive in (decoding, extending))
        except SettingError:
            assume(False)
        random = np.random.default_rng(seed)
        ids = random.integers(0, 5, (batch, length))
        lengths = [int(n) for n in random.integers(max(1, length - 20), length, batch)]
        return RandomCase(graph, split, made, unit(graph, seed), ids, lengths, seed)

    def error(self, prefill: Call, step: Call, extend: Call) -> float:
        """How far prefill and steps, and calls of any number of tokens, are from the whole, at worst."""
        wanted = flashir.interpret(self.graph, self.params, self.ids)[0]
        return max(
            worst(wanted, decoded(prefill, step, self.ids, self.lengths)),
            worst(wanted, extended(extend, self.ids, self.seed, 9)),
        )
