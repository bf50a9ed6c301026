"""The reason of a failure in one line of a row."""

from __future__ import annotations

from flashir.errors import FlashirError

LONGEST = 2000  # characters; some frameworks print whole graphs


def reason(error: BaseException) -> str:
    """The whole error in one line. Errors of other libraries have their type, since a text like `'x'` says little."""
    name, text = type(error).__name__, " ".join(str(error).split())
    message = text if text and isinstance(error, FlashirError) else f"{name}: {text}" if text else name
    return message if len(message) <= LONGEST else f"{message[:LONGEST]} .."
