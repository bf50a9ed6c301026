"""What an earlier export left in a folder. It would mislead a reader once another export replaces it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flashir.backends.protocols import Exporter
from flashir.backends.registry import backends
from flashir.errors import ArtefactError, FlashirError
from flashir.exporting.folder import RECORD, recorded
from flashir.files.atomic import sha256, writing
from flashir.models.checkpoint import MANIFEST, RECIPE, TOKENIZER
from flashir.models.tokenizer_file import tokenizer_beside

Stamp = tuple[int, int]


@dataclass(frozen=True)
class EarlierExport:
    """The files of earlier exports, as they were when they were looked up.

    Args:
        stamps: each file, with its inode and the time of its last change.
    """

    stamps: dict[Path, Stamp]

    @staticmethod
    def of(out: Path) -> EarlierExport:
        """Look up intact artefacts of every backend, and unchanged files that `flashir.json` lists."""
        files = {*_recorded(out), *_artefacts(out)} if out.is_dir() else set()
        if any((out / name).exists() for name in (MANIFEST, RECIPE)):  # it belongs to the checkpoint or run
            files.discard(out / TOKENIZER)
        return EarlierExport({path: stamp for path in files if (stamp := _stamp(path)) is not None})

    def remove(self, kept: Collection[Path]) -> None:
        """Remove the files that are not kept and that nobody has changed since. Raises ArtefactError."""
        for path, stamp in self.stamps.items():
            if path not in kept and _stamp(path) == stamp:
                with writing(path):
                    path.unlink()
                with suppress(OSError):  # a folder stays if it holds anything
                    path.parent.rmdir()


def _recorded(out: Path) -> Iterator[Path]:
    digests = recorded(out)
    yield from (out / name for name, digest in digests.items() if _digest(out / name) == digest)
    if digests:
        yield out / RECORD


def _artefacts(out: Path) -> Iterator[Path]:
    """The files of artefacts, and their tokenizers. A damaged one, or of a framework that is missing, stays."""
    for exporter in backends():
        if isinstance(exporter, Exporter) and (main := out / exporter.main_file).is_file():
            with suppress(FlashirError):
                metadata = exporter.metadata(main)
                yield from exporter.files(main)
                if (tokenizer := tokenizer_beside(main, metadata)) is not None:
                    yield tokenizer


def _digest(path: Path) -> str | None:
    with suppress(ArtefactError):
        return sha256(path) if path.is_file() else None
    return None


def _stamp(path: Path) -> Stamp | None:
    with suppress(OSError):
        status = path.lstat()
        return status.st_ino, status.st_mtime_ns
    return None
