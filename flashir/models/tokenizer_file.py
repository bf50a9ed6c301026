"""The tokenizer of an artefact: the file tokenizer.json next to it, identified by a digest in its metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flashir.backends.protocols import Written
from flashir.errors import ArtefactError, InputError
from flashir.files.atomic import atomic_write, sha256, unfinished, writing
from flashir.files.foreign import Shape, guarded, parse_json, read_bytes
from flashir.models.checkpoint import MANIFEST, RECIPE, TOKENIZER
from flashir.models.end_tokens import Reading, end_names, token_ids

DIGEST = "flashir.tokenizer.sha256"
ENDS = "flashir.end_tokens"
"""The ids of the tokens that end a text, as a JSON list; a host stops generation there."""
EXPORT_AGAIN = "export the model again"
READING = "flashir.reading"
"""How training tokenised texts, as JSON: `document_end`, a token name or null, and `special_tokens`."""


@dataclass(frozen=True)
class ExportedTokenizer:
    """A tokenizer that is exported with a model.

    Args:
        content: the content of its file.
        ends: the ids of the tokens that end a text.
        reading: how training tokenised texts; None if unknown.
    """

    content: bytes
    ends: tuple[int, ...] = ()
    reading: Reading | None = None

    @staticmethod
    def of(path: Path, how: Reading | None = None) -> ExportedTokenizer:
        """Read a tokenizer file.

        Raises:
            ArtefactError: it cannot be read, or is not a JSON object.
            InputError: it lacks the token that ends documents, or a configuration file belongs to another tokenizer.
        """
        content = read_bytes(path, ArtefactError)
        tokenizer = parse_json(content, path, ArtefactError, dict[str, object], problem="is not a tokenizer")
        trained = [how.document_end] if how is not None and how.document_end is not None else []
        ids = token_ids(tokenizer)
        missing = [name for name in trained if name not in ids]
        if missing:
            raise InputError(
                f"documents ended with {missing[0]!r} in training, which this tokenizer does not have",
                where=str(path),
                hint="give the tokenizer that the model was trained with",
            )
        names = dict.fromkeys((*trained, *end_names(tokenizer, path.parent)))
        return ExportedTokenizer(content, tuple(ids[name] for name in names), how)

    def ending(self, ends: tuple[int, ...]) -> ExportedTokenizer:
        """The same tokenizer with these tokens that end a text. Raises InputError for one that it does not have."""
        ids = {*token_ids(self._parsed).values()}
        if unknown := [end for end in ends if end not in ids]:
            raise InputError(f"the tokenizer has no token {unknown[0]}, which is to end texts")
        return replace(self, ends=ends)

    @property
    def config(self) -> dict[str, Any]:
        """What tokenizer_config.json says for programs that read tokenizers of Hugging Face."""
        names = {token: name for name, token in token_ids(self._parsed).items()}
        ends = {"eos_token": names[self.ends[0]]} if self.ends else {}
        return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **ends}

    @property
    def _parsed(self) -> dict[str, object]:
        return parse_json(self.content, TOKENIZER, ArtefactError, dict[str, object], problem="is no tokenizer")

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the file in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata of the artefact about this tokenizer."""
        ends = {ENDS: json.dumps(self.ends)} if self.ends else {}
        read = {} if self.reading is None else {READING: json.dumps(self.reading.as_dict())}
        return {DIGEST: self.digest, **ends, **read}

    def put(self, out: Path, commit: Callable[[], Written]) -> Written:
        """Write the file into the folder of an artefact, commit the artefact, and return the result of `commit`.

        The file is on disk under a temporary name before `commit`, and is renamed after it. So a kill leaves either the
        old artefact with the old tokenizer, or the new artefact with a file that `tokenizer_beside` finds.

        Raises:
            ArtefactError: the folder is a checkpoint or run with another tokenizer, or the file cannot be written; also
                the errors of `commit`. The old artefact stays unchanged.
        """
        path = out / TOKENIZER
        owned = any((out / name).exists() for name in (MANIFEST, RECIPE))
        if owned and path.exists() and sha256(path) != self.digest:
            raise ArtefactError("it is the tokenizer of another model", where=str(path), hint="choose another folder")
        committed: list[Written] = []
        atomic_write(path, lambda file: file.write(self.content), check=lambda _: committed.append(commit()))
        for leftover in unfinished(path):
            with writing(leftover):
                leftover.unlink()
        return committed[0]


def ends_of(main: Path, metadata: Mapping[str, str]) -> tuple[int, ...] | None:
    """The ids of the tokens that end a text; None if unknown. Raises ArtefactError."""
    return _parsed(main, metadata, ENDS, tuple[int, ...])


def reading_of(main: Path, metadata: Mapping[str, str]) -> Reading | None:
    """How training tokenised texts; None if unknown. Raises ArtefactError."""
    fields = _parsed(main, metadata, READING, dict[str, object])
    with guarded(main, ArtefactError, _damaged(READING), EXPORT_AGAIN):
        return None if fields is None else Reading.of(fields)


def _parsed(main: Path, metadata: Mapping[str, str], name: str, shape: type[Shape]) -> Shape | None:
    if name not in metadata:
        return None
    return parse_json(metadata[name], main, ArtefactError, shape, problem=_damaged(name), hint=EXPORT_AGAIN)


def _damaged(name: str) -> str:
    return f"its metadata {name} is damaged"


def tokenizer_beside(main: Path, metadata: Mapping[str, str]) -> Path | None:
    """The tokenizer file of an artefact; None if it has none.

    Args:
        main: the main file of the artefact.
        metadata: the metadata of the artefact.

    Raises:
        ArtefactError: the file is missing, or differs from the one that the artefact was written with.
    """
    path, digest = main.with_name(TOKENIZER), metadata.get(DIGEST)
    if digest is None:
        return None
    if path.is_file() and sha256(path) == digest:
        return path
    for leftover in unfinished(path):
        if sha256(leftover) == digest:
            with writing(path):
                return leftover.replace(path)
    raise ArtefactError(
        f"{'it is not' if path.is_file() else 'it is missing:'} the tokenizer that the model was exported with",
        where=str(path),
        hint="export the model again, and move its files together",
    )
