"""Byte-level encodings of our own, as the library `tokenizers` has them in a tokenizer.json; no library is needed."""

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
    """A tokenizer.json whose ids are bytes, then ends of texts, then the mask. Raises SettingError as `add_own`."""
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
    """Adds ends of texts and the mask as the last ids of a byte-level BPE.

    Raises:
        SettingError: the name of an end is no name, or that of another token.
    """
    vocab = content["model"]["vocab"]
    for end in ends:
        if not end or not end.isprintable() or end == MASK or end in vocab or len(end.encode()) < 2:
            raise SettingError(
                f"an end of documents must be a name that no text has as a token, got {end!r}",
                where="document_end",
                hint=f"such as {USUAL[0]}",
            )
        content["added_tokens"].append({"id": len(vocab), "content": end, **_ADDED})
        vocab[end] = len(vocab)
    vocab[MASK] = len(vocab)  # no added token: no text reads as it, for no merge makes it


def byte_names() -> list[str]:
    """The character that stands for each byte in files of the library: itself where it can be seen."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(BYTES) if byte not in seen]
    names = {**{byte: chr(byte) for byte in seen}, **{byte: chr(BYTES + n) for n, byte in enumerate(hidden)}}
    return [names[byte] for byte in range(BYTES)]
