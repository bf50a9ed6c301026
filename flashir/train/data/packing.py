"""Packing: the stream of a corpus cut into rows of equal length, as many documents in a row as there is room for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flashir.backends.protocols import NO_LABEL
from flashir.train.data.corpus import Corpus, Places

PAD = 0  # at the end of the last row; nothing is wanted there


@dataclass(frozen=True)
class Rows:
    """Rows of a stream, cut where the length says.

    Args:
        ids: [b, t]; PAD beyond the end of the stream.
        following: the token after each, [b, t]; NO_LABEL where the document ends there.
        segment_ids: which document of the row a token is of, from 0, [b, t]; PAD counts as one more.
        real: whether there is a token, [b, t].
    """

    ids: Places
    following: Places
    segment_ids: Places
    real: np.typing.NDArray[np.bool_]


def rows_of(corpus: Corpus, seq_len: int) -> int:
    """How many rows there are; the last one may be padded."""
    return -(-len(corpus) // seq_len)


def pack(corpus: Corpus, numbers: Places, seq_len: int) -> Rows:
    """The rows of those numbers: row i has the tokens from i t on, and reads one more, which follows its last."""
    starts = numbers * seq_len
    read = np.full((len(numbers), seq_len + 1), PAD, np.int64)
    for row, start in zip(read, starts.tolist()):
        found = corpus.read(start, start + seq_len + 1)
        row[: len(found)] = found
    documents = corpus.documents_at(starts[:, None] + np.arange(seq_len + 1))
    real = documents < len(corpus.spans)
    border = documents[:, 1:] != documents[:, :-1]
    border |= _ends(corpus, read[:, :-1]) & real[:, :-1]
    return Rows(
        ids=read[:, :-1],
        following=np.where(border | ~real[:, 1:], NO_LABEL, read[:, 1:]),
        segment_ids=np.pad(np.cumsum(border[:, :-1], axis=1), ((0, 0), (1, 0))),
        real=real[:, :-1],
    )


def _ends(corpus: Corpus, ids: Places) -> npt.NDArray[np.bool_]:
    """Where a document ends within a file, by a token that the text has: only a tokenizer that reads such finds it."""
    tokenizer = corpus.tokenizer
    if tokenizer.document_end is None or not tokenizer.reading.special_tokens:
        return np.zeros(ids.shape, np.bool_)
    return np.asarray(ids == tokenizer.document_end)
