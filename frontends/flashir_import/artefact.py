"""Artefacts of `flashir export`, of any backend: their IR text and their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from flashir.backends.narrow_weights import WEIGHTS
from flashir.backends.protocols import Exporter, Params
from flashir.backends.registry import backends
from flashir.errors import ForeignError
from flashir.importing.converted import Converted
from flashir.ir import DType, Graph
from flashir.models.label_names import labels_of
from flashir.models.parameters import checked
from flashir.models.tokenizer_file import reading_of, tokenizer_beside
from flashir.planning.plan import compute_type


class Artefacts:
    """Exported models. Their digests are verified, so there is nothing to compare with."""

    name: ClassVar[str] = "artefact"
    reads: ClassVar[str] = "an exported model of flashir"

    def read(self, path: Path, verify: bool) -> Converted | None:
        """The model and the parameters of an artefact, exactly as it holds them. See FileImporter."""
        for exporter in backends():
            if not isinstance(exporter, Exporter) or (main := _main_file(exporter, path)) is None:
                continue
            try:
                metadata = exporter.metadata(main)
            except ForeignError:
                return None
            model, stored = exporter.stored(main)
            params = checked(model, stored)
            notes = tuple(_rounded(model, params, metadata))
            return Converted(
                *(model, params, self.name, exporter.name),
                notes=notes,
                tokenizer=tokenizer_beside(main, metadata),
                reading=reading_of(main, metadata),
                labels=labels_of(main, metadata),
            )
        return None


def _main_file(exporter: Exporter, path: Path) -> Path | None:
    """The main file of an artefact of this backend, judged by its name."""
    if path.is_dir():
        return main if (main := path / exporter.main_file).is_file() else None
    return path if path.suffix == Path(exporter.main_file).suffix else None


def _rounded(model: Graph, params: Params, metadata: Mapping[str, str]) -> list[str]:
    """A note if the artefact holds narrower weights than those that it was exported from."""
    if (kind := metadata.get(WEIGHTS)) is not None:
        lost = "the weights before rounding are not in it, and the imported model computes in float"
        return [f"its weights are {kind}: they come back as the floats that they stand for; {lost}"]
    dtype = compute_type(model)
    matrices = [array for array in params.values() if array.ndim == 2]
    if dtype is DType.F32 or not all(_fits(array, dtype) for array in matrices):
        return []
    return [f"it holds its weights in {dtype}: they come back as those; the float32 weights are not in it"]


def _fits(array: npt.NDArray[np.float32], dtype: DType) -> bool:
    """Whether a narrow dtype holds these numbers exactly. A bfloat16 is the upper half of a float32."""
    if dtype is DType.BF16:
        return not np.any(array.view(np.uint32) & 0xFFFF)
    return np.array_equal(array.astype(np.float16), array)
