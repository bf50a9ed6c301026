"""The artefact on disk: `model.pt2`, the program and its weights as `torch.export` writes them, sealed.

`torch.export.load("model.pt2")` reads it without flashir; the model as text and the choices made are its extra files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import load_pt2

from flashir.backends.protocols import Run
from flashir.errors import ArtefactError
from flashir.files.atomic import atomic_write
from flashir.files.foreign import guarded
from flashir.ir import Graph, loads
from flashir_torch.archive import check_content, check_seal, seal, unbroken
from flashir_torch.devices import device_of
from flashir_torch.footprint import WHOLE, check_run
from flashir_torch.session import Session

MAIN_FILE = "model.pt2"
MODEL = "flashir.model"


@dataclass(frozen=True)
class Loaded:
    """An artefact that was read.

    Args:
        model: at the level of blocks.
        metadata: what else it carries.
        program: what runs.
        path: of its file.
    """

    model: Graph
    metadata: Mapping[str, str]
    program: ExportedProgram
    path: Path

    @property
    def nodes(self) -> Iterator[fx.Node]:
        """What the program is made of."""
        return iter(self.program.graph.nodes)

    def session(self, device: str) -> Session:
        """The program on a device.

        Raises:
            TargetError: the device is not at hand.
            ArtefactError: PyTorch makes nothing of the program.
        """
        place, program = device_of(device), self.program
        with guarded(self.path, ArtefactError, "PyTorch cannot run it"):
            if place.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, place)
            return Session(program.module(), self.model, place, WHOLE)


def write(
    program: ExportedProgram, metadata: Mapping[str, str], out: Path, check: Callable[[Run], object] | None = None
) -> Path:
    """Write, verify and only then commit an artefact. Returns the path of its `model.pt2`.

    Raises:
        ArtefactError: the file cannot be written or read back; and what `check` raises.
    """
    from flashir_torch.verify import examined

    def fill(file: BinaryIO) -> None:
        with unbroken(file) as sink:
            torch.export.save(program, sink, extra_files=dict(metadata))
        seal(file)

    def examine(unfinished: Path) -> None:
        loaded = read(unfinished)
        examined(loaded, unfinished)
        if check is not None:
            check(loaded.session("cpu"))

    path = out / MAIN_FILE
    atomic_write(path, fill, check=examine)
    return path


def read(path: Path) -> Loaded:
    """Read an artefact, once its digest has been verified and its content found harmless.

    Raises:
        ArtefactError: it is missing, damaged, none of flashir's, or PyTorch cannot read it.
        IRError: the text of the model is not of this version of flashir.
    """
    check_seal(path)
    check_content(path)
    with guarded(path, ArtefactError, "PyTorch cannot load it"), path.open("rb") as file:
        # not `torch.export.load`, which goes on with an older, pickled format where this one fails
        content = load_pt2(file)
        program, metadata = content.exported_programs["model"], content.extra_files
    if not metadata.get(MODEL):
        raise ArtefactError("this program carries no flashir model", where=str(path), hint="export it with flashir")
    model = loads(metadata[MODEL], str(path))
    check_run(program, model, path)
    return Loaded(model, metadata, program, path)
