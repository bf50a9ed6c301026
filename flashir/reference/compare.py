"""Results held against each other: on which inputs, how far they may be apart, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.ir import DType, Graph
from flashir.reference.inputs import vocabulary
from flashir.transforms.settle_choices import longest_piece

SHORTEST_CHECK = 64  # tokens of the run against the interpreter, where there is neither a chunk nor a wide tile
SHARE_OF_TOKENS = 0.9  # in a mask that is drawn
TOLERANCE = {DType.F64: 1e-4, DType.F32: 1e-4, DType.F16: 2e-2, DType.BF16: 2e-2}
NARROW = {"int8": 0.2, "float16": 1e-2}  # perplexity says how good they are, this that graphs are the same


@dataclass(frozen=True)
class Compared:
    """One comparison that an artefact passed.

    Args:
        what, against: what was compared with what.
        batch, lengths: the rows of its input, and their tokens: one number, or one for each row.
        weights: of both sides.
        error, limit: how far the results are apart, relative to the largest wanted, and how far they may be.
    """

    what: str
    against: str
    batch: int
    lengths: tuple[int, ...]
    weights: str
    error: float
    limit: float

    def __str__(self) -> str:
        tokens = " and ".join(map(str, self.lengths))
        return (
            f"{self.what} against {self.against} on {tokens} tokens, batch {self.batch}, {self.weights}: "
            f"{self.error:.1e} off, {self.limit:.0e} allowed"
        )

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        about = {"what": self.what, "against": self.against, "batch": self.batch, "lengths": list(self.lengths)}
        return {**about, "weights": self.weights, "relative_error": self.error, "tolerance": self.limit}


def enough(settled: Graph) -> int:
    """Tokens that a comparison with the interpreter wants: a second chunk, or tile, that has seen the first."""
    chunk = longest_piece(settled, changing_function=True)
    return max(chunk or SHORTEST_CHECK - 1, longest_piece(settled)) + 1


def sample_inputs(model: Graph, sizes: Mapping[str, int], seed: int = 0) -> list[npt.NDArray[Any]]:
    """Inputs that fit a model: tokens of its vocabulary, segment ids that grow, masks with holes, normal numbers."""
    random = np.random.default_rng(seed)
    made: list[npt.NDArray[Any]] = []
    for value in model.inputs:
        shape = value.type.bind(sizes).sizes
        rows = vocabulary(model, value)
        if value.type.dtype.is_float:
            made.append(random.standard_normal(shape).astype(np.float32))
        elif rows is not None:
            made.append(random.integers(0, rows, shape))
        elif value.type.dtype is DType.BOOL:
            made.append(random.random(shape) < SHARE_OF_TOKENS)
        else:
            made.append(np.sort(random.integers(0, 3, shape), axis=-1))
    return made


def relative_error(got: Any, wanted: Any) -> float:
    """max |a - b| / max |b|; 0 for results without elements, and for infinities that are the same."""
    if got.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    apart = np.subtract(got, wanted, out=np.zeros(wanted.shape), where=got != wanted)
    return float(np.max(np.abs(apart)) / max(np.max(np.abs(wanted)), 1e-300))


def worst_error(got: Any, wanted: Sequence[Any]) -> float:
    """The largest `relative_error` of the results of a run: one array, or a tuple of them; NaN is the largest."""
    results = got if isinstance(got, tuple) else (got,)
    if len(results) != len(wanted):
        return float("inf")
    errors = [relative_error(each, right) for each, right in zip(results, wanted, strict=True)]
    return max(errors, key=lambda error: (error != error, error), default=0.0)
