"""Shards: token ids on disk, written once per text and tokenizer, and mapped into memory after that.

A shard is a file with the ids of its documents, and an index in JSON with their lengths, which is written last. Both
are named by a digest of the texts and the tokenizer, so another text or tokenizer has another shard. A shard takes
documents until they have SHARD bytes, so that interrupted work continues after the last shard.
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
AT_ONCE = 64  # pieces of text per call of the tokenizer


class Index(msgspec.Struct, frozen=True):
    """The index of a shard.

    Args:
        lengths: the number of tokens of each document.
        sha256: the digest of the ids, in hexadecimal.
        lengths_sha256: the digest of the lengths; None in old shards.
    """

    lengths: tuple[Annotated[int, Meta(ge=0)], ...]
    sha256: str
    lengths_sha256: str | None = None

    def is_whole(self, documents: int, tokens: int) -> bool:
        """Whether the lengths are intact and fit the number of documents and the total number of tokens."""
        digest = self.lengths_sha256 or _digest(self.lengths)
        return (len(self.lengths), sum(self.lengths), _digest(self.lengths)) == (documents, tokens, digest)


@typed
def prepare(
    paths: Paths,
    tokenizer: Tokenizer,
    cache: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Corpus:
    """The corpus of text files and folders. Text that was tokenised before is not tokenised again.

    Args:
        paths: as for `documents`.
        tokenizer: the tokenizer.
        cache: the folder of the shards; by default the user's cache folder.
        progress: called with the progress.

    Raises:
        InputError: as for `documents`, or the text has no tokens, or a file changes meanwhile.
        TargetError: the tokenizer needs a library that is not installed.
        ArtefactError: a shard cannot be written to `cache`. If the default cache cannot be written, the tokens are
            kept for this process only, with a warning.
    """
    return tokenised(documents(paths, progress), tokenizer, cache, progress)


@typed
def tokenised(
    checked: Sequence[Document],
    tokenizer: Tokenizer,
    cache: str | Path | None = None,
    progress: Progress = lambda *_: None,
) -> Corpus:
    """`prepare` for documents that are already checked."""
    folder = Path(cache) if cache else cache_folder() / "tokens"
    spans: list[Span] = []
    done, total = 0, sum(document.size for document in checked)
    for group in _groups(checked):
        report = partial(_report, progress, done, total)
        spans += _shard(folder, group, tokenizer, report, needed=bool(cache))
        done += sum(document.size for document in group)
    full, name = tuple(span for span in spans if len(span.tokens)), _name(checked)
    if not full:
        raise InputError("the text has no tokens", where=name, hint="give more text")
    return Corpus(tokenizer, full, name)


def _name(checked: Sequence[Document]) -> str:
    """The name of documents in messages: the path of the first, and the number of others."""
    if not checked:
        return "data"
    more = len(checked) - 1
    return f"{checked[0].path}{f' and {more} more' if more else ''}"


def _report(progress: Progress, before: int, total: int, more: int) -> None:
    progress("tokenising", before + more, total)


def _groups(checked: Sequence[Document]) -> list[list[Document]]:
    """The documents of each shard."""
    groups: list[list[Document]] = []
    size = SHARD
    for document in checked:
        if size >= SHARD:
            groups.append([])
            size = 0
        groups[-1].append(document)
        size += document.size
    return groups


def _shard(
    folder: Path, group: list[Document], tokenizer: Tokenizer, report: Callable[[int], object], *, needed: bool
) -> Iterator[Span]:
    """Yield the documents of one shard. A missing or damaged shard is written; if `needed`, a failure is an error."""
    made_from = [str(SCHEMA), tokenizer.digest, *(document.digest for document in group)]
    name = hashlib.sha256("\n".join(made_from).encode()).hexdigest()[:32]
    ids, index = folder / f"{name}.ids", folder / f"{name}.json"
    lengths = _lengths(ids, index, len(group), tokenizer.dtype.itemsize)
    if lengths is not None:
        tokens = _mapped(ids, tokenizer)
    else:
        try:
            with nullcontext() if needed else in_cache():
                lengths = _write(ids, index, group, tokenizer, report)
            tokens = _mapped(ids, tokenizer)
        except ArtefactError as error:
            if needed:
                raise
            why = error.problems[0].removeprefix("cannot write: ")
            warnings.warn(f"tokens are not kept in {folder}: {why}; {error.hint}", stacklevel=2)
            lengths, tokens = _unkept(group, tokenizer, report)
    for document, part in zip(group, np.split(tokens, np.cumsum(lengths[:-1], dtype=np.int64)), strict=True):
        yield Span(part, document.digest)


def _lengths(ids: Path, index: Path, documents: int, itemsize: int) -> tuple[int, ...] | None:
    """The number of tokens of each document in a shard; None if it is missing or damaged."""
    try:
        content = parse_json(read_bytes(index, ArtefactError), index, ArtefactError, Index)
        whole = ids.is_file() and content.is_whole(documents, ids.stat().st_size // itemsize)
    except (OSError, ArtefactError):
        return None
    return content.lengths if whole and sha256(ids) == content.sha256 else None


def _write(
    ids: Path, index: Path, group: list[Document], tokenizer: Tokenizer, report: Callable[[int], object]
) -> tuple[int, ...]:
    indices: list[Index] = []
    atomic_write(ids, lambda file: indices.append(_fill(file, group, tokenizer, report)))
    atomic_write(index, lambda file: file.write(msgspec.json.encode(indices[0])))
    return indices[0].lengths


def _unkept(
    group: list[Document], tokenizer: Tokenizer, report: Callable[[int], object]
) -> tuple[tuple[int, ...], Ids]:
    """A shard for this process only: in a temporary file, or in memory if there is no space for one."""
    dtype = tokenizer.dtype.newbyteorder("<")
    with suppress(OSError), tempfile.TemporaryFile() as file:
        lengths = _fill(file, group, tokenizer, report).lengths
        file.flush()
        empty = not any(lengths)  # an empty file cannot be mapped
        return lengths, np.empty(0, dtype) if empty else np.asarray(np.memmap(file, dtype, mode="r"))
    memory = io.BytesIO()
    return _fill(memory, group, tokenizer, report).lengths, np.frombuffer(memory.getvalue(), dtype)


def _fill(file: BinaryIO, group: list[Document], tokenizer: Tokenizer, report: Callable[[int], object]) -> Index:
    """Write the tokens of a shard, and return its index."""
    digest, lengths, end = hashlib.sha256(), [0] * len(group), tokenizer.document_end
    last: int | None = None  # the last token of the document, which may be the end token already

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
            for ids in tokenizer.encode_each(texts):
                add(number, ids)
            read += sum(len(text) for text in texts)  # characters instead of bytes, because the progress is for people
            report(read)
        if end is not None and lengths[number] and last != end:
            add(number, np.array([end]))
        read = sum(document.size for document in group[: number + 1])
    report(read)
    return Index(tuple(lengths), digest.hexdigest(), _digest(lengths))


def _digest(lengths: Sequence[int]) -> str:
    return hashlib.sha256(" ".join(map(str, lengths)).encode()).hexdigest()


def _mapped(ids: Path, tokenizer: Tokenizer) -> Ids:
    dtype = tokenizer.dtype.newbyteorder("<")
    if not ids.stat().st_size:  # an empty file cannot be mapped
        return np.empty(0, dtype)
    return np.asarray(np.memmap(ids, dtype, mode="r"))


def _batched(texts: Iterator[str], size: int) -> Iterator[list[str]]:
    while batch := list(islice(texts, size)):
        yield batch
