"""MossFormer2 of ClearVoice (modelscope/ClearerVoice-Studio): separation, and the mask net of enhancement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from flashir.importing.importer import Structure
from flashir_import.mossformer2.structures import MaskNet, Separation


class MossFormer2:
    """The models of ClearVoice that are built of MossFormer2 blocks."""

    name: ClassVar[str] = "mossformer2"

    def structures(self) -> Sequence[Structure]:
        """Separation end to end, then the mask net of enhancement."""
        return Separation(), MaskNet()


__all__ = ["MossFormer2"]
