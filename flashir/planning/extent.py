"""Which batches and lengths a model takes: what its input types fix, and what its ops bound."""

from __future__ import annotations

from dataclasses import dataclass

from flashir.errors import InputError
from flashir.ir import Graph, Size
from flashir.planning.workload import Workload
from flashir.transforms import specialise


@dataclass(frozen=True)
class Extent:
    """The inputs [batch, tokens, ..] that a model takes.

    Args:
        batch: its rows, where its input types fix them; None: any number.
        length: its tokens a row, where they are fixed; None: any number.
        longest: the most tokens a row that its ops can do; None where nothing limits them.
    """

    batch: int | None = None
    length: int | None = None
    longest: int | None = None

    @staticmethod
    def of(model: Graph) -> Extent:
        """That of a model, from the types of its first input."""
        axes: list[Size] = [*model.inputs[0].type.shape[:2]] if model.inputs else []
        batch, length = (*(size if isinstance(size, int) else None for size in axes), None, None)[:2]
        return Extent(batch, length, length if length is not None else _longest(model))

    def rows(self, batch: int) -> int:
        """The batch that a model takes in place of one that it may not."""
        return batch if self.batch is None else self.batch

    def tokens(self, length: int) -> int:
        """The length that a model takes in place of one that it may not: the fixed one, else at most the longest."""
        if self.length is not None:
            return self.length
        return length if self.longest is None else min(length, self.longest)

    def fitted(self, work: Workload) -> Workload:
        """A workload with the batch and length that the model takes; of one that takes none, with one of each."""
        return Workload(max(1, self.rows(work.batch)), max(1, self.tokens(work.seq_len)), work.training)

    def takes(self, batch: int, length: int) -> bool:
        """Whether the model takes so many rows and tokens."""
        return self.rows(batch) == batch and self.tokens(length) == length

    def __str__(self) -> str:
        rows = "any number of rows" if self.batch is None else f"{self.batch} row{'s' * (self.batch != 1)}"
        if self.length is not None:
            return f"{rows} of {self.length} tokens"
        return f"{rows} of {'any length' if self.longest is None else f'at most {self.longest} tokens'}"


def _longest(model: Graph) -> int | None:
    """The largest length that no op refuses; an op that has a `max_len` may refuse what is longer."""
    spans = {span for node in model.walk() if isinstance(span := node.attrs.get("max_len"), int)}
    return min((span for span in spans if _takes(model, span) and not _takes(model, span + 1)), default=None)


def _takes(model: Graph, length: int) -> bool:
    try:
        specialise(model, Workload(1, length).sizes(model))
    except InputError:
        return False
    return True
