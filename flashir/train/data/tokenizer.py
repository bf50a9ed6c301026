"""Tokenizers: bytes, byte-pair encodings trained on the text, and whatever a tokenizer.json holds."""

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
Spelled = list[bytes]  # in the class `bytes` is another thing

MASKS = (MASK, "[MASK]")  # of ours, and as BERT has it
PADDED = 128  # a vocabulary may be padded to what suits a matrix unit
SAMPLE = 1 << 26  # bytes of text that a vocabulary is trained on
LARGEST = 1 << 22  # vocabulary; the library makes room for all of it before it looks at the text
LONGEST = 1000  # characters of a word there
TASKS = ("lm", "mlm")
NO_TOKENIZER = "is no tokenizer"

_BYTES = of_bytes([])
_TOO_LONG = re.compile(rf"\S{{{LONGEST}}}")


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back, the token that masks others, and how training reads texts.

    Args:
        text: what a tokenizer.json says, in the format of the library `tokenizers`; bytes need no library.
        reading: what ends documents, and whether special tokens are read from texts.
        file: where `text` comes from.
    """

    text: str
    reading: Reading = PLAIN
    file: Path | None = field(default=None, compare=False)

    @classmethod
    @typed
    def bytes(cls, end: str | None = None) -> Tokenizer:
        """Ids 0 .. 255 are bytes of UTF-8, the last is the mask, and between them stands an `end` of texts, if any.

        Raises:
            SettingError: `end` cannot be the name of a token of its own.
        """
        return cls(of_bytes([] if end is None else [end]))

    @classmethod
    @typed
    def trained(cls, documents: Sequence[Document], vocab: int, end: str | None = None) -> Tokenizer:
        """A byte-pair encoding of `vocab` ids, the mask last, trained on even samples of the documents.

        Args:
            documents: the text.
            vocab: how many ids, the mask and the end among them.
            end: the name of a token that ends texts, the last before the mask.

        Raises:
            SettingError: `vocab` has no room for every byte and the mask; `end` cannot be the name of a token.
            InputError: the text has not as many tokens.
            TargetError: the library is not installed.
        """
        return cls(_trained(documents, vocab, end))

    @classmethod
    @typed
    def read(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a tokenizer.json.

        Raises:
            InputError: the file cannot be read, holds no tokenizer, or is not what flashir wrote.
            TargetError: it needs the library, which is not installed.
        """
        tokenizer = cls(without_digest(read_text(path, InputError), Path(path)), file=Path(path))
        if tokenizer.vocab < 2:
            raise InputError("has no tokens but the mask", where=str(path))
        return tokenizer

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, with a digest in a decoder of bytes. Raises ArtefactError."""
        atomic_write(Path(path), lambda file: file.write(with_digest(self.text).encode()))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of its text and of how it reads, in hexadecimal."""
        plain = self.reading == PLAIN  # the digest is that of the text then, as it was before there was a choice
        said = self.text if plain else json.dumps([self.text, self.reading.as_dict()])
        return hashlib.sha256(said.encode()).hexdigest()

    @cached_property
    def is_bytes(self) -> bool:
        """Whether ids are bytes, but for the mask and an end."""
        if self.text == _BYTES:
            return True
        try:
            return len(self.special) == 1 and self.text == of_bytes(self.special)
        except SettingError:  # its special token is none that bytes could have
            return False

    @cached_property
    def special(self) -> tuple[str, ...]:
        """The names of its special tokens, which no text reads as unless that is asked for."""
        return special_names(self._said)

    @property
    def unbroken(self) -> tuple[str, ...]:
        """Strings that a text is not cut inside of, for they are one token: the special tokens, where they are read."""
        return self.special if self.reading.special_tokens else ()

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The tokens that end texts by its file or those beside it, the one for documents first. Raises InputError."""
        return end_names(self._said, None if self.file is None else self.file.parent)

    @cached_property
    def document_end(self) -> int | None:
        """The id that documents end with; None where they just end."""
        return None if self.reading.document_end is None else self.token(self.reading.document_end)

    def reads(self, reading: Reading) -> Tokenizer:
        """The same tokenizer, which reads texts in another way. Raises InputError where it has no such end."""
        if reading.document_end is not None:
            self.token(reading.document_end)
        return self if reading == self.reading else replace(self, reading=reading)

    def token(self, name: str) -> int:
        """The id of the token of that name. Raises InputError where there is none."""
        return self.tokens([name])[0]

    def tokens(self, names: Iterable[str]) -> list[int]:
        """The ids of the tokens of those names. Raises InputError with every name that no token has."""
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
        """How many ids there are, the mask among them: 257 for bytes."""
        return max(self._named.values(), default=-1) + 1 + (self._mask is None)

    @cached_property
    def mask(self) -> int:
        """The id that hides a token: that of `<mask>` or `[MASK]`, where there is none one past the last."""
        return self.vocab - 1 if self._mask is None else self._mask

    def needs(self, task: str) -> int:
        """The smallest vocabulary of a model for a task: that of an `lm` needs no mask, if it is the last id."""
        return self.vocab - (task == "lm" and self.mask == self.vocab - 1)

    @typed
    def check(self, task: str, vocab: int) -> None:
        """Whether a model with a vocabulary fits, which may be padded by less than 128.

        Raises:
            SettingError: the task is unknown.
            InputError: the vocabulary is another's.
        """
        if task not in TASKS:
            raise SettingError(f"unknown task {task!r}{suggest(task, TASKS)}")
        if not self.needs(task) <= vocab < self.vocab + PADDED:
            raise InputError(
                f"the model has a vocabulary of {vocab}, the tokenizer {self.vocab} ids, of which {task} needs "
                f"{self.needs(task)}",
                where="tokenizer",
                hint=f"make the model with vocab={self.vocab}, or give the tokenizer that is the model's",
            )

    def encode(self, text: str) -> Ids:
        """Token ids [t]; no special tokens are added, and none is read from the text unless `reading` says so.

        Raises:
            InputError: this is no string, or none that UTF-8 can hold.
        """
        if not isinstance(text, str):
            raise InputError(f"a text must be a string, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"this is not UTF-8 text: see character {error.start}") from None
        return self.encode_each([text])[0]

    def encode_each(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids [t] of each text; several cores share them."""
        if self.is_bytes:
            return [self._bytes_of(text) for text in texts]
        library = self._library
        with guarded_library(self.file, "cannot read the text"):
            found = library.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(each.ids, self.dtype) for each in found]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds the ids of any text."""
        return np.dtype(np.uint8) if self.text == _BYTES else np.min_scalar_type(self.vocab - 1)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            InputError: an id that the tokenizer does not have, or what is none.
        """
        try:
            given = [index(token) for token in ids]
        except TypeError as error:
            raise InputError(f"token ids must be whole numbers: {error}") from None
        strange = [token for token in given if not 0 <= token < self.vocab]
        if strange:
            raise InputError(f"the tokenizer has no token {strange[0]}, its ids are 0 .. {self.vocab - 1}")
        if self.spelled is not None:
            return b"".join(self.spelled[token] for token in given).decode(errors="replace")
        library = self._library
        with guarded_library(self.file, "cannot write the text"):
            return str(library.decode(given, skip_special_tokens=False))

    @cached_property
    def spelled(self) -> Spelled | None:
        """The bytes that each id stands for; None where the text of a token depends on those around it."""
        if self.is_bytes:
            return [*(bytes([byte]) for byte in range(BYTES)), *(name.encode() for name in (*self.special, MASK))]
        decoder = self._said.get("decoder")
        if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
            return None
        byte_of = {name: byte for byte, name in enumerate(byte_names())}
        made = [b""] * self.vocab
        for name, token in self._named.items():
            known = all(letter in byte_of for letter in name)
            made[token] = bytes(byte_of[letter] for letter in name) if known else name.encode()
        return made

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        library = opened_library(self.text, self._said, self.file)
        library.encode_special_tokens = not self.reading.special_tokens  # without, what reads like one is text
        return library

    def _bytes_of(self, text: str) -> Ids:
        """Ids of bytes [t]."""
        parts = text.split(self.special[0]) if self.special and self.reading.special_tokens else [text]
        ids = [np.frombuffer(part.encode(), np.uint8) for part in parts]
        if len(ids) == 1:
            return ids[0]
        between = np.array([BYTES], self.dtype)
        return np.concatenate([each for part in ids for each in (between, part)][1:])

    @cached_property
    def _said(self) -> Mapping[str, Any]:
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
        what = "all bytes and the mask" if end is None else "all bytes, the end and the mask"
        raise SettingError(f"vocab must be at least {least}, {what}, and at most {LARGEST}, got {vocab}")
    words = vocab - 1 - len(own)
    most = BYTES + sum(document.size for document in documents)
    library = need_library()
    level = library.pre_tokenizers.ByteLevel
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = level(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=min(words, most), initial_alphabet=level.alphabet(), show_progress=False, special_tokens=[]
    )
    made.train_from_iterator(_sample(documents), trainer)
    count = made.get_vocab_size()
    if count < words:
        raise InputError(
            f"the text has {count} tokens, {words} and the mask are wanted",
            where="tokenizer",
            hint=f"ask for a vocabulary of {count + vocab - words}, or give more text",
        )
    content = json.loads(made.to_str())
    add_own(content, own)
    return json.dumps(content, ensure_ascii=False, indent=1)


def _sample(documents: Sequence[Document]) -> Iterator[str]:
    """Every k-th piece, where that is about SAMPLE bytes; long words are broken, for they are kept whole."""
    every = -(-sum(document.size for document in documents) // SAMPLE)
    all_pieces = (piece for document in documents for piece in pieces(document))
    for number, piece in enumerate(all_pieces):
        if number % every == 0:
            yield _TOO_LONG.sub(r"\g<0> ", piece)
