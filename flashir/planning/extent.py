"""The batch sizes and lengths a model accepts: fixed by its input types, limited by its ops."""

from __future__ import annotations

from dataclasses import dataclass

from flashir.errors import InputError, counted, option
from flashir.ir import Graph, Size
from flashir.planning.workload import Workload
from flashir.transforms import specialise


@dataclass(frozen=True)
class Extent:
    """The sizes that a model accepts for its inputs [batch, tokens, ..].

    Args:
        batch: the number of rows that the input types fix; None for any.
        length: the number of tokens per row that the input types fix; None for any.
        longest: the most tokens per row that the ops allow; None for no limit.
    """

    batch: int | None = None
    length: int | None = None
    longest: int | None = None

    @staticmethod
    def of(model: Graph) -> Extent:
        """The extent of a model, from the type of its first input."""
        axes: list[Size] = [*model.inputs[0].type.shape[:2]] if model.inputs else []
        batch, length = (*(size if isinstance(size, int) else None for size in axes), None, None)[:2]
        return Extent(batch, length, length if length is not None else _longest(model))

    def rows(self, batch: int) -> int:
        """The batch size to use in place of `batch`: the fixed one, if there is one."""
        return batch if self.batch is None else self.batch

    def tokens(self, length: int) -> int:
        """The length to use in place of `length`: the fixed one, or else at most the longest."""
        if self.length is not None:
            return self.length
        return length if self.longest is None else min(length, self.longest)

    def fitted(self, work: Workload) -> Workload:
        """The workload with a batch and length that the model accepts, each at least 1."""
        return Workload(max(1, self.rows(work.batch)), max(1, self.tokens(work.seq_len)), work.training)

    def check(self, batch: int, length: int) -> None:
        """Raise InputError if the input types fix another batch size or length. Ops check their own limits."""
        if self.rows(batch) != batch or self.length not in (None, length):
            raise InputError(
                f"the model takes {self}, got {counted(batch, 'row')} of {counted(length, 'token')}",
                hint=f"{option('batch', '')} and {option('seq_len', '')} set others",
            )

    def __str__(self) -> str:
        rows = "any number of rows" if self.batch is None else f"{self.batch} row{'s' * (self.batch != 1)}"
        if self.length is not None:
            return f"{rows} of {self.length} tokens"
        return f"{rows} of {'any length' if self.longest is None else f'at most {self.longest} tokens'}"


def check_takes(model: Graph, batch: int, length: int) -> None:
    """Raise InputError if the input types of a model fix another batch size or length, or an op refuses them."""
    Extent.of(model).check(batch, length)
    specialise(model, Workload(batch, length).sizes(model))


def _longest(model: Graph) -> int | None:
    """The largest length that no op refuses. Only an op with a `max_len` can refuse one."""
    limits = {limit for node in model.walk() if isinstance(limit := node.attrs.get("max_len"), int)}
    return min((limit for limit in limits if _takes(model, limit) and not _takes(model, limit + 1)), default=None)


def _takes(model: Graph, length: int) -> bool:
    try:
        specialise(model, Workload(1, length).sizes(model))
    except InputError:
        return False
    return True
