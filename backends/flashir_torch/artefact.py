"""The artefact on disk: `model.pt2`, the sealed archive of `torch.export` with the program and its weights.

`torch.export.load` reads it without flashir. The text of the model and its plan are extra files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch.export import ExportedProgram

from flashir.backends.protocols import Run, Written
from flashir.files.atomic import atomic_write
from flashir_torch.archive import seal, unbroken
from flashir_torch.stored import read
from flashir_torch.verify import verify

MAIN_FILE = "model.pt2"


def write(
    program: ExportedProgram, metadata: Mapping[str, str], out: Path, check: Callable[[Run], object] | None = None
) -> Written:
    """Write and verify an artefact, and then commit it.

    Raises:
        ArtefactError: the file cannot be written or read back; also the errors of `check`.
    """

    def fill(file: BinaryIO) -> None:
        with unbroken(file) as sink:
            torch.export.save(program, sink, extra_files=dict(metadata))
        seal(file)

    checks: list[str] = []

    def examine(unfinished: Path) -> None:
        loaded = read(unfinished)
        checks.extend(verify(loaded))
        if check is not None:
            check(loaded.session("cpu"))

    path = out / MAIN_FILE
    atomic_write(path, fill, check=examine)
    return Written(path, tuple(checks))
