"""Tokenizers: bytes, byte-pair encodings trained on the text, and any tokenizer.json."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flashir.arguments import typed
from flashir.errors import InputError, SettingError, suggest
from flashir.files.atomic import atomic_write
from flashir.files.foreign import parse_json, read_text
from flashir.models.end_tokens import PLAIN, Reading, end_names, special_names
from flashir.train.data.byte_level import BYTES, MASK, add_own, byte_names, of_bytes
from flashir.train.data.guarded import guarded_library, need_library, opened_library
from flashir.train.data.sealed_text import with_digest, without_digest
from flashir.train.data.text import Document, pieces

if TYPE_CHECKING:
    import tokenizers

Ids = npt.NDArray[np.integer[Any]]
Spelled = list[bytes]  # in the class, `bytes` is a method

MASKS = (MASK, "[MASK]")  # ours, and that of BERT
PADDED = 128  # a vocabulary may be padded to a multiple that suits a matrix unit
SAMPLE = 1 << 26  # a vocabulary is trained on at most about so many bytes of text
LARGEST = 1 << 22  # largest vocabulary to train; the library allocates all of it at the start
LONGEST = 1000  # longest word in the training sample, in characters
TASKS = ("lm", "mlm")
NO_TOKENIZER = "is not a tokenizer"

_BYTES = of_bytes([])
_TOO_LONG = re.compile(rf"\S{{{LONGEST}}}")


@dataclass(frozen=True)
class Tokenizer:
    """Encodes text as token ids and decodes them, and has a mask token and the settings for reading training texts.

    Args:
        text: a tokenizer.json in the format of the library `tokenizers`; bytes do not need the library.
        reading: the end token of documents, and whether special tokens are read from texts.
        file: the file of `text`.
    """

    text: str
    reading: Reading = PLAIN
    file: Path | None = field(default=None, compare=False)

    @classmethod
    @typed
    def bytes(cls, end: str | None = None) -> Tokenizer:
        """A tokenizer of bytes: ids 0 .. 255 are bytes of UTF-8, then the end token if there is one, then the mask.

        Raises:
            SettingError: `end` cannot be the name of a token.
        """
        return cls(of_bytes([] if end is None else [end]))

    @classmethod
    @typed
    def trained(cls, documents: Sequence[Document], vocab: int, end: str | None = None) -> Tokenizer:
        """Train a byte-pair encoding on an even sample of the documents.

        Args:
            documents: the text.
            vocab: the number of ids, including the mask, which is the last, and the end token.
            end: the name of the end token, the last before the mask.

        Raises:
            SettingError: `vocab` is too small for all bytes and the mask, or `end` cannot be the name of a token.
            InputError: the text is too short for so many tokens.
            TargetError: the library is not installed.
        """
        return cls(_trained(documents, vocab, end))

    @classmethod
    @typed
    def read(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer.json.

        Raises:
            InputError: the file cannot be read, has no tokenizer, or has changed since flashir wrote it.
            TargetError: it needs the library, which is not installed.
        """
        tokenizer = cls(without_digest(read_text(path, InputError), Path(path)), file=Path(path))
        if tokenizer.vocab < 2:
            raise InputError("has no tokens but the mask", where=str(path))
        return tokenizer

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, with a digest in a byte-level decoder. Raises ArtefactError."""
        atomic_write(Path(path), lambda file: file.write(with_digest(self.text).encode()))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of its text and of its reading, in hexadecimal."""
        plain = self.reading == PLAIN  # then it is the digest of the text alone, as in older versions
        content = self.text if plain else json.dumps([self.text, self.reading.as_dict()])
        return hashlib.sha256(content.encode()).hexdigest()

    @cached_property
    def is_bytes(self) -> bool:
        """Whether the ids are bytes, apart from the mask and an end token."""
        if self.text == _BYTES:
            return True
        try:
            return len(self.special) == 1 and self.text == of_bytes(self.special)
        except SettingError:  # bytes cannot have such a special token
            return False

    @cached_property
    def special(self) -> tuple[str, ...]:
        """The names of its special tokens. Texts encode to them only if `reading` says so."""
        return special_names(self._content)

    @property
    def unbroken(self) -> tuple[str, ...]:
        """Strings that are one token, so a text is not split inside them: the special tokens, if they are read."""
        return self.special if self.reading.special_tokens else ()

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The end tokens by its file and the files beside it, that of documents first. Raises InputError."""
        return end_names(self._content, None if self.file is None else self.file.parent)

    @cached_property
    def document_end(self) -> int | None:
        """The id of the end token of documents; None if there is none."""
        return None if self.reading.document_end is None else self.token(self.reading.document_end)

    def reads(self, reading: Reading) -> Tokenizer:
        """The same tokenizer with another reading. Raises InputError if it lacks the end token."""
        if reading.document_end is not None:
            self.token(reading.document_end)
        return self if reading == self.reading else replace(self, reading=reading)

    def token(self, name: str) -> int:
        """The id of a token by name. Raises InputError if there is none."""
        return self.tokens([name])[0]

    def tokens(self, names: Iterable[str]) -> list[int]:
        """The ids of tokens by name. Raises InputError with every unknown name."""
        names = list(names)
        strange = [name for name in names if name not in self._named]
        if not strange:
            return [self._named[name] for name in names]
        raise InputError(
            [f"the tokenizer has no token {name!r}" for name in strange],
            where="" if self.file is None else str(self.file),
            hint=f"its special tokens are {', '.join(self.special)}" if self.special else "it has no special tokens",
        )

    @cached_property
    def vocab(self) -> int:
        """The number of ids including the mask: 257 for bytes."""
        return max(self._named.values(), default=-1) + 1 + (self._mask is None)

    @cached_property
    def mask(self) -> int:
        """The id of `<mask>` or `[MASK]`; one past the last id if there is neither."""
        return self.vocab - 1 if self._mask is None else self._mask

    def needs(self, task: str) -> int:
        """The smallest vocabulary of a model for a task. An `lm` does not need the mask if it is the last id."""
        return self.vocab - (task == "lm" and self.mask == self.vocab - 1)

    @typed
    def check(self, task: str, vocab: int) -> None:
        """Check that a model with this vocabulary fits. The vocabulary may be padded by less than 128.

        Raises:
            SettingError: the task is unknown.
            InputError: the vocabulary does not fit.
        """
        if task not in TASKS:
            raise SettingError(f"unknown task {task!r}{suggest(task, TASKS)}")
        if not self.needs(task) <= vocab < self.vocab + PADDED:
            raise InputError(
                f"the model has a vocabulary of {vocab}, the tokenizer {self.vocab} ids, of which {task} needs "
                f"{self.needs(task)}",
                where="tokenizer",
                hint=f"create the model with vocab={self.vocab}, or use the tokenizer of the model",
            )

    def encode(self, text: str) -> Ids:
        """Token ids [t]. No special tokens are added, and none is read from the text unless `reading` says so.

        Raises:
            InputError: the text is not a string, or not valid Unicode.
        """
        if not isinstance(text, str):
            raise InputError(f"a text must be a string, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"this is not UTF-8 text: see character {error.start}") from None
        return self.encode_each([text])[0]

    def encode_each(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids [t] of each text, computed on several cores."""
        if self.is_bytes:
            return [self._bytes_of(text) for text in texts]
        library = self._library
        with guarded_library(self.file, "cannot read the text"):
            encodings = library.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, self.dtype) for encoding in encodings]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The smallest dtype for the ids of any text."""
        return np.dtype(np.uint8) if self.text == _BYTES else np.min_scalar_type(self.vocab - 1)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids. Bytes that are not UTF-8 become U+FFFD.

        Raises:
            InputError: the tokenizer does not have an id, or an id is not a whole number.
        """
        try:
            tokens = [index(token) for token in ids]
        except TypeError as error:
            raise InputError(f"token ids must be whole numbers: {error}") from None
        strange = [token for token in tokens if not 0 <= token < self.vocab]
        if strange:
            raise InputError(f"the tokenizer has no token {strange[0]}, its ids are 0 .. {self.vocab - 1}")
        if self.spelled is not None:
            return b"".join(self.spelled[token] for token in tokens).decode(errors="replace")
        library = self._library
        with guarded_library(self.file, "cannot write the text"):
            return str(library.decode(tokens, skip_special_tokens=False))

    @cached_property
    def spelled(self) -> Spelled | None:
        """The bytes of each id; None if the text of a token depends on its neighbours."""
        if self.is_bytes:
            return [*(bytes([byte]) for byte in range(BYTES)), *(name.encode() for name in (*self.special, MASK))]
        decoder = self._content.get("decoder")
        if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
            return None
        byte_of = {name: byte for byte, name in enumerate(byte_names())}
        spelled = [b""] * self.vocab
        for name, token in self._named.items():
            known = all(letter in byte_of for letter in name)
            spelled[token] = bytes(byte_of[letter] for letter in name) if known else name.encode()
        return spelled

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        library = opened_library(self.text, self._content, self.file)
        library.encode_special_tokens = (
            not self.reading.special_tokens
        )  # if set, special tokens in texts are plain text
        return library

    def _bytes_of(self, text: str) -> Ids:
        """The ids [t] of a text of bytes."""
        parts = text.split(self.special[0]) if self.special and self.reading.special_tokens else [text]
        ids = [np.frombuffer(part.encode(), np.uint8) for part in parts]
        if len(ids) == 1:
            return ids[0]
        between = np.array([BYTES], self.dtype)
        return np.concatenate([array for part in ids for array in (between, part)][1:])

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        return parse_json(self.text, self.file or "tokenizer", InputError, dict[str, object], problem=NO_TOKENIZER)

    @cached_property
    def _named(self) -> dict[str, int]:
        if self.is_bytes:
            return {name: token for token, name in enumerate([*byte_names(), *self.special, MASK])}
        return dict(self._library.get_vocab(with_added_tokens=True))

    @property
    def _mask(self) -> int | None:
        return next((self._named[name] for name in MASKS if name in self._named), None)


