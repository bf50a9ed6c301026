"""The state of AdamW as arrays by name: the same on every backend, so that another backend can resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flashir.backends.protocols import Array
from flashir.errors import ParameterError, suggest

KINDS = ("mean", "square")


@dataclass(frozen=True)
class Moments:
    """The moments of every parameter by full name.

    Args:
        mean: the mean of its gradients, float32 in the shape of the parameter.
        square: the mean of their squares.
        count: the number of steps so far.
    """

    mean: Mapping[str, Array]
    square: Mapping[str, Array]
    count: int = 0

    @staticmethod
    def read(state: Mapping[str, Array] | None, params: Mapping[str, Array]) -> Moments:
        """Read the moments of these parameters from a state; without a state, all are zero.

        Raises:
            ParameterError: lists every entry that is missing, misshapen, or unexpected.
        """
        if state is None:
            zeros = {name: np.zeros(np.shape(array), np.float32) for name, array in params.items()}
            return Moments(zeros, zeros)
        shapes = {f"{kind}.{name}": np.shape(array) for kind in KINDS for name, array in params.items()}
        shapes["count"] = ()
        problems = [f"{name} is missing" for name in shapes if name not in state]
        problems += [f"{name} belongs to no parameter{suggest(name, shapes)}" for name in state if name not in shapes]
        problems += [
            f"{name} must have shape {shape}, got {np.shape(state[name])}"
            for name, shape in shapes.items()
            if name in state and np.shape(state[name]) != shape
        ]
        if problems:
            raise ParameterError(problems, where="state of the optimiser", hint="use the state of the same model")
        mean, square = ({name: np.asarray(state[f"{kind}.{name}"], np.float32) for name in params} for kind in KINDS)
        return Moments(mean, square, int(state["count"]))

    def state(self) -> dict[str, Array]:
        """`mean.<full name>`, `square.<full name>`, and `count`, int64 []."""
        parts = zip(KINDS, (self.mean, self.square), strict=True)
        named = {f"{kind}.{name}": array for kind, arrays in parts for name, array in arrays.items()}
        return {**named, "count": np.asarray(self.count, np.int64)}
