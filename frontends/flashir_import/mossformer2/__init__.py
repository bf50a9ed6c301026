"""MossFormer2 of ClearVoice (modelscope/ClearerVoice-Studio): speech separation, and the mask net of enhancement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from flashir.importing.importer import Structure
from flashir_import.mossformer2.structures import MaskNet, Separation


class MossFormer2:
    """The MossFormer2 models of ClearVoice."""

    name: ClassVar[str] = "mossformer2"

    def structures(self) -> Sequence[Structure]:
        """Separation first, since it contains a mask net."""
        return Separation(), MaskNet()


__all__ = ["MossFormer2"]
