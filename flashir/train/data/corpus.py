"""A corpus: the tokens of many documents as one stream, read where they lie."""

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
    """A document, or a part of one: its tokens [t], mapped from the file they lie in, and the digest of its text."""

    tokens: Ids
    digest: str


@dataclass(frozen=True, eq=False)
class Corpus:
    """Documents one after the other. None of them is read before it is asked for.

    Args:
        tokenizer: makes the tokens.
        spans: the documents that have tokens.
        name: of the text, in messages.
    """

    tokenizer: Tokenizer
    spans: tuple[Span, ...]
    name: str = "data"

    def __len__(self) -> int:
        """How many tokens there are."""
        return int(self.borders[-1]) if self.spans else 0

    @cached_property
    def borders(self) -> Places:
        """Where each document ends, in tokens."""
        return np.cumsum([len(span.tokens) for span in self.spans], dtype=np.int64)

    @cached_property
    def digest(self) -> str:
        """What the stream is, in hexadecimal: the tokenizer, and the text and length of each document, in order."""
        said = [self.tokenizer.digest, *(f"{span.digest} {len(span.tokens)}" for span in self.spans)]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()

    def read(self, start: int, stop: int) -> Places:
        """The tokens from `start` to `stop`, at most those that there are."""
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
        """The number of the document at each place of the stream; beyond its end, how many there are."""
        return np.searchsorted(self.borders, places, side="right")

    @typed
    def split(self, share: float) -> tuple[Corpus, Corpus]:
        """What to train on and what to hold out: about `share` of the tokens, the same ones on every call.

        Whole documents are held out, in the order of their digests, which has to do with neither name nor content, and
        equal texts together. Where they come to less than half of the share, the end of the largest document is.

        Raises:
            SettingError: the share is not between 0 and 1.
            InputError: there is too little text for two parts.
        """
        if not 0 < share < 1:
            raise SettingError(
                f"the share that is held out must be between 0 and 1, got {share}",
                where="held_out",
                hint=f"without any, give text to validate on: {option('validation', '', flag='--valid')}",
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
        train, valid = (replace(self, spans=each) for each in full)
        return train, valid

    def _whole(self, wanted: float) -> tuple[list[Span], list[Span]]:
        """Without, and with documents that together have at most so many tokens."""
        held, room = set(), wanted
        for digest, equal in groupby(sorted(self.spans, key=_digest), key=_digest):
            tokens = _tokens(list(equal))
            if tokens <= room:
                held.add(digest)
                room -= tokens
        return [each for each in self.spans if each.digest not in held], [
            each for each in self.spans if each.digest in held
        ]

    def _end_of_largest(self, tokens: int) -> tuple[list[Span], list[Span]]:
        """Without, and with so many tokens of the largest document."""
        largest = max(self.spans, key=lambda span: len(span.tokens))
        cut = max(len(largest.tokens) - tokens, 0)
        kept = [Span(each.tokens[:cut], each.digest) if each.digest == largest.digest else each for each in self.spans]
        return kept, [Span(largest.tokens[cut:], largest.digest)]


def _digest(span: Span) -> str:
    return span.digest


def _tokens(spans: Sequence[Span]) -> int:
    return sum(len(span.tokens) for span in spans)
