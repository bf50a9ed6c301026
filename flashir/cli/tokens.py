"""What goes into a run: text as bytes, or arrays from .npy files; and what the logits say about it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.errors import InputError
from flashir.inputs import vocabulary
from flashir.ir import Graph
from flashir.likelihood import log_softmax, nats

BYTES = 256

Ids = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Surprise:
    """How well a causal model foresees its input.

    Args:
        loss: nats a token, mean over every token but the first of each row.
        perplexity: e to the loss.
        bits: the loss in bits a token; bits per byte where tokens are bytes.
    """

    loss: float
    perplexity: float
    bits: float


def text_ids(model: Graph, file: Path | None, offset: int, length: int | None) -> Ids:
    """Bytes of a file, or of standard input, as token ids [1, t].

    Raises:
        InputError: the model's tokens are no bytes, the file cannot be read, or nothing is given.
    """
    rows = vocabulary(model, model.inputs[0]) if model.inputs else None
    if rows != BYTES:
        what = "takes no tokens" if rows is None else f"has a vocabulary of {rows}"
        raise InputError(
            f"text can be given to a model with a vocabulary of {BYTES}, as bytes; @{model.name} {what}",
            mend="give token ids with --ids FILE.npy, or set -s vocab=256",
        )
    if file is None and sys.stdin.isatty():
        raise InputError("there is no input", mend="give --text FILE, --ids FILE.npy, or pipe text in")
    try:
        data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the text: {error.strerror or error}", where=str(file or "stdin")) from None
    return cut(np.frombuffer(data, np.uint8).astype(np.int32)[None, :], offset, length)


def read_array(path: Path) -> npt.NDArray[Any]:
    """An array [b, t] from a .npy file; one of [t] becomes a row. Raises InputError."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is no .npy file of numbers"
        raise InputError(f"cannot read the array: {reason}", where=str(path)) from None
    if not isinstance(array, np.ndarray):
        raise InputError("cannot read the array: it is an archive of several", where=str(path))
    return array[None, :] if array.ndim == 1 else array


def cut(ids: npt.NDArray[Any], offset: int, length: int | None) -> npt.NDArray[Any]:
    """The tokens from `offset` on, at most `length` of them."""
    if ids.ndim < 2:
        return ids
    return ids[:, offset : None if length is None else offset + length]


def surprise(logits: npt.NDArray[Any], ids: npt.NDArray[Any]) -> Surprise | None:
    """How well logits [b, t, vocab] foresee the next of ids [b, t]; None where there is no next."""
    total, count = nats(logits[:, :-1], ids[:, 1:])
    if not count:
        return None
    loss = total / count
    return Surprise(loss, exp(min(loss, 700)), loss / log(2))


def top(logits: npt.NDArray[Any], count: int = 5) -> list[tuple[int, float]]:
    """The likeliest tokens after logits [vocab], each with its probability."""
    chances = np.exp(log_softmax(logits))
    return [(int(token), float(chances[token])) for token in np.argsort(-chances, kind="stable")[:count]]


def shown_byte(token: int) -> str:
    """A byte for people: itself where it can be seen, else as `\\n` or `0xff`."""
    return repr(chr(token)) if token < 128 else f"0x{token:02x}"
