"""The digest in a tokenizer.json that flashir wrote.

The library takes no entry at the top that it does not know, but ignores one in a decoder of bytes. So the digest stands
there, and is that of the text without it. Any other tokenizer is written as it is.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from flashir.errors import InputError

KEY = "flashir.sha256"
_PLACE = re.compile(r'"decoder"\s*:\s*\{(?=\s*"type"\s*:\s*"ByteLevel")')
_SEAL = re.compile(rf'(?<={{)"([^"\\]{{{len(KEY)}}})":"([^"\\]{{64}})",(?=\s*"type"\s*:\s*"ByteLevel")')


def with_digest(text: str) -> str:
    """The text of a tokenizer.json with its digest, where there is one place for it."""
    places = list(_PLACE.finditer(text))
    if len(places) != 1:
        return text
    end = places[0].end()
    return f'{text[:end]}"{KEY}":"{_digest(text)}",{text[end:]}'


def without_digest(text: str, path: Path) -> str:
    """The text as it was before `with_digest`, verified; one without a digest is the same.

    Raises:
        InputError: it is not what was written.
    """
    seal = _SEAL.search(text)
    if seal is None:
        return text
    rest = text[: seal.start()] + text[seal.end() :]
    if seal[1] != KEY or seal[2] != _digest(rest):
        hint = f"bring it back as it was; if you changed it yourself, take the entry {KEY!r} out of its decoder"
        raise InputError("is damaged, or was changed since flashir wrote it", where=str(path), hint=hint)
    return rest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
