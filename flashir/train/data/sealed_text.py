"""The digest in a tokenizer.json that flashir wrote.

The library rejects unknown entries at the top level but ignores them in a byte-level decoder. So the digest, which is
that of the text without it, is stored there. Other tokenizers have no digest.
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
    """The text of a tokenizer.json with its digest, if there is exactly one place for it."""
    places = list(_PLACE.finditer(text))
    if len(places) != 1:
        return text
    end = places[0].end()
    return f'{text[:end]}"{KEY}":"{_digest(text)}",{text[end:]}'


def without_digest(text: str, path: Path) -> str:
    """Verify and remove the digest. A text without a digest stays the same.

    Raises:
        InputError: the text has changed since it was written.
    """
    seal = _SEAL.search(text)
    if seal is None:
        return text
    rest = text[: seal.start()] + text[seal.end() :]
    if seal[1] != KEY or seal[2] != _digest(rest):
        hint = f"restore the file; if you changed it yourself, remove the entry {KEY!r} from its decoder"
        raise InputError("is damaged, or was changed since flashir wrote it", where=str(path), hint=hint)
    return rest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
