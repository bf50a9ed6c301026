"""Shards: token ids on disk, written once for a text and a tokenizer, and mapped into memory from then on.

A shard is two files named by what they are made from, so that a change of text or tokenizer makes another: the ids of
its documents one after the other, and, written last, the JSON that says how many each has. It takes documents until
they are SHARD bytes of text, so that what is interrupted goes on behind the last shard.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta

from flashir.arguments import typed
from flashir.errors import ArtefactError, InputError
from flashir.files.atomic import atomic_write, sha256
from flashir.files.foreign import parse_json, read_bytes
from flashir.machine.profile import cache_folder, in_cache
from flashir.train.data.corpus import Corpus, Span
from flashir.train.data.text import Document, Paths, Progress, documents, pieces
from flashir.train.data.tokenizer import Ids, Tokenizer

SCHEMA = 1
SHARD = 1 << 26
AT_ONCE = 64  # pieces of text that are tokenised together


class Index(msgspec.Struct, frozen=True):
    """What the JSON of a shard says.

    Args:
        lengths: the tokens of each document.
        sha256: the digest of the ids, in hexadecimal.
        lengths_sha256: that of the lengths; None in what was written before they had one.
    """

    lengths: tuple[Annotated[int, Meta(ge=0)], ...]
    sha256: str
    lengths_sha256: str | None = None

    def is_whole(self, documents: int, tokens: int) -> bool:
        """Whether the lengths are those of so many documents, of so many tokens together."""
        digest = self.lengths_sha256 or _digest(self.lengths)
        return (len(self.lengths), sum(self.lengths), _digest(self.lengths)) == (documents, tokens, digest)


@typed
def prepare(
    paths: Paths,
    tokenizer: Tokenizer,
    cache: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Corpus:
    """The corpus of text files and folders; what was tokenised before is not tokenised again.

    Args:
        paths: as for `documents`.
        tokenizer: makes the tokens.
        cache: the folder of the shards; the user's cache folder where none is given.
        progress: is told how far it is.

    Raises:
        InputError: what `documents` raises; a text without tokens; a file that changes meanwhile.
        TargetError: the tokenizer needs a library that is not installed.
        ArtefactError: a shard cannot be written to the cache that was given; without one, as on a full disk or in a
            place without a home, the tokens are kept for this process alone, with a warning.
    """
    return tokenised(documents(paths, progress), tokenizer, cache, progress)


@typed
def tokenised(
    found: Sequence[Document],
    tokenizer: Tokenizer,
    cache: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Corpus:
    """As `prepare`, of documents that are checked already."""
    folder = Path(cache) if cache else cache_folder() / "tokens"
    spans: list[Span] = []
    done, total = 0, sum(document.size for document in found)
    for group in _groups(found):
        told = partial(_told, progress, done, total)
        spans += _shard(folder, group, tokenizer, told, needed=bool(cache))
        done += sum(document.size for document in group)
    full, name = tuple(span for span in spans if len(span.tokens)), _name(found)
    if not full:
        raise InputError("the text has no tokens", where=name, hint="give more text")
    return Corpus(tokenizer, full, name)


def _name(found: Sequence[Document]) -> str:
    """What documents are called in messages: the path of the first, and how many more there are."""
    if not found:
        return "data"
    more = len(found) - 1
    return f"{found[0].path}{f' and {more} more' if more else ''}"


def _told(progress: Progress, before: int, total: int, more: int) -> None:
    progress("tokenising", before + more, total)


def _groups(found: Sequence[Document]) -> list[list[Document]]:
    """The documents of each shard."""
    groups: list[list[Document]] = []
    size = SHARD
    for document in found:
        if size >= SHARD:
            groups.append([])
            size = 0
        groups[-1].append(document)
        size += document.size
    return groups


def _shard(
    folder: Path, group: list[Document], tokenizer: Tokenizer, told: Callable[[int], object], *, needed: bool
) -> Iterator[Span]:
    """The documents of one shard, written where it is missing or damaged; an error where that is `needed` and fails."""
    made_from = [str(SCHEMA), tokenizer.digest, *(document.digest for document in group)]
    name = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:32]
    ids, index = folder / f"{name}.ids", folder / f"{name}.json"
    lengths = _lengths(ids, index, len(group), tokenizer.dtype.itemsize)
    if lengths is not None:
        tokens = _mapped(ids, tokenizer)
    else:
        try:
            with nullcontext() if needed else in_cache():
                lengths = _write(ids, index, group, tokenizer, told)
            tokens = _mapped(ids, tokenizer)
        except ArtefactError as error:
            if needed:
                raise
            why = error.problems[0].removeprefix("cannot write: ")
            warnings.warn(f"tokens are not kept in {folder}: {why}; {error.hint}", stacklevel=2)
            lengths, tokens = _unkept(group, tokenizer, told)
    for document, part in zip(group, np.split(tokens, np.cumsum(lengths[:-1], dtype=np.int64)), strict=True):
        yield Span(part, document.digest)


def _lengths(ids: Path, index: Path, documents: int, itemsize: int) -> tuple[int, ...] | None:
    """The tokens of each document in a shard, None where it is not whole."""
    try:
        said = parse_json(read_bytes(index, ArtefactError), index, ArtefactError, Index)
        whole = ids.is_file() and said.is_whole(documents, ids.stat().st_size // itemsize)
    except (OSError, ArtefactError):
        return None
    return said.lengths if whole and sha256(ids) == said.sha256 else None


def _write(
    ids: Path, index: Path, group: list[Document], tokenizer: Tokenizer, told: Callable[[int], object]
) -> tuple[int, ...]:
    found: list[Index] = []
    atomic_write(ids, lambda file: found.append(_fill(file, group, tokenizer, told)))
    atomic_write(index, lambda file: file.write(msgspec.json.encode(found[0])))
    return found[0].lengths


def _unkept(group: list[Document], tokenizer: Tokenizer, told: Callable[[int], object]) -> tuple[tuple[int, ...], Ids]:
    """A shard that ends with the process: in a temporary file or, where there is no room for one, in memory."""
    dtype = tokenizer.dtype.newbyteorder("<")
    with suppress(OSError), tempfile.TemporaryFile() as file:
        lengths = _fill(file, group, tokenizer, told).lengths
        file.flush()
        empty = not any(lengths)  # nothing cannot be mapped
        return lengths, np.empty(0, dtype) if empty else np.asarray(np.memmap(file, dtype, mode="r"))
    memory = io.BytesIO()
    return _fill(memory, group, tokenizer, told).lengths, np.frombuffer(memory.getvalue(), dtype)


def _fill(file: BinaryIO, group: list[Document], tokenizer: Tokenizer, told: Callable[[int], object]) -> Index:
    """Write the tokens of a shard, and return what its JSON says."""
    digest, lengths, end = hashlib.sha256(), [0] * len(group), tokenizer.document_end
    last: int | None = None  # token of the document, which may end with the end by itself

    def add(number: int, ids: Ids) -> None:
        nonlocal last
        content = ids.astype(tokenizer.dtype.newbyteorder("<")).tobytes()
        file.write(content)
        digest.update(content)
        lengths[number] += len(ids)
        last = int(ids[-1]) if len(ids) else last

    read = 0
    for number, document in enumerate(group):
        for texts in _batched(pieces(document, unbroken=tokenizer.unbroken), AT_ONCE):
            for each in tokenizer.encode_each(texts):
                add(number, each)
            read += sum(len(text) for text in texts)  # characters, for bytes: it is for people
            told(read)
        if end is not None and lengths[number] and last != end:
            add(number, np.array([end]))
        read = sum(each.size for each in group[: number + 1])
    told(read)
    return Index(tuple(lengths), digest.hexdigest(), _digest(lengths))


def _digest(lengths: Sequence[int]) -> str:
    return hashlib.sha256(" ".join(map(str, lengths)).encode()).hexdigest()


def _mapped(ids: Path, tokenizer: Tokenizer) -> Ids:
    dtype = tokenizer.dtype.newbyteorder("<")
    if not ids.stat().st_size:  # nothing cannot be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(ids, dtype, mode="r"))


def _batched(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(texts, size)):
        yield batch
