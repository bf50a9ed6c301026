"""Decode text token by token: whole characters only, up to a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from numbers import Integral

from flashir.arguments import shown, typed
from flashir.errors import InputError, SettingError
from flashir.train.data.tokenizer import Tokenizer

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
CONTEXT = 5  # tokens: one before, and at most as many as a character has bytes


class Spelling:
    """Decodes tokens one by one. The pieces join to the result of `Tokenizer.decode`.

        spelling.add(token)     # the characters that this token completes, perhaps none
        spelling.end()          # the rest; the next token begins another text

    A token that the tokenizer does not have, as in a padded vocabulary, is U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens: list[int] = []
        self._emitted = ""

    def add(self, token: int) -> str:
        """The text that is complete after this token. Raises InputError if it is not a whole number."""
        if not isinstance(token, Integral):
            raise InputError(f"a token must be a whole number, got {shown(token)}")
        if not 0 <= token < self._tokenizer.vocab:
            return self.end() + UNKNOWN
        spelled = self._tokenizer.spelled
        return self._decoded(token) if spelled is None else self._bytes.decode(spelled[token])

    def end(self) -> str:
        """The rest of the text. An incomplete character is U+FFFD."""
        text = self._tokenizer.decode(self._tokens)[len(self._emitted) :]
        self._tokens, self._emitted = [], ""
        return text + self._bytes.decode(b"", final=True)

    def _decoded(self, token: int) -> str:
        """Decode a token whose text depends on its neighbours, together with the token before it."""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        whole = text if len(self._tokens) > CONTEXT else text.rstrip(UNKNOWN)
        new = whole[len(self._emitted) :]
        self._emitted += new
        if whole == text:
            self._tokens = [token]
            self._emitted = self._tokenizer.decode(self._tokens)
        return new


class Stops:
    """Ends a text before the first stop string, wherever it falls in the pieces of the text.

    The string that is complete first ends the text. If two are complete at once, the longer one does.

    Args:
        strings: the stop strings; there may be none.

    Raises:
        SettingError: a stop string is empty, or not a string.
    """

    @typed
    def __init__(self, strings: Sequence[str]) -> None:
        if not all(isinstance(string, str) for string in strings):
            raise SettingError(f"strings to stop at must be a list of strings, got {shown(strings)}")
        if not all(strings):
            raise SettingError("a string to stop at cannot be empty")
        self._strings = tuple(strings)
        self._held = ""
        self.met = False

    def add(self, piece: str) -> str:
        """The text that is certain after this piece: all but a possible beginning of a stop string. Sets `met`."""
        held = self._held + piece
        ends = [(at + len(string), at) for string in self._strings if (at := held.find(string)) >= 0]
        if ends:
            self.met, self._held = True, ""
            return held[: min(ends)[1]]
        overlap = max((_overlap(held, string) for string in self._strings), default=0)
        self._held = held[len(held) - overlap :]
        return held[: len(held) - overlap]

    def end(self) -> str:
        """The text that was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """The number of characters at the end of a text that begin a string."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)
