"""Packing: split the stream of a corpus into rows of equal length, each with as many documents as fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flashir.backends.training import NO_LABEL
from flashir.train.data.corpus import Corpus, Places

PAD = 0  # fills the last row; it has no labels


@dataclass(frozen=True)
class Rows:
    """Rows of a stream.

    Args:
        ids: the tokens [b, t]; PAD beyond the end of the stream.
        following: the next tokens [b, t]; NO_LABEL at the end of a document.
        segment_ids: the number of the document within the row, from 0, [b, t]; padding counts as one more.
        real: [b, t], False for padding.
    """

    ids: Places
    following: Places
    segment_ids: Places
    real: np.typing.NDArray[np.bool_]


def rows_of(corpus: Corpus, seq_len: int) -> int:
    """The number of rows. The last one may be padded."""
    return -(-len(corpus) // seq_len)


def pack(corpus: Corpus, numbers: Places, seq_len: int) -> Rows:
    """The rows with these numbers. Row i has the tokens from i t on, and one more token as the last label."""
    starts = numbers * seq_len
    read = np.full((len(numbers), seq_len + 1), PAD, np.int64)
    for row, start in zip(read, starts.tolist()):
        tokens = corpus.read(start, start + seq_len + 1)
        row[: len(tokens)] = tokens
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
    """Where documents end within a file: at end tokens in its text, if the tokenizer reads special tokens."""
    tokenizer = corpus.tokenizer
    if tokenizer.document_end is None or not tokenizer.reading.special_tokens:
        return np.zeros(ids.shape, np.bool_)
    return np.asarray(ids == tokenizer.document_end)
