"""The parameters that a verb uses, and their origin, which every output states."""

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
        arrays: the parameters of a file, checkpoint or artefact; None for random parameters, and for an artefact that
            does not expose them.
        path: the path of the file, checkpoint or artefact.
        seed: the seed of random parameters; None if they are not known to be random.
        scale: the scale of random parameters: `init`, as for training, or `unit`, at which every term matters.
    """

    source: str
    arrays: Mapping[str, npt.NDArray[Any]] | None = None
    path: str = ""
    seed: int | None = None
    scale: str = "init"

    @property
    def are_random(self) -> bool:
        """Whether the parameters are random, also those of an artefact."""
        return self.seed is not None

    def of(self, model: Graph) -> dict[str, npt.NDArray[np.float32]]:
        """The validated parameters of a model, or random ones. Raises ParameterError."""
        from flashir.models.parameters import checked, init, unit

        if self.arrays is not None:
            return checked(model, self.arrays)
        return (unit if self.scale == "unit" else init)(model, self.seed or 0)

    def rechunked(self, chunk: int | None, rechunk: bool) -> Weights:
        """The weights after `--rechunk`."""
        if self.arrays is None or chunk is None or not rechunk:
            return self
        from flashir.models.parameters import rechunked

        return replace(self, arrays=rechunked(self.arrays, chunk))

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        fields: dict[str, Any] = {"source": self.source, "random": self.are_random}
        if self.path:
            fields["path"] = self.path
        return fields | ({"seed": self.seed, "scale": self.scale} if self.are_random else {})

    def __str__(self) -> str:
        """`random weights (seed 0)`, `the weights in out/`."""
        origin = {"file": "the weights of ", "checkpoint": "the weights of ", "artefact": "the weights in "}
        if self.source in origin:
            return origin[self.source] + self.path
        return f"random weights ({'unit scale, ' if self.scale == 'unit' else ''}seed {self.seed})"

    @property
    def origin_text(self) -> str:
        """The text that verbs print: the origin, or a warning that the weights are random."""
        if not self.are_random:
            return self.path
        exported = f"{self.path} was exported with those of " if self.path else ""
        return f"{RANDOM} ({exported}seed {self.seed})"
