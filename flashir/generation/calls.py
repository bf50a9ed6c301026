"""How a decoder calls its compiled graphs: one for any number of tokens, or a prefill and a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from flashir.backends.protocols import DeviceState, StepFn
from flashir.errors import InputError
from flashir.reference.arrays import Array


class Calls(Protocol):
    """The graphs of a decoder."""

    def __call__(self, rows: Sequence[Array], position: Array, kept: DeviceState) -> tuple[Array, DeviceState]:
        """Read the tokens of each row, at least one.

        Args:
            rows: tokens [t] of each row, whose numbers may differ.
            position: int64 [b], how many tokens each row has.
            kept: the state on the device; empty before the first token.

        Returns:
            float32 [b, v], the logits of each row's last token, and the new state.

        Raises:
            InputError: the graphs do not support these numbers of tokens.
        """
        ...


@dataclass(frozen=True)
class OneGraph:
    """`extend(ids [b, t], positions [b, t], *states)`, which reads long rows piece by piece.

    Args:
        extend: the function. It compares all tokens of a call with each other.
        piece: the most tokens of a call.
    """

    extend: StepFn
    piece: int

    def __call__(self, rows: Sequence[Array], position: Array, kept: DeviceState) -> tuple[Array, DeviceState]:
        """See `Calls`. A row that has ended is all padding in the pieces after it."""
        lengths = np.array([len(row) for row in rows])
        logits: Array = np.zeros(0)
        for start in range(0, int(lengths.max()), self.piece):
            left = np.clip(lengths - start, 0, self.piece)
            own = np.arange(left.max()) < left[:, None]
            ids = np.zeros(own.shape, np.result_type(*rows))
            ids[own] = np.concatenate([row[start : start + self.piece] for row in rows])
            places = np.where(own, (position + start)[:, None] + np.arange(own.shape[1]), -1)
            last, kept = self.extend([ids, places], kept)
            logits = np.where((left > 0)[:, None], last[:, 0], logits) if start else last[:, 0]
        return logits, kept


@dataclass(frozen=True)
class TwoGraphs:
    """`prefill(ids [b, t], lengths [b])`, and `step(ids [b], *states)` for one token of each row."""

    prefill: StepFn
    step: StepFn

    def __call__(self, rows: Sequence[Array], position: Array, kept: DeviceState) -> tuple[Array, DeviceState]:
        """See `Calls`."""
        lengths = np.array([len(row) for row in rows])
        if not position.any():
            ids = np.zeros((len(rows), lengths.max()), np.result_type(*rows))
            for row, padded in zip(rows, ids, strict=True):
                padded[: len(row)] = row
            return self.prefill([ids, lengths], ())
        if lengths.min() < lengths.max():
            raise InputError(
                f"rows take {lengths.min()} to {lengths.max()} tokens, but a step reads one token of every row",
                hint="export the decoder again as one graph",
            )
        logits: Array = np.zeros(0)
        for ids in np.stack(rows, axis=1):
            logits, kept = self.step([ids], kept)
        return logits, kept


def calls_of(functions: Sequence[StepFn], piece: int) -> Calls:
    """The calls of a decoder by its functions, as in `StoredDecoder`."""
    return OneGraph(functions[0], piece) if len(functions) == 1 else TwoGraphs(*functions)
