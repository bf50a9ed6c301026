"""Raise ONNX files of other exporters, such as torch.onnx, to `flash` and `gau` blocks.

At a fixed length of the input, everything but the dependence on the input is a constant, however the exporter spells
it. The multiplications that are left are matched with those of a layer. What lies between them is recognised by the
values that ONNX Runtime computes there. At last the model is compared with the file as a whole.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from flashir.importing.converted import Converted

SUFFIX = ".onnx"


class OnnxFiles:
    """ONNX files that flashir did not write."""

    name: ClassVar[str] = "onnx"
    reads: ClassVar[str] = "an ONNX file, or a folder with nothing else"

    def read(self, path: Path, verify: bool) -> Converted | None:
        """The model of a file, compared with it in ONNX Runtime. See FileImporter.

        Raises ArtefactError that lists the parts that are not recognised, and where they are.
        """
        file = _only_file(path) if path.is_dir() else path
        if file is None or file.suffix != SUFFIX or not file.exists():
            return None
        from flashir_onnx.raising.importer import raised_file

        return raised_file(file, verify, self.name)


def _only_file(folder: Path) -> Path | None:
    """The ONNX file of a folder that holds only this file and its data."""
    files = list(folder.glob(f"*{SUFFIX}"))
    return files[0] if len(files) == 1 and all(f.name.startswith(files[0].stem) for f in folder.iterdir()) else None
