"""A corpus: the tokens of many documents as one stream, mapped from disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import numpy as np
import numpy.typing as npt

from flashir.arguments import typed
from flashir.errors import InputError, SettingError, counted, option
from flashir.train.data.tokenizer import Ids, Tokenizer

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """A document or a part of one: its tokens [t], mapped from a file, and the digest of its text."""

    tokens: Ids
    digest: str


@dataclass(frozen=True, eq=False)
class Corpus:
    """A sequence of documents, which are read when they are needed.

    Args:
        tokenizer: the tokenizer of the tokens.
        spans: the documents with at least one token.
        name: the name of the text in messages.
    """

    tokenizer: Tokenizer
    spans: tuple[Span, ...]
    name: str = "data"

    def __len__(self) -> int:
        """The number of tokens."""
        return int(self.borders[-1]) if self.spans else 0

    @cached_property
    def borders(self) -> Places:
        """The end of each document, in tokens."""
        return np.cumsum([len(span.tokens) for span in self.spans], dtype=np.int64)

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the tokenizer, and of the text and length of each document in order, in hexadecimal."""
        lines = [self.tokenizer.digest, *(f"{span.digest} {len(span.tokens)}" for span in self.spans)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def read(self, start: int, stop: int) -> Places:
        """The tokens from `start` to `stop`, or to the end."""
        stop = min(stop, len(self))
        out = np.empty(max(stop - start, 0), np.int64)
        done, number = 0, int(np.searchsorted(self.borders, start, side="right"))
        while done < len(out):
            tokens = self.spans[number].tokens
            first = start + done - (int(self.borders[number]) - len(tokens))
            part = tokens[first : first + len(out) - done]
            out[done : done + len(part)] = part
            done, number = done + len(part), number + 1
        return out

    def documents_at(self, places: Places) -> Places:
        """The number of the document at each position; beyond the end, the number of documents."""
        return np.searchsorted(self.borders, places, side="right")

    @typed
    def split(self, share: float) -> tuple[Corpus, Corpus]:
        """Split into a part to train on and a held-out part with about `share` of the tokens. It is deterministic.

        Whole documents are held out in the order of their digests, and equal texts together. If they have less than
        half of the share, the end of the largest document is held out instead.

        Raises:
            SettingError: the share is not between 0 and 1.
            InputError: there is too little text for two parts.
        """
        if not 0 < share < 1:
            raise SettingError(
                f"the held-out share must be between 0 and 1, got {share}",
                where="held_out",
                hint=f"to hold nothing out, give text to validate on: {option('validation', '', flag='--valid')}",
            )
        wanted = share * len(self)
        parts = self._whole(wanted)
        if _tokens(parts[1]) < wanted / 2:
            parts = self._end_of_largest(max(round(wanted), 1))
        if not all(_tokens(part) for part in parts):
            raise InputError(
                f"{counted(len(self), 'token')} {'is' if len(self) == 1 else 'are'} too few to hold {share:.2%} out",
                where=self.name,
                hint=f"give more text, or text to validate on: {option('validation', '', flag='--valid')}",
            )
        full = [tuple(span for span in part if len(span.tokens)) for part in parts]
        train, valid = (replace(self, spans=spans) for spans in full)
        return train, valid

    def _whole(self, wanted: float) -> tuple[list[Span], list[Span]]:
        """Split off whole documents with at most `wanted` tokens."""
        held, room = set(), wanted
        for digest, equal in groupby(sorted(self.spans, key=_digest), key=_digest):
            tokens = _tokens(list(equal))
            if tokens <= room:
                held.add(digest)
                room -= tokens
        parts: tuple[list[Span], list[Span]] = [], []
        for span in self.spans:
            parts[span.digest in held].append(span)
        return parts

    def _end_of_largest(self, tokens: int) -> tuple[list[Span], list[Span]]:
        """Split off the last `tokens` tokens of the largest document."""
        largest = max(self.spans, key=lambda span: len(span.tokens))
        cut = max(len(largest.tokens) - tokens, 0)
        rest = [Span(span.tokens[:cut], span.digest) if span.digest == largest.digest else span for span in self.spans]
        return rest, [Span(largest.tokens[cut:], largest.digest)]


def _digest(span: Span) -> str:
    return span.digest


def _tokens(spans: Sequence[Span]) -> int:
    return sum(len(span.tokens) for span in spans)
