"""FLASH-pytorch (github.com/lucidrains/FLASH-pytorch): FLASHTransformer, and its layers FLASH and GAU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from flashir.importing.importer import Structure
from flashir_import.flash_pytorch.gau import Gau
from flashir_import.flash_pytorch.layer import FlashLayer
from flashir_import.flash_pytorch.transformer import Transformer


class FlashPytorch:
    """The models of FLASH-pytorch."""

    name: ClassVar[str] = "flash-pytorch"

    def structures(self) -> Sequence[Structure]:
        """The language model first, since it contains the layers."""
        return Transformer(), FlashLayer(), Gau()


__all__ = ["FlashPytorch"]
