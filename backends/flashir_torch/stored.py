"""Load an artefact. Its seal and its content are checked before PyTorch loads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import fx
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import load_pt2

from flashir.backends.protocols import MODEL_TEXT
from flashir.errors import ArtefactError
from flashir.files.foreign import guarded
from flashir.ir import Graph, loads
from flashir_torch.archive import check_content, check_seal
from flashir_torch.devices import device_of
from flashir_torch.footprint import WHOLE, check_run
from flashir_torch.session import Session


@dataclass(frozen=True)
class Loaded:
    """A loaded artefact.

    Args:
        model: the model at the level of blocks.
        metadata: its extra files.
        program: the exported program.
        path: the path of its file.
    """

    model: Graph
    metadata: Mapping[str, str]
    program: ExportedProgram
    path: Path

    @property
    def nodes(self) -> Iterator[fx.Node]:
        """The nodes of the program."""
        return iter(self.program.graph.nodes)

    def session(self, device: str) -> Session:
        """The program on a device.

        Raises:
            TargetError: the device is not available.
            ArtefactError: PyTorch cannot run the program.
        """
        place, program = device_of(device), self.program
        with guarded(self.path, ArtefactError, "PyTorch cannot run it"):
            if place.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, place)
            return Session(program.module(), self.model, place, WHOLE)


def read(path: Path) -> Loaded:
    """Load an artefact after verifying its digest and checking its content.

    Raises:
        ArtefactError: it is missing, damaged, was not written by flashir, or PyTorch cannot read it.
        IRError: another version of flashir wrote the text of the model.
    """
    check_seal(path)
    check_content(path)
    with guarded(path, ArtefactError, "PyTorch cannot load it"), path.open("rb") as file:
        # not `torch.export.load`, which falls back to an older, pickled format
        content = load_pt2(file)
        program, metadata = content.exported_programs["model"], content.extra_files
    if not metadata.get(MODEL_TEXT):
        raise ArtefactError("this program contains no flashir model", where=str(path), hint="export it with flashir")
    model = loads(metadata[MODEL_TEXT], str(path))
    check_run(program, model, path)
    return Loaded(model, metadata, program, path)
