"""What logits say about tokens: probabilities, and how many nats the tokens that came cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.backend import NO_LABEL
from flashir.ir import Graph

AT_ONCE = 2**24  # logits that are looked at together, so that the float64 copy stays small


def is_causal(model: Graph) -> bool:
    """Whether no token of the model sees a later one, as far as its ops say."""
    known = [node.attrs["causal"] for node in model.walk() if "causal" in node.attrs]
    return bool(known) and all(value is True for value in known)


def nats(logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[float, int]:
    """The cross-entropy of labels [b, t] under logits [b, t, vocab], summed in float64, and how many labels there are.

    `NO_LABEL` is none.
    """
    total, step = 0.0, max(1, AT_ONCE // max(1, logits.shape[0] * logits.shape[-1]))
    for start in range(0, labels.shape[1], step):
        wanted = labels[:, start : start + step]
        counts = wanted != NO_LABEL
        chances = log_softmax(logits[:, start : start + step])
        found = np.take_along_axis(chances, np.where(counts, wanted, 0)[..., None].astype(np.int64), -1)[..., 0]
        total -= float(found[counts].sum())
    return total, int(np.count_nonzero(labels != NO_LABEL))


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Logarithms of probabilities over the last axis, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    made: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return made
