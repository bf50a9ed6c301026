"""Text as it comes, token by token: whole characters, up to where one of some strings ends it."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from numbers import Integral

from flashir.arguments import shown, typed
from flashir.errors import InputError, SettingError
from flashir.train.data.tokenizer import Tokenizer

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
CONTEXT = 5  # tokens: one before, and as many as a character has bytes at most


class Spelling:
    """Tokens to text. What they say together is what `Tokenizer.decode` says of them.

        spelling.add(token)     # the characters that are whole with it, perhaps none
        spelling.end()          # what is left; the next token begins a text of its own

    A token that the tokenizer does not have, as a padded vocabulary may, is U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens: list[int] = []
        self._told = ""

    def add(self, token: int) -> str:
        """The text that is certain once the token has come. Raises InputError where it is no whole number."""
        if not isinstance(token, Integral):
            raise InputError(f"a token must be a whole number, got {shown(token)}")
        if not 0 <= token < self._tokenizer.vocab:
            return self.end() + UNKNOWN
        spelled = self._tokenizer.spelled
        return self._decoded(token) if spelled is None else self._bytes.decode(spelled[token])

    def end(self) -> str:
        """The rest: U+FFFD for a character that is not whole."""
        text = self._tokenizer.decode(self._tokens)[len(self._told) :]
        self._tokens, self._told = [], ""
        return text + self._bytes.decode(b"", final=True)

    def _decoded(self, token: int) -> str:
        """Where the text of a token depends on those around it: it is read with the one before."""
        self._tokens.append(token)
        text = self._tokenizer.decode(self._tokens)
        whole = text if len(self._tokens) > CONTEXT else text.rstrip(UNKNOWN)
        new = whole[len(self._told) :]
        self._told += new
        if whole == text:
            self._tokens = [token]
            self._told = self._tokenizer.decode(self._tokens)
        return new


class Stops:
    """Strings that end a text, wherever they fall in the pieces that it comes in.

    The one that is whole first ends the text, before its own beginning; of two at once the longer.

    Args:
        strings: none of them empty; there may be none.

    Raises:
        SettingError: one is empty, or is no string.
    """

    @typed
    def __init__(self, strings: Sequence[str]) -> None:
        if not all(isinstance(each, str) for each in strings):
            raise SettingError(f"strings to stop at must be a list of strings, got {shown(strings)}")
        if not all(strings):
            raise SettingError("a string to stop at cannot be empty")
        self._strings = tuple(strings)
        self._held = ""
        self.met = False

    def add(self, piece: str) -> str:
        """What can be told once the piece has come: all but what may be the beginning of a string. Then `met` says."""
        held = self._held + piece
        ends = [(at + len(each), at) for each in self._strings if (at := held.find(each)) >= 0]
        if ends:
            self.met, self._held = True, ""
            return held[: min(ends)[1]]
        kept = max((_overlap(held, each) for each in self._strings), default=0)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]

    def end(self) -> str:
        """What was held back, where no string has come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """How many characters at the end of a text begin a string."""
    longest = min(len(text), len(string) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(string[:size])), 0)
