"""JSON that carries a digest of what it says, so that no bit of it can flip unseen.

The digest is of the values, not of the bytes: a file that is laid out anew, or whose keys come in another order, is the
same. It stands in the table itself, under `sha256`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

KEY = "sha256"


def sealed(said: Any) -> dict[str, Any]:
    """A table of JSON with its digest.

    Args:
        said: a mapping, or a record of msgspec or a dataclass.
    """
    import msgspec

    table = msgspec.to_builtins(said)
    return {**table, KEY: digest(table)}


def is_whole(table: Mapping[str, Any]) -> bool:
    """Whether a table of JSON says what it said when it was sealed."""
    return table.get(KEY) == digest(table)


def digest(table: Mapping[str, Any]) -> str:
    """The SHA-256 of a table without its digest, in hexadecimal."""
    import msgspec

    rest = {name: value for name, value in table.items() if name != KEY}
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()
