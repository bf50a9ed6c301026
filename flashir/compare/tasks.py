"""Tasks that need the past: a row says something in its first chunk, and asks for it there and in later chunks.

Every answer is asked for at several distances, in chunks. So a task shows from how far back a system can recall: one
that sees only its own chunk answers at distance 0 alone. Everything else in a row is noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.backends.training import NO_LABEL
from flashir.errors import SettingError, suggest

DISTANCES = (0, 1, 4)
"""How many chunks after the first one a row asks, as far as it has so many."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Rows of a task, all [b, t].

    Args:
        ids: the tokens.
        labels: the answer at each place that asks, elsewhere `NO_LABEL`.
        distances: how many chunks back the answer is, where there is a label; elsewhere -1.
    """

    ids: Ids
    labels: Ids
    distances: Ids


@dataclass(frozen=True)
class Task(ABC):
    """A task for rows of a length, cut into chunks.

    Args:
        seq_len: tokens of a row, t.
        chunk: the chunk of the systems that have one, n.
        vocab: the number of tokens.
        items: how much there is to remember.

    Raises:
        SettingError: the first chunk has no room for the items and questions, or there are too few tokens for them;
            lists all problems.
    """

    seq_len: int = 96
    chunk: int = 16
    vocab: int = 80
    items: int = 4

    def __post_init__(self) -> None:
        if problems := list(self._problems()):
            raise SettingError(problems, where=f"the task {self.name}")

    @property
    def name(self) -> str:
        """Its name on the command line."""
        return type(self).__name__.lower()

    @property
    def distances(self) -> tuple[int, ...]:
        """The distances that it asks at."""
        return tuple(distance for distance in DISTANCES if (distance + 1) * self.chunk <= self.seq_len)

    def examples(self, draw: np.random.Generator, rows: int) -> Examples:
        """New rows."""
        ids = draw.integers(self.vocab - self._noise, self.vocab, (rows, self.seq_len))
        labels, distances = np.full_like(ids, NO_LABEL), np.full_like(ids, -1)
        ids[:, : self._facts_tokens], known = self._say(draw, rows)
        for distance in self.distances:
            first, end = distance * self.chunk + (0 if distance else self._facts_tokens), (distance + 1) * self.chunk
            questions, answers = self._ask(draw, known)
            places = first + self._places(draw, rows, questions.shape[1], end - first)
            np.put_along_axis(ids, places, questions, 1)
            np.put_along_axis(labels, places, answers, 1)
            np.put_along_axis(distances, places, distance, 1)
        return Examples(ids, labels, distances)

    def _problems(self) -> Iterator[str]:
        if self.items < 1:
            yield f"items must be at least 1, got {self.items}"
            return
        room, fewest = self.room(self.items), self.tokens(self.items) + 1
        if room > self.chunk:
            most = next((fit for fit in range(self.items, 0, -1) if self.room(fit) <= self.chunk), 0)
            fewer = f", or at most {most} items" if most else ""
            yield f"{self.items} items need {room} tokens of a chunk, got chunk = {self.chunk}: use a longer one{fewer}"
        if self.vocab < fewest:
            yield f"{self.items} items need a vocabulary of at least {fewest}, got {self.vocab}"
        if 2 * self.chunk > self.seq_len:
            yield f"a row must be two chunks at least, {2 * self.chunk} tokens, got {self.seq_len}"

    @property
    def _facts_tokens(self) -> int:
        """The number of tokens that say what to remember."""
        return self.facts_tokens(self.items)

    @property
    def _noise(self) -> int:
        """The number of tokens that are noise, the last ones: a fifth, or what the others leave."""
        return min(max(1, self.vocab // 5), self.vocab - self.tokens(self.items))

    def _places(self, draw: np.random.Generator, rows: int, count: int, room: int) -> Ids:
        """`count` different places of `room`, in order, [rows, count]."""
        return np.sort(np.argsort(draw.random((rows, room)), 1)[:, :count], 1)

    @classmethod
    def room(cls, items: int) -> int:
        """The tokens of the first chunk that so many items need."""
        return cls.facts_tokens(items) + cls.question_tokens(items)

    @staticmethod
    @abstractmethod
    def facts_tokens(items: int) -> int:
        """The number of tokens that say what to remember."""

    @staticmethod
    @abstractmethod
    def question_tokens(items: int) -> int:
        """The number of tokens that ask for it."""

    @staticmethod
    @abstractmethod
    def tokens(items: int) -> int:
        """The smallest number of different tokens besides noise."""

    @abstractmethod
    def _say(self, draw: np.random.Generator, rows: int) -> tuple[Ids, Any]:
        """What the first chunk says [rows, said], and what `_ask` needs to know of it."""

    @abstractmethod
    def _ask(self, draw: np.random.Generator, known: Any) -> tuple[Ids, Ids]:
        """Questions and answers, [rows, asked] each."""


class Recall(Task):
    """Associative recall (MQAR): `items` pairs of key and value; a key asks for its value."""

    facts_tokens = staticmethod(lambda items: 2 * items)
    question_tokens = staticmethod(lambda items: items)
    tokens = staticmethod(lambda items: 2 * items)

    @property
    def _keys(self) -> int:
        """The number of keys, and of values."""
        return (self.vocab - self._noise) // 2

    def _say(self, draw: np.random.Generator, rows: int) -> tuple[Ids, tuple[Ids, Ids]]:
        keys = np.argsort(draw.random((rows, self._keys)), 1)[:, : self.items]
        values = draw.integers(self._keys, 2 * self._keys, (rows, self.items))
        return np.stack([keys, values], -1).reshape(rows, -1), (keys, values)

    def _ask(self, draw: np.random.Generator, known: tuple[Ids, Ids]) -> tuple[Ids, Ids]:
        order = np.argsort(draw.random(known[0].shape), 1)
        keys, values = (np.take_along_axis(symbols, order, 1) for symbols in known)
        return keys, values


class Copy(Task):
    """Copying: `items` different symbols; a mark and each symbol ask for the next symbol."""

    facts_tokens = staticmethod(lambda items: items)
    question_tokens = staticmethod(lambda items: items)
    tokens = staticmethod(lambda items: items + 1)

    def _say(self, draw: np.random.Generator, rows: int) -> tuple[Ids, Ids]:
        symbols = self.vocab - self._noise - 1
        string = 1 + np.argsort(draw.random((rows, symbols)), 1)[:, : self.items]
        return string, string

    def _ask(self, draw: np.random.Generator, known: Ids) -> tuple[Ids, Ids]:
        return np.concatenate([np.zeros_like(known[:, :1]), known[:, :-1]], 1), known

    def _places(self, draw: np.random.Generator, rows: int, count: int, room: int) -> Ids:
        """`count` places side by side."""
        places: Ids = draw.integers(0, room - count + 1, (rows, 1)) + np.arange(count)
        return places


class Bag(Task):
    """A bag: `items` symbols of half as many kinds, in any order; a kind asks how many of it there are."""

    facts_tokens = staticmethod(lambda items: items)
    question_tokens = staticmethod(lambda items: max(2, items // 2))
    tokens = staticmethod(lambda items: 2 * max(2, items // 2) + items + 1)

    def _say(self, draw: np.random.Generator, rows: int) -> tuple[Ids, Ids]:
        kinds = self.question_tokens(self.items)
        bag = draw.integers(0, kinds, (rows, self.items))
        counts: Ids = (bag[:, :, None] == np.arange(kinds)).sum(1)
        return bag, counts

    def _ask(self, draw: np.random.Generator, known: Ids) -> tuple[Ids, Ids]:
        kinds, order = known.shape[1], np.argsort(draw.random(known.shape), 1)
        return kinds + order, 2 * kinds + np.take_along_axis(known, order, 1)


TASKS: dict[str, type[Task]] = {"recall": Recall, "copy": Copy, "bag": Bag}


def task_named(name: str, seq_len: int, chunk: int, vocab: int, items: int) -> Task:
    """A task by its name. Raises SettingError if it is unknown, or has too little room."""
    if name not in TASKS:
        raise SettingError(f"unknown task {name!r}{suggest(name, TASKS)}", where="task")
    return TASKS[name](seq_len, chunk, vocab, items)
