"""GAU-alpha (github.com/JunnYu/GAU-alpha-pytorch): GAUAlphaForMaskedLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from flashir.importing.importer import Structure
from flashir_import.gau_alpha.masked_lm import MaskedLM


class GauAlpha:
    """The models of gau_alpha."""

    name: ClassVar[str] = "gau-alpha"

    def structures(self) -> Sequence[Structure]:
        """The masked language model."""
        return (MaskedLM(),)


__all__ = ["GauAlpha"]
