"""The tokenizer of an artefact: the file tokenizer.json beside it, which its metadata name by the digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flashir.errors import ArtefactError, InputError
from flashir.files.atomic import atomic_write, sha256, unfinished, writing
from flashir.files.foreign import Shape, guarded, parse_json, read_bytes
from flashir.models.checkpoint import MANIFEST, RECIPE, TOKENIZER
from flashir.models.end_tokens import Reading, end_names, token_ids

DIGEST = "flashir.tokenizer.sha256"
ENDS = "flashir.end_tokens"
"""The ids of the tokens that end a text, as a JSON list: where a host stops."""
ANEW = "export the model again"
READING = "flashir.reading"
"""How training read texts, as JSON: `document_end`, the name of a token or null, and `special_tokens`."""


@dataclass(frozen=True)
class Beside:
    """A tokenizer that goes along with a model.

    Args:
        content: of its file.
        ends: the ids of the tokens that end a text.
        reading: how training read texts, where that is known.
    """

    content: bytes
    ends: tuple[int, ...] = ()
    reading: Reading | None = None

    @staticmethod
    def of(path: Path, how: Reading | None = None) -> Beside:
        """That of a file, and how training read texts with it.

        Raises:
            ArtefactError: it cannot be read, or is no JSON object.
            InputError: it has no such end of documents; a configuration file beside it is of another tokenizer.
        """
        content = read_bytes(path, ArtefactError)
        said = parse_json(content, path, ArtefactError, dict[str, object], problem="is no tokenizer")
        trained = [how.document_end] if how is not None and how.document_end is not None else []
        ids = token_ids(said)
        strange = [name for name in trained if name not in ids]
        if strange:
            raise InputError(
                f"documents ended with {strange[0]!r} in training, which this tokenizer does not have",
                where=str(path),
                hint="give the tokenizer that the model was trained with",
            )
        names = dict.fromkeys((*trained, *end_names(said, path.parent)))
        return Beside(content, tuple(ids[name] for name in names), how)

    @cached_property
    def digest(self) -> str:
        """The SHA-256, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def metadata(self) -> dict[str, str]:
        """What the artefact says of it."""
        ends = {ENDS: json.dumps(self.ends)} if self.ends else {}
        read = {} if self.reading is None else {READING: json.dumps(self.reading.as_dict())}
        return {DIGEST: self.digest, **ends, **read}

    def put(self, out: Path, commit: Callable[[], Path]) -> Path:
        """Write the file into the folder of an artefact as that is committed, and return what `commit` does.

        It is on disk before, under a temporary name, and gets its name after: so a kill leaves the old artefact with
        the old tokenizer, or the new one with one that `beside` finds.

        Raises:
            ArtefactError: the folder is that of a checkpoint or run with another tokenizer, or it cannot be written;
                and what `commit` raises. The old artefact is whole.
        """
        path = out / TOKENIZER
        owned = any((out / name).exists() for name in (MANIFEST, RECIPE))
        if owned and path.exists() and sha256(path) != self.digest:
            raise ArtefactError("it is the tokenizer of another model", where=str(path), hint="choose another folder")
        committed: list[Path] = []
        atomic_write(path, lambda file: file.write(self.content), check=lambda _: committed.append(commit()))
        for left in unfinished(path):
            with writing(left):
                left.unlink()
        return committed[0]


def ends_of(main: Path, metadata: Mapping[str, str]) -> tuple[int, ...] | None:
    """The tokens that end a text; None where an artefact does not say. Raises ArtefactError."""
    return _said(main, metadata, ENDS, tuple[int, ...])


def reading_of(main: Path, metadata: Mapping[str, str]) -> Reading | None:
    """How training read texts; None where an artefact does not say. Raises ArtefactError."""
    said = _said(main, metadata, READING, dict[str, object])
    with guarded(main, ArtefactError, _damaged(READING), ANEW):
        return None if said is None else Reading.of(said)


def _said(main: Path, metadata: Mapping[str, str], name: str, shape: type[Shape]) -> Shape | None:
    if name not in metadata:
        return None
    return parse_json(metadata[name], main, ArtefactError, shape, problem=_damaged(name), hint=ANEW)


def _damaged(name: str) -> str:
    return f"what it says of {name} is damaged"


def beside(main: Path, metadata: Mapping[str, str]) -> Path | None:
    """The file of the tokenizer of an artefact; None where it has none.

    Args:
        main: the main file of the artefact.
        metadata: what it carries.

    Raises:
        ArtefactError: the file is missing, or is not the one that the artefact was written with.
    """
    path, wanted = main.with_name(TOKENIZER), metadata.get(DIGEST)
    if wanted is None:
        return None
    if path.is_file() and sha256(path) == wanted:
        return path
    for left in unfinished(path):
        if sha256(left) == wanted:
            with writing(path):
                return left.replace(path)
    raise ArtefactError(
        f"{'it is not' if path.is_file() else 'it is missing:'} the tokenizer that the model was exported with",
        where=str(path),
        hint="export the model again, and move its files together",
    )
