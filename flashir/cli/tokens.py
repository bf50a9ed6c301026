"""What goes into a run: text by the tokenizer of the model, or arrays of .npy files; and what the logits say of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.backends.protocols import NO_LABEL
from flashir.cli.source import Source
from flashir.cli.streams import piped
from flashir.errors import InputError
from flashir.files.foreign import guarded, opened, read_bytes
from flashir.models.end_tokens import NONE, PLAIN, Reading
from flashir.reference.cross_entropy import log_softmax, nats
from flashir.reference.inputs import vocabulary
from flashir.train.data import Tokenizer

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


def tokenizer_of(word: str, vocab: int, *files: Path | None) -> Tokenizer:
    """The first that is given, that of the options before that of the model; bytes, if a vocabulary can be theirs.

    Args:
        word: MODEL as typed.
        vocab: of the model.
        files: of tokenizers, each None where there is none.

    Raises:
        InputError: there is none, and the vocabulary is not that of bytes; or the file cannot be read.
        TargetError: it needs the library `tokenizers`, which is not installed.
    """
    file = next((each for each in files if each is not None), None)
    if file is not None:
        return Tokenizer.read(file)
    used = Tokenizer.bytes()
    if not used.needs("lm") <= vocab <= used.vocab:
        raise InputError(
            f"{word} brings no tokenizer, and a vocabulary of {vocab} is not that of bytes",
            hint="--tokenizer FILE, the tokenizer.json of its run (`flashir run` takes --ids FILE.npy as well)",
        )
    return used


def reader_of(found: Source, file: Path | None) -> Tokenizer:
    """What reads text for a model: the tokenizer of a file, or the model's own, where it fits. Raises InputError."""
    model = found.model
    vocab = vocabulary(model, model.inputs[0]) if model.inputs else None
    if vocab is None:
        raise InputError(f"@{model.name} takes no tokens, so it reads no text")
    used = tokenizer_of(found.word, vocab, file, found.tokenizer)
    used.check("lm", vocab)
    return used


def reading_of(found: Source, end: str | None, special: bool | None) -> Reading:
    """How text is read: as in training, where that is known, but for what is given."""
    trained = found.reading or PLAIN
    document_end = trained.document_end if end is None else None if end == NONE else end
    return Reading(document_end, trained.special_tokens if special is None else special)


def ends_of(found: Source, reader: Tokenizer, names: Sequence[str] | None = None) -> frozenset[int]:
    """The tokens that end a text.

    Args:
        found: the model, which may say what documents ended with in training.
        reader: its tokenizer, which may know some.
        names: these instead, where any are given.

    Raises:
        InputError: a name that the tokenizer does not have, or a configuration file that names one.
        ArtefactError: an artefact in which they are damaged.
    """
    own = found.tokenizer is not None and reader.file == found.tokenizer
    if not names and own and found.main is not None:
        from flashir.models.tokenizer_file import ends_of as ends_of_artefact

        ends = ends_of_artefact(found.main, found.metadata)
        if ends is not None:
            return frozenset(ends)
    trained = found.reading.document_end if own and found.reading is not None else None
    return frozenset(reader.tokens(names or (*((trained,) if trained is not None else ()), *reader.ends)))


def text_ids(tokenizer: Tokenizer, file: Path | None) -> Ids:
    """The text of a file, or of standard input, as token ids [1, t].

    Raises:
        InputError: the file cannot be read, nothing is given, or it is no UTF-8 where tokens are no bytes.
    """
    where, problem = str(file or "stdin"), "cannot read the text"
    with guarded(where, InputError, problem):
        data = piped() if file is None else read_bytes(file, InputError, problem=problem, streams=True)
    if data is None:
        raise InputError("there is no input", hint="give --text FILE, --ids FILE.npy, or pipe text in")
    try:
        plain = tokenizer.is_bytes and not tokenizer.reading.special_tokens  # so that any bytes are text
        ids = np.frombuffer(data, np.uint8) if plain else tokenizer.encode(data.decode())
    except UnicodeDecodeError as error:
        raise InputError(f"this is no UTF-8 text: see byte {error.start}", where=where) from None
    return ids.astype(np.int32)[None, :]


def read_array(path: Path) -> npt.NDArray[Any]:
    """An array [b, t] from a .npy file; one of [t] becomes a row. Raises InputError."""
    problem = "cannot read the array"
    what = f"{problem}: it is no .npy file of numbers"
    with opened(path, InputError, problem=problem) as file, guarded(path, InputError, what):
        array = np.load(file, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise InputError("cannot read the array: it is an archive of several", where=str(path))
    return array[None, :] if array.ndim == 1 else array


def cut(ids: npt.NDArray[Any], offset: int, length: int | None) -> npt.NDArray[Any]:
    """The tokens from `offset` on, at most `length` of them."""
    if ids.ndim < 2:
        return ids
    return ids[:, offset : None if length is None else offset + length]


def surprise(
    logits: npt.NDArray[Any], ids: npt.NDArray[Any], beside: Mapping[str, npt.NDArray[Any]] | None = None
) -> Surprise | None:
    """How well logits [b, t, vocab] foresee the next of ids [b, t]; None where there is no next.

    With `mask` or `segment_ids` beside, padding is not to be foreseen, nor is the first token of a document.
    """
    follows = np.ones(ids[:, 1:].shape, bool)
    for name, told in (beside or {}).items():
        follows &= told[:, 1:] & told[:, :-1] if name == "mask" else told[:, 1:] == told[:, :-1]
    total, count = nats(logits[:, :-1], np.where(follows, ids[:, 1:], NO_LABEL))
    if not count:
        return None
    loss = total / count
    return Surprise(loss, exp(min(loss, 700)), loss / log(2))


def top(logits: npt.NDArray[Any], count: int = 5) -> list[tuple[int, float]]:
    """The likeliest tokens after logits [vocab], each with its probability."""
    chances = np.exp(log_softmax(logits))
    return [(int(token), float(chances[token])) for token in np.argsort(-chances, kind="stable")[:count]]


def shown(tokenizer: Tokenizer | None, token: int) -> str:
    """A token for people: its text as in `'\\n'`; `0xff` of a byte that is no character, else its id."""
    if tokenizer is None or token >= tokenizer.vocab:
        return str(token)
    return f"0x{token:02x}" if tokenizer.is_bytes and 128 <= token < 256 else repr(tokenizer.decode([token]))
