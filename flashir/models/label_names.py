"""The names of the labels that an exported model predicts, in the metadata of the artefact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flashir.errors import ArtefactError
from flashir.files.foreign import parse_json

LABELS = "flashir.labels"
"""The metadata key, for a JSON list in the order of the scores."""


def labels_of(main: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the labels; none if the metadata have none. Raises ArtefactError."""
    if LABELS not in metadata:
        return ()
    return parse_json(
        metadata[LABELS], main, ArtefactError, tuple[str, ...], problem=f"its metadata {LABELS} is damaged"
    )
