"""Why something did not end well, in one line of a row."""

from __future__ import annotations

from flashir.errors import FlashirError

LONGEST = 2000  # letters: some frameworks print whole graphs


def reason(error: BaseException) -> str:
    """The whole error in one line; with its type where it is none of flashir, for `'x'` alone says little."""
    name, text = type(error).__name__, " ".join(str(error).split())
    said = text if text and isinstance(error, FlashirError) else f"{name}: {text}" if text else name
    return said if len(said) <= LONGEST else f"{said[:LONGEST]} .."
