"""JSON objects with a digest of their values, to detect damage.

The digest is under the key `sha256`. It is independent of the layout and of the order of keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

KEY = "sha256"


def sealed(record: Any) -> dict[str, Any]:
    """Add a digest to a JSON object.

    Args:
        record: a mapping, a msgspec Struct or a dataclass.
    """
    import msgspec

    table = msgspec.to_builtins(record)
    return {**table, KEY: digest(table)}


def is_whole(table: Mapping[str, Any]) -> bool:
    """Whether the digest of a JSON object matches its values."""
    return table.get(KEY) == digest(table)


def digest(table: Mapping[str, Any]) -> str:
    """The SHA-256 of a JSON object without its digest, in hexadecimal."""
    import msgspec

    rest = {name: value for name, value in table.items() if name != KEY}
    return hashlib.sha256(msgspec.json.encode(rest, order="sorted")).hexdigest()
