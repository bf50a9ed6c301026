"""The parameters that a verb runs a model with, and where they come from: said in every output, for people and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flashir.exporting.export import RANDOM

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from flashir.ir import Graph


@dataclass(frozen=True)
class Weights:
    """Parameters by full name, and their origin.

    Args:
        source: `file`, `checkpoint`, `artefact`, or `random`.
        arrays: those of a file or checkpoint, or read from an artefact; None for what nobody gave, and for what an
            artefact keeps to itself.
        path: of the file, checkpoint or artefact.
        seed: of random ones; None where they are not known to be random.
        scale: `init`, as training starts, or `unit`, at which every term matters; of random ones.
    """

    source: str
    arrays: Mapping[str, npt.NDArray[Any]] | None = None
    path: str = ""
    seed: int | None = None
    scale: str = "init"

    @property
    def are_random(self) -> bool:
        """Whether nobody has given them, here or when an artefact was written."""
        return self.seed is not None

    def of(self, model: Graph) -> dict[str, npt.NDArray[np.float32]]:
        """The parameters of a model, checked; fresh ones where there are none. Raises ParameterError."""
        from flashir.models.parameters import checked, init, unit

        if self.arrays is not None:
            return checked(model, self.arrays)
        return (unit if self.scale == "unit" else init)(model, self.seed or 0)

    def rechunked(self, chunk: int | None, rechunk: bool) -> Weights:
        """These as they are after `--rechunk`; the same where it changes nothing."""
        if self.arrays is None or chunk is None or not rechunk:
            return self
        from flashir.models.parameters import rechunked

        return replace(self, arrays=rechunked(self.arrays, chunk))

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        made: dict[str, Any] = {"source": self.source, "random": self.are_random}
        if self.path:
            made["path"] = self.path
        return made | ({"seed": self.seed, "scale": self.scale} if self.are_random else {})

    def __str__(self) -> str:
        """`random weights (seed 0)`, `the weights in out/`."""
        origin = {"file": "the weights of ", "checkpoint": "the weights of ", "artefact": "the weights in "}
        if self.source in origin:
            return origin[self.source] + self.path
        return f"random weights ({'unit scale, ' if self.scale == 'unit' else ''}seed {self.seed})"

    @property
    def said(self) -> str:
        """What a verb prints about them: where they are from, or that nothing was learnt."""
        if not self.are_random:
            return self.path
        exported = f"{self.path} was exported with those of " if self.path else ""
        return f"{RANDOM} ({exported}seed {self.seed})"