def _trained(documents: Sequence[Document], vocab: int, end: str | None) -> str:
    own = [] if end is None else [end]
    least = BYTES + 1 + len(own)
    if not least <= vocab <= LARGEST:
        needed = "all bytes and the mask" if end is None else "all bytes, the end and the mask"
        raise SettingError(f"vocab must be at least {least}, {needed}, and at most {LARGEST}, got {vocab}")
    words = vocab - 1 - len(own)
    most = BYTES + sum(document.size for document in documents)
    library = need_library()
    level = library.pre_tokenizers.ByteLevel
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = level(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=min(words, most), initial_alphabet=level.alphabet(), show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(_sample(documents), trainer)
    count = tokenizer.get_vocab_size()
    if count < words:
        raise InputError(
            f"the text has {count} tokens, but the vocabulary needs {words} and the mask",
            where="tokenizer",
            hint=f"use a vocabulary of {count + vocab - words}, or give more text",
        )
    content = json.loads(tokenizer.to_str())
    add_own(content, own)
    return json.dumps(content, ensure_ascii=False, indent=1)


def _sample(documents: Sequence[Document]) -> Iterator[str]:
    """Yield every k-th piece, about SAMPLE bytes in all. Long words are split; the library would keep them whole."""
    every = -(-sum(document.size for document in documents) // SAMPLE)
    all_pieces = (piece for document in documents for piece in pieces(document))
    for number, piece in enumerate(all_pieces):
        if number % every == 0:
            yield _TOO_LONG.sub(r"\g<0> ", piece)
