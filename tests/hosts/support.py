"""What the tests of hosts share: small causal models with a tokenizer, and their texts."""

from __future__ import annotations

from typing import Any

import numpy as np

import flashir
from flashir.ir import Graph

END = 0
SMALL: dict[str, Any] = {"vocab": 256, "d_model": 32, "depth": 2}
MODELS: dict[str, dict[str, Any]] = {
    "flash": {"chunk": 16, "key_dim": 8},
    "performer": {"heads": 2},
    "transformer++": {"heads": 2},
    "mc-transformer++": {"heads": 2, "chunk": 16},
}
ROOM = 400
TURNS = (20, 1, 45)
"""Lengths of prompts, the later ones after the text that follows the first; chunks begin and end inside them."""


def model(name: str) -> Graph:
    """A small causal model with its choices made."""
    return flashir.plan(flashir.model(name, **SMALL, **MODELS[name]), seq_len=64).graph


def prompt(length: int, seed: int = 0) -> list[int]:
    """Tokens without the one that ends texts."""
    return np.random.default_rng(seed).integers(1, SMALL["vocab"], length).tolist()


def greedy(decoder: flashir.Decoder, tokens: int = 24) -> list[list[int]]:
    """The tokens that follow each turn of one text."""
    texts, found = None, []
    for turn, length in enumerate(TURNS):
        rows = [prompt(length, turn)]
        texts = flashir.generate(decoder, rows, tokens=tokens) if texts is None else texts.then(rows, tokens=tokens)
        found.append([int(row[0]) for row in texts])
    return found
