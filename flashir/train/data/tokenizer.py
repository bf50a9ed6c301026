"""Tokenizers: bytes, byte-pair encodings trained on the text, and whatever a tokenizer.json holds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flashir.errors import InputError, SettingError, TargetError, suggest
from flashir.files import atomic_write
from flashir.train.data.text import Document, pieces

if TYPE_CHECKING:
    import tokenizers

Ids = npt.NDArray[np.integer[Any]]
Spelled = list[bytes]  # in the class `bytes` is another thing

MASK = "<mask>"
MASKS = (MASK, "[MASK]")  # of ours, and as BERT has it
BYTES = 256
PADDED = 128  # a vocabulary may be padded to what suits a matrix unit
SAMPLE = 1 << 26  # bytes of text that a vocabulary is trained on
LONGEST = 1000  # characters of a word there
TASKS = ("lm", "mlm")

_TOO_LONG = re.compile(rf"\S{{{LONGEST}}}")


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back, and the token that masks others.

    Args:
        text: what a tokenizer.json says, in the format of the library `tokenizers`; bytes need no library.
    """

    text: str

    @classmethod
    def bytes(cls) -> Tokenizer:
        """Ids 0 .. 255 are bytes of UTF-8, 256 is the mask."""
        return cls(_BYTES)

    @classmethod
    def trained(cls, documents: Sequence[Document], vocab: int) -> Tokenizer:
        """A byte-pair encoding of `vocab` ids, the mask last, trained on even samples of the documents.

        Raises:
            SettingError: `vocab` has no room for every byte and the mask.
            InputError: the text has not as many tokens.
            TargetError: the library is not installed.
        """
        return cls(_trained(documents, vocab))

    @classmethod
    def read(cls, path: str | Path) -> Tokenizer:
        """The tokenizer of a tokenizer.json.

        Raises:
            InputError: the file cannot be read, or holds no tokenizer.
            TargetError: it needs the library, which is not installed.
        """
        try:
            tokenizer = cls(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot be read: {getattr(error, 'strerror', error)}", where=str(path)) from None
        try:
            vocab = tokenizer.vocab
        except TargetError:
            raise
        except Exception as error:  # the library raises no kind of its own
            raise InputError(f"is no tokenizer: {error}", where=str(path)) from None
        if vocab < 2:
            raise InputError("has no tokens but the mask", where=str(path))
        return tokenizer

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json. Raises ArtefactError where it cannot be written."""
        atomic_write(Path(path), lambda file: file.write(self.text.encode()))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of its text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def is_bytes(self) -> bool:
        """Whether ids are bytes."""
        return self.text == _BYTES

    @cached_property
    def vocab(self) -> int:
        """How many ids there are, the mask among them: 257 for bytes."""
        return BYTES + 1 if self.is_bytes else max(self._named.values(), default=-1) + 1 + (self._mask is None)

    @cached_property
    def mask(self) -> int:
        """The id that hides a token: that of `<mask>` or `[MASK]`, where there is none one past the last."""
        return self.vocab - 1 if self.is_bytes or self._mask is None else self._mask

    def needs(self, task: str) -> int:
        """The smallest vocabulary of a model for a task: that of an `lm` needs no mask, if it is the last id."""
        return self.vocab - (task == "lm" and self.mask == self.vocab - 1)

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
                mend=f"make the model with vocab={self.vocab}, or give the tokenizer that is the model's",
            )

    def encode(self, text: str) -> Ids:
        """Token ids [t]; no special tokens are added, and none is read from the text."""
        return self.encode_each([text])[0]

    def encode_each(self, texts: Sequence[str]) -> list[Ids]:
        """Token ids [t] of each text; several cores share them."""
        if self.is_bytes:
            return [np.frombuffer(text.encode(), np.uint8) for text in texts]
        found = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, self.dtype) for each in found]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds the ids of any text."""
        return np.dtype(np.uint8) if self.is_bytes else np.min_scalar_type(self.vocab - 1)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            InputError: an id that the tokenizer does not have.
        """
        given = [int(token) for token in ids]
        strange = [token for token in given if not 0 <= token < self.vocab]
        if strange:
            raise InputError(f"the tokenizer has no token {strange[0]}, its ids are 0 .. {self.vocab - 1}")
        if self.spelled is not None:
            return b"".join(self.spelled[token] for token in given).decode(errors="replace")
        return str(self._library.decode(given, skip_special_tokens=False))

    @cached_property
    def spelled(self) -> Spelled | None:
        """The bytes that each id stands for; None where the text of a token depends on those around it."""
        if self.is_bytes:
            return [*(bytes([byte]) for byte in range(BYTES)), MASK.encode()]
        if (json.loads(self.text).get("decoder") or {}).get("type") != "ByteLevel":
            return None
        byte_of = {name: byte for byte, name in enumerate(_byte_names())}
        made = [b""] * self.vocab
        for name, token in self._named.items():
            known = all(letter in byte_of for letter in name)
            made[token] = bytes(byte_of[letter] for letter in name) if known else name.encode()
        return made

    @cached_property
    def _library(self) -> tokenizers.Tokenizer:
        library: tokenizers.Tokenizer = _tokenizers().Tokenizer.from_str(self.text)
        library.no_truncation()
        library.no_padding()
        library.encode_special_tokens = True  # what reads like a special token in a text is text
        return library

    @cached_property
    def _named(self) -> dict[str, int]:
        return dict(self._library.get_vocab(with_added_tokens=True))

    @property
    def _mask(self) -> int | None:
        return next((self._named[name] for name in MASKS if name in self._named), None)


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise TargetError(
            "the library tokenizers is not installed", where="tokenizers", mend="pip install 'flashir[train]'"
        ) from None
    return tokenizers


def _trained(documents: Sequence[Document], vocab: int) -> str:
    if vocab < BYTES + 1:
        raise SettingError(f"vocab must be at least {BYTES + 1}, all bytes and the mask, got {vocab}")
    library = _tokenizers()
    level = library.pre_tokenizers.ByteLevel
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = level(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab - 1, initial_alphabet=level.alphabet(), show_progress=False, special_tokens=[]
    )
    made.train_from_iterator(_sample(documents), trainer)
    if made.get_vocab_size() < vocab - 1:
        raise InputError(
            f"the text has {made.get_vocab_size()} tokens, {vocab - 1} and the mask are wanted",
            where="tokenizer",
            mend=f"ask for a vocabulary of {made.get_vocab_size() + 1}, or give more text",
        )
    content = json.loads(made.to_str())
    content["model"]["vocab"][MASK] = vocab - 1  # no added token: no text reads as it, for no merge makes it
    return json.dumps(content, ensure_ascii=False, indent=1)


def _sample(documents: Sequence[Document]) -> Iterator[str]:
    """Every k-th piece, where that is about SAMPLE bytes; long words are broken, for they are kept whole."""
    every = -(-sum(document.size for document in documents) // SAMPLE)
    all_pieces = (piece for document in documents for piece in pieces(document))
    for number, piece in enumerate(all_pieces):
        if number % every == 0:
            yield _TOO_LONG.sub(r"\g<0> ", piece)


def _byte_names() -> list[str]:
    """The character that stands for each byte in files of the library: itself where it can be seen."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(BYTES) if byte not in seen]
    names = {**{byte: chr(byte) for byte in seen}, **{byte: chr(BYTES + n) for n, byte in enumerate(hidden)}}
    return [names[byte] for byte in range(BYTES)]


_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_BYTES = json.dumps(
    {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": _LEVEL,
        "post_processor": None,
        "decoder": _LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {name: token for token, name in enumerate([*_byte_names(), MASK])},
            "merges": [],
        },
    },
    ensure_ascii=False,
    indent=1,
)
