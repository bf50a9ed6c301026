"""Compare results: the inputs, the error, the tolerance, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.ir import DType, Graph
from flashir.reference.inputs import vocabulary
from flashir.transforms.settle_choices import longest_piece

SHORTEST_CHECK = 64  # tokens of a comparison with the interpreter if there is neither a chunk nor a wide tile
SHARE_OF_TOKENS = 0.9  # fraction of true entries in a random mask
TOLERANCE = {DType.F64: 1e-4, DType.F32: 1e-4, DType.F16: 2e-2, DType.BF16: 2e-2}
NARROW = {"int4": 0.5, "int8": 0.2, "float16": 1e-2}  # checks that the graphs agree; perplexity measures their quality


@dataclass(frozen=True)
class Compared:
    """One comparison that an artefact passed.

    Args:
        what, against: the two sides of the comparison.
        batch, lengths: the rows of the input, and their tokens: one number, or one per row.
        weights: the weights of both sides.
        error, limit: the largest error relative to the largest reference value, and its limit.
    """

    what: str
    against: str
    batch: int
    lengths: tuple[int, ...]
    weights: str
    error: float
    limit: float

    def __str__(self) -> str:
        tokens = f" on {' and '.join(map(str, self.lengths))} tokens, batch {self.batch}" if self.lengths else ""
        return (
            f"{self.what} against {self.against}{tokens}, {self.weights}: "
            f"max error {self.error:.1e} (limit {self.limit:.0e})"
        )

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        subject = {"what": self.what, "against": self.against, "batch": self.batch, "lengths": list(self.lengths)}
        return {**subject, "weights": self.weights, "relative_error": self.error, "tolerance": self.limit}


def tokens_to_compare(settled: Graph) -> int:
    """Tokens for a comparison with the interpreter: enough that a second chunk or tile depends on the first."""
    chunk = longest_piece(settled, changing_function=True)
    return max(chunk or SHORTEST_CHECK - 1, longest_piece(settled)) + 1


def sample_inputs(model: Graph, sizes: Mapping[str, int], seed: int = 0) -> list[npt.NDArray[Any]]:
    """Random inputs for a model: tokens of its vocabulary, sorted segment ids, masks with holes, normal floats."""
    random = np.random.default_rng(seed)
    arrays: list[npt.NDArray[Any]] = []
    for value in model.inputs:
        shape = value.type.bind(sizes).sizes
        rows = vocabulary(model, value)
        if value.type.dtype.is_float:
            arrays.append(random.standard_normal(shape).astype(np.float32))
        elif rows is not None:
            arrays.append(random.integers(0, rows, shape))
        elif value.type.dtype is DType.BOOL:
            arrays.append(random.random(shape) < SHARE_OF_TOKENS)
        else:
            arrays.append(np.sort(random.integers(0, 3, shape), axis=-1))
    return arrays


def relative_error(got: Any, wanted: Any) -> float:
    """max |a - b| / max |b|, and 1 for whole numbers and bools of which any differs.

    Equal infinities count as 0, and so do results without elements.
    """
    if got.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    if not np.issubdtype(wanted.dtype, np.floating):
        return float(not np.array_equal(got, wanted))
    difference = np.subtract(got, wanted, out=np.zeros(wanted.shape), where=got != wanted)
    return float(np.max(np.abs(difference)) / max(np.max(np.abs(wanted)), 1e-300))


def worst_error(got: Any, wanted: Sequence[Any]) -> float:
    """The largest `relative_error` of the results of a run: one array, or a tuple of them; NaN is the largest."""
    results = got if isinstance(got, tuple) else (got,)
    if len(results) != len(wanted):
        return float("inf")
    errors = [relative_error(array, right) for array, right in zip(results, wanted, strict=True)]
    return max(errors, key=lambda error: (error != error, error), default=0.0)
