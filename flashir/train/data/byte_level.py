"""Byte-level encodings as a tokenizer.json in the format of the library `tokenizers`, without that library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from flashir.errors import SettingError
from flashir.models.end_tokens import USUAL

MASK = "<mask>"
BYTES = 256

_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def of_bytes(ends: Sequence[str]) -> str:
    """A tokenizer.json whose ids are bytes, end tokens, and the mask, in this order. Raises as `add_own`."""
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": _LEVEL,
        "post_processor": None,
        "decoder": _LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: token for token, name in enumerate(byte_names())},
            "merges": [],
        },
    }
    add_own(content, ends)
    return json.dumps(content, ensure_ascii=False, indent=1)


def add_own(content: dict[str, Any], ends: Sequence[str]) -> None:
    """Add end tokens and the mask as the last ids of a byte-level BPE.

    Raises:
        SettingError: an end token has an invalid name, or the name of another token.
    """
    vocab = content["model"]["vocab"]
    for end in ends:
        if not end or not end.isprintable() or end == MASK or end in vocab or len(end.encode()) < 2:
            raise SettingError(
                f"an end token must have a printable name of two bytes or more that no other token has, got {end!r}",
                where="document_end",
                hint=f"such as {USUAL[0]}",
            )
        content["added_tokens"].append({"id": len(vocab), "content": end, **_ADDED})
        vocab[end] = len(vocab)
    vocab[MASK] = len(vocab)  # not an added token, so that no text encodes to it


def byte_names() -> list[str]:
    """The character for each byte in a tokenizer.json: the byte itself if it is printable."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(BYTES) if byte not in printable]
    names = {**{byte: chr(byte) for byte in printable}, **{byte: chr(BYTES + n) for n, byte in enumerate(hidden)}}
    return [names[byte] for byte in range(BYTES)]
