"""The tokenizer of an artefact: the file tokenizer.json beside it, which its metadata name by the digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flashir.checkpoint import MANIFEST, RECIPE, TOKENIZER
from flashir.errors import ArtefactError
from flashir.files import atomic_write, reading, sha256, unfinished, writing

DIGEST = "flashir.tokenizer.sha256"


@dataclass(frozen=True)
class Beside:
    """A tokenizer that goes along with a model: what its file holds."""

    content: bytes

    @staticmethod
    def of(path: Path) -> Beside:
        """That of a file. Raises ArtefactError where it cannot be read."""
        with reading(path):
            return Beside(path.read_bytes())

    @cached_property
    def digest(self) -> str:
        """The SHA-256, in hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def metadata(self) -> dict[str, str]:
        """What the artefact says of it."""
        return {DIGEST: self.digest}

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
            raise ArtefactError("it is the tokenizer of another model", where=str(path), mend="choose another folder")
        committed: list[Path] = []
        atomic_write(path, lambda file: file.write(self.content), check=lambda _: committed.append(commit()))
        for left in unfinished(path):
            with writing(left):
                left.unlink()
        return committed[0]


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
        mend="export the model again, and move its files together",
    )
