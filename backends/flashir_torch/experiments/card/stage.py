"""Stages: each measures one thing, within a deadline, and keeps what it has in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from flashir.errors import ArtefactError
from flashir.files.atomic import atomic_write
from flashir.files.foreign import parse_json, read_bytes
from flashir.files.sealed_json import is_whole, sealed
from flashir_torch.experiments.card.setting import Setting

Document = dict[str, Any]

COMPLETE, ABOUT = "complete", "card"
SCHEMA = 1


@dataclass(frozen=True)
class Stage:
    """One thing to measure.

    Args:
        name: its name; its file is `NAME.json`.
        seconds: its deadline. A training step at one length, the longest of its parts, may take a minute to compile.
        measure: yields the document each time there is more to keep, given what an earlier run kept.
        summary: the document -> the lines that sum up its results.
        faults: the document -> what is wrong with the results.
    """

    name: str
    seconds: float
    measure: Callable[[Setting, Document], Iterator[Document]]
    summary: Callable[[Document], Iterator[str]]
    faults: Callable[[Document], Iterator[str]] = lambda document: iter(())

    def path(self, out: Path) -> Path:
        """Its file in a folder."""
        return out / f"{self.name}.json"

    def perform(self, setting: Setting, out: Path) -> None:
        """Measure, and keep each document. Raises ArtefactError if its file is damaged, or cannot be written."""
        known = document = self.kept(setting, out)
        for document in self.measure(setting, known):
            self._keep({**document, ABOUT: _about(setting), COMPLETE: False}, out)
        self._keep({**document, ABOUT: _about(setting), COMPLETE: True}, out)

    def kept(self, setting: Setting, out: Path) -> Document:
        """What an earlier run kept; empty if there is nothing.

        Raises:
            ArtefactError: the file is damaged, or of another card or version.
        """
        path = self.path(out)
        document = read(path) if path.exists() else {}
        if document and document.get(ABOUT) != _about(setting):
            problem = f"it is of {document.get(ABOUT)}, not of {_about(setting)}"
            raise ArtefactError(problem, where=str(path), hint="name another folder, or remove the file")
        return document

    def _keep(self, document: Document, out: Path) -> None:
        text = msgspec.json.format(msgspec.json.encode(sealed(document)), indent=1)
        atomic_write(self.path(out), lambda file: file.write(text + b"\n"))


def read(path: Path) -> Document:
    """The document of a stage. Raises ArtefactError if it is damaged, or cannot be read."""
    document = parse_json(read_bytes(path, ArtefactError), path, ArtefactError, Document)
    if not is_whole(document):
        raise ArtefactError("it is damaged, or was changed since it was written", where=str(path))
    return document


def _about(setting: Setting) -> dict[str, Any]:
    return {"target": setting.target, "rehearsal": setting.is_rehearsal, "schema": SCHEMA}
