"""Check that the page can read a tokenizer: byte-level BPE as in GPT-2, or bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flashir.errors import InputError

if TYPE_CHECKING:
    from flashir.train.data import Tokenizer


def check(tokenizer: Tokenizer) -> None:
    """Raise InputError with every part of a tokenizer that the page does not support."""
    problems = list(_strange(json.loads(tokenizer.text)))
    if problems:
        hint = "export with --decode alone; the page reads byte-level BPE, as of GPT-2 and `--tokenizer bpe:N`"
        raise InputError(problems, where="tokenizer", hint=hint)


def _strange(file: dict[str, Any]) -> Iterator[str]:
    model, level, decoder = (file.get(name) or {} for name in ("model", "pre_tokenizer", "decoder"))
    if model.get("type") != "BPE":
        yield f"its model is {model.get('type')}"
    for name in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            yield f"its model has {name}"
    if file.get("normalizer") is not None:
        yield "it has a normalizer"
    if level.get("type") != "ByteLevel" or level.get("add_prefix_space"):
        yield "its pre_tokenizer is not ByteLevel without add_prefix_space"
    if decoder.get("type") != "ByteLevel":
        yield "its decoder is not ByteLevel"
    if any(not token["special"] for token in file.get("added_tokens") or ()):
        yield "it has added tokens that are found in texts"
