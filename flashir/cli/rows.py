"""Generated texts, one row per prompt: why they end, how they are shown, and how fast they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from enum import StrEnum
from time import perf_counter
from typing import TYPE_CHECKING

from flashir.cli import console
from flashir.train.data.spelling import Spelling, Stops
from flashir.train.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from flashir.cli.results.texts import Continuation

LABEL = 60  # at most so many characters of a prompt are shown above its text


class End(StrEnum):
    """Why a text ends: an end token, a stop string, the wanted length, the limit of the model, or a failure."""

    END = "end"
    STOP = "stop"
    LENGTH = "length"
    LIMIT = "limit"
    INTERRUPTED = "interrupted"
    ERROR = "error"


class Row:
    """A prompt, and the text that follows it.

    Args:
        prompt: the text.
        ids: the tokens of the prompt.
        tokenizer: the tokenizer of the model.
        stops: the strings that end the text.
        ends: the tokens that end the text; they have no text themselves.
    """

    def __init__(
        self,
        prompt: str,
        ids: Sequence[int],
        tokenizer: Tokenizer,
        stops: Sequence[str],
        ends: Collection[int] = (),
    ) -> None:
        self.prompt, self.ids = prompt, ids
        self.tokens: list[int] = []
        self.pieces: list[str] = []
        self.ended: End | None = None
        self._spelling, self._stops, self._ends = Spelling(tokenizer), Stops(stops), ends

    def add(self, token: int) -> None:
        """Append a token. Does nothing after the end."""
        if self.ended is None:
            self.tokens.append(token)
            if token in self._ends:
                self.end(End.END)
            else:
                self._tell(self._spelling.add(token))

    def end(self, why: End) -> None:
        """End the text. Does nothing after the end."""
        if self.ended is None:
            self._tell(self._spelling.end())
        if self.ended is None:
            self.pieces.append(self._stops.end())
            self.ended = why

    def as_dict(self) -> Continuation:
        """The JSON fields."""
        return {
            "prompt": self.prompt,
            "prompt_tokens": len(self.ids),
            "text": "".join(self.pieces),
            "tokens": self.tokens,
            "stop": self.ended,
        }

    def _tell(self, text: str) -> None:
        self.pieces.append(self._stops.add(text))
        if self._stops.met:
            self.ended = End.STOP


class Sheet:
    """Prints rows one after the other. The first unfinished row is printed piece by piece."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self._at = self._shown = 0

    def update(self) -> None:
        """Print new pieces."""
        while self._at < len(self._rows):
            row = self._rows[self._at]
            if not self._shown and len(self._rows) > 1:
                console.say(f"{'' if not self._at else chr(10)}==> {_label(row.prompt)} <==", "bold")
            console.stream("".join(row.pieces[self._shown :]))
            self._shown = len(row.pieces)
            if row.ended is None:
                return
            console.stream("" if "".join(row.pieces).endswith("\n") else "\n")
            self._at, self._shown = self._at + 1, 0


class Pace:
    """Measures the speed of generation from now on: the prompts first, then the tokens."""

    def __init__(self) -> None:
        self._start = perf_counter()
        self.prompt_ms: float | None = None
        self._times: list[float] = []
        self._counts: list[int] = []

    def read(self) -> None:
        """Record that the prompts are read."""
        self.prompt_ms = 1e3 * (perf_counter() - self._start)

    def tick(self, count: int) -> None:
        """Record a new token in each of `count` rows."""
        self._times.append(perf_counter())
        self._counts.append(count)

    @property
    def tokens(self) -> int:
        """The number of tokens in a row."""
        return len(self._times)

    def as_dict(self) -> dict[str, float | None]:
        """The JSON fields; None if there are too few tokens.

        `ms_per_token` is the time between two tokens of a row, and `tokens_per_second` counts all rows. The first step
        does not count if there are others, because it may compile.
        """
        steps = min(self.tokens - 1, max(self.tokens - 2, 1))
        ms = rate = None
        if steps > 0:
            seconds = max(self._times[-1] - self._times[-1 - steps], 1e-9)
            ms, rate = 1e3 * seconds / steps, sum(self._counts[-steps:]) / seconds
        return {"prompt_ms": self.prompt_ms, "ms_per_token": ms, "tokens_per_second": rate}

    def facts(self) -> list[str]:
        """The speed as texts for people."""
        fields = self.as_dict()
        ms, rate, prompt_ms = fields["ms_per_token"], fields["tokens_per_second"], fields["prompt_ms"]
        shown = [] if rate is None else [f"{rate:,.4g} tokens/s"]
        shown += [] if ms is None else [f"{console.milliseconds(ms)} a token"]
        return shown + ([] if prompt_ms is None else [f"prompt read in {console.milliseconds(prompt_ms)}"])


def _label(prompt: str) -> str:
    line = " ".join(prompt.split())
    return line if len(line) <= LABEL else f"{line[: LABEL - 1]}…"
