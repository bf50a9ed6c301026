"""The input of a run: text through the tokenizer of the model, or .npy files. Also the loss of logits on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.backends.training import NO_LABEL
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
    """How well a causal model predicts its input.

    Args:
        loss: nats per token, averaged over all tokens but the first of each row.
        perplexity: e to the loss.
        bits: the loss in bits per token, which are bits per byte if tokens are bytes.
    """

    loss: float
    perplexity: float
    bits: float


def tokenizer_of(word: str, vocab: int, *files: Path | None) -> Tokenizer:
    """The first tokenizer that is not None; bytes if there is none and the vocabulary allows it.

    Args:
        word: MODEL as typed.
        vocab: the size of the vocabulary of the model.
        files: tokenizer files or None, the one from the options first.

    Raises:
        InputError: there is no file and the vocabulary is not that of bytes, or the file cannot be read.
        TargetError: the library `tokenizers` is needed and not installed.
    """
    file = next((path for path in files if path is not None), None)
    if file is not None:
        return Tokenizer.read(file)
    used = Tokenizer.bytes()
    if not used.needs("lm") <= vocab <= used.vocab:
        raise InputError(
            f"{word} has no tokenizer, and a vocabulary of {vocab} is not that of bytes",
            hint="--tokenizer FILE, the tokenizer.json of its run (`flashir run` takes --ids FILE.npy as well)",
        )
    return used


def reader_of(model: Source, file: Path | None) -> Tokenizer:
    """The tokenizer of a model: that of a file, or its own. Raises InputError if there is none that fits."""
    graph = model.model
    vocab = vocabulary(graph, graph.inputs[0]) if graph.inputs else None
    if vocab is None:
        raise InputError(f"@{graph.name} takes no tokens, so it cannot read text")
    used = tokenizer_of(model.word, vocab, file, model.tokenizer)
    used.check("lm", vocab)
    return used


def evaluator_of(model: Source, file: Path | None, end: str | None, special: bool | None) -> Tokenizer:
    """The tokenizer for evaluating a model. It reads text as in training unless options say otherwise.

    Raises InputError, TargetError.
    """
    from flashir.train.task import check_tokenizer, vocabulary_of

    used = tokenizer_of(model.word, vocabulary_of(model.model), file, model.tokenizer)
    used = used.reads(reading_of(model, end, special))
    check_tokenizer(model.model, used)
    return used


def reading_of(model: Source, end: str | None, special: bool | None) -> Reading:
    """How to read text: as in training if that is known. The arguments override it."""
    trained = model.reading or PLAIN
    document_end = trained.document_end if end is None else None if end == NONE else end
    return Reading(document_end, trained.special_tokens if special is None else special)


def ends_of(model: Source, reader: Tokenizer, names: Sequence[str] | None = None) -> frozenset[int]:
    """The end tokens of a model.

    Args:
        model: the model, which may record the end token of its training.
        reader: its tokenizer, which may have end tokens.
        names: end tokens that replace those of the model.

    Raises:
        InputError: the tokenizer lacks a name in `names` or in a configuration file.
        ArtefactError: the record of an artefact is damaged.
    """
    own = model.tokenizer is not None and reader.file == model.tokenizer
    if not names and own and model.main is not None:
        from flashir.models.tokenizer_file import ends_of as ends_of_artefact

        ends = ends_of_artefact(model.main, model.metadata)
        if ends is not None:
            return frozenset(ends)
    trained = model.reading.document_end if own and model.reading is not None else None
    return frozenset(reader.tokens(names or (*((trained,) if trained is not None else ()), *reader.ends)))


def text_ids(tokenizer: Tokenizer, file: Path | None) -> Ids:
    """The text of a file, or of standard input, as token ids [1, t].

    Raises:
        InputError: the file cannot be read, there is no input, or it is not UTF-8 and tokens are not bytes.
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
        raise InputError(f"this is not UTF-8 text: see byte {error.start}", where=where) from None
    return ids.astype(np.int32)[None, :]


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read an array [b, t] from a .npy file. An array [t] becomes one row. Raises InputError."""
    problem = "cannot read the array"
    wrong_kind = f"{problem}: it is not a .npy file of numbers"
    with opened(path, InputError, problem=problem) as file, guarded(path, InputError, wrong_kind):
        array = np.load(file, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise InputError("cannot read the array: the file is an archive of several", where=str(path))
    return array[None, :] if array.ndim == 1 else array


def cut(ids: npt.NDArray[Any], offset: int, length: int | None) -> npt.NDArray[Any]:
    """The tokens from `offset` on, at most `length` of them."""
    if ids.ndim < 2:
        return ids
    return ids[:, offset : None if length is None else offset + length]


def surprise(
    logits: npt.NDArray[Any], ids: npt.NDArray[Any], beside: Mapping[str, npt.NDArray[Any]] | None = None
) -> Surprise | None:
    """How well logits [b, t, vocab] predict the next of ids [b, t]; None if there are no next tokens.

    With `mask` or `segment_ids` in `beside`, padding and the first token of each document do not count.
    """
    follows = np.ones(ids[:, 1:].shape, bool)
    for name, marks in (beside or {}).items():
        follows &= marks[:, 1:] & marks[:, :-1] if name == "mask" else marks[:, 1:] == marks[:, :-1]
    total, count = nats(logits[:, :-1], np.where(follows, ids[:, 1:], NO_LABEL))
    if not count:
        return None
    loss = total / count
    return Surprise(loss, exp(min(loss, 700)), loss / log(2))


def top(logits: npt.NDArray[Any], count: int = 5) -> list[tuple[int, float]]:
    """The most likely tokens of logits [vocab], with their probabilities."""
    chances = np.exp(log_softmax(logits))
    return [(int(token), float(chances[token])) for token in np.argsort(-chances, kind="stable")[:count]]


def shown(tokenizer: Tokenizer | None, token: int) -> str:
    """A token for people: its text such as `'\\n'`, `0xff` for a byte that is not ASCII, or else its id."""
    if tokenizer is None or token >= tokenizer.vocab:
        return str(token)
    return f"0x{token:02x}" if tokenizer.is_bytes and 128 <= token < 256 else repr(tokenizer.decode([token]))
