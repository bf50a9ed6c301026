"""The result of an import, which can be written as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.ir.graph import Graph
from flashir.models.checkpoint import save_checkpoint
from flashir.models.end_tokens import Reading


@dataclass(frozen=True)
class Converted:
    """An imported model.

    Args:
        model: the model, with its chunk settled.
        params: float32 parameters by full name.
        family: the importer, such as `flash-pytorch`.
        structure: the kind of model, such as `FLASHTransformer`.
        options: all options and sizes of the model.
        notes: notes for the user: assumed defaults, prefixes, and how it was verified.
        tokenizer: the tokenizer file; None if there is none.
        reading: how training tokenised texts; None if unknown.
        labels: the names of the labels that the model predicts, in the order of the scores.
    """

    model: Graph
    params: Mapping[str, npt.NDArray[np.float32]]
    family: str
    structure: str
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tokenizer: Path | None = None
    reading: Reading | None = None
    labels: tuple[str, ...] = ()

    def save(self, folder: str | Path) -> Path:
        """Write it as a checkpoint, atomically. Raises the errors of `save_checkpoint`."""
        beside: Any = {"tokenizer": self.tokenizer, "reading": self.reading, "labels": self.labels}
        return save_checkpoint(self.model, self.params, folder, **beside)
