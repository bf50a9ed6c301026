"""What logits say about tokens: probabilities, and how many nats the tokens that came cost."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.backends.protocols import NO_LABEL
from flashir.errors import ResultError, SettingError
from flashir.ir import Graph, Node, Value
from flashir.reference.finite import check_finite
from flashir.reference.inputs import vocabulary

AT_ONCE = 2**24  # logits that are looked at together, so that the float64 copy stays small


PASSED = ("cast", "reshape", "slice")
"""Ops between logits and the result, in a model that was lowered; beside them, sums and products with a parameter."""


def logits_width(model: Graph) -> int | None:
    """The size of the vocabulary, where the first result of the model is logits [b, t, v] of it; else None.

    It is where an `unembed` makes it, or a product with a weight of the size of the vocabulary does. Where the model is
    as wide as its vocabulary, that weight must be the table of the tokens, or that of an `unembed`.
    """
    known = vocabulary(model, model.inputs[0]) if model.inputs else None
    result = model.outputs[0]
    if known is None or result.type.rank != 3 or result.type.shape[-1] != known or not result.type.dtype.is_float:
        return None
    makers = model.producers()
    node = makers.get(result)
    while node is not None and (node.op in PASSED or node.op in ("add", "mul")):
        rest = [value for value in node.operands if node.op in PASSED or _weight(makers, value) is None]
        node = makers.get(rest[0]) if len(rest) == 1 else None
    if node is None or node.op == "unembed":
        return None if node is None else known
    weight = _weight(makers, node.operands[1]) if node.op in ("dense", "matmul", "einsum") else None
    if weight is None or known not in weight.output.type.shape:
        return None
    ambiguous = weight.output.type.shape == (known, known)
    return None if ambiguous and not str(weight.attrs["name"]).startswith(("embed.", "unembed.")) else known


def need_logits(model: Graph, why: str) -> int:
    """The size of the vocabulary. Raises SettingError where the model gives no logits; `why` says what wants them."""
    width = logits_width(model)
    if width is None:
        shown = ", ".join(str(value.type) for value in model.outputs)
        raise SettingError(
            f"the result {shown} is not logits over the tokens that the model takes, so {why}",
            where=f"@{model.name}",
            hint="a model for text takes token ids and ends in `unembed`",
        )
    return width


def _weight(makers: Mapping[Value, Node], value: Value) -> Node | None:
    """The parameter that an operand is, perhaps cast or turned; None for anything else."""
    node = makers.get(value)
    while node is not None and node.op in ("cast", "transpose", "reshape"):
        node = makers.get(node.operands[0])
    return node if node is not None and node.op == "param" else None


def is_causal(model: Graph) -> bool:
    """Whether no token of the model sees a later one, as far as its ops say."""
    known = [node.attrs["causal"] for node in model.walk() if "causal" in node.attrs]
    return bool(known) and all(value is True for value in known)


def nats(logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[float, int]:
    """The cross-entropy of labels [b, t] under logits [b, t, vocab], summed in float64, and how many labels there are.

    `NO_LABEL` is none.

    Raises:
        ResultError: the logits are not finite.
    """
    total, step = 0.0, max(1, AT_ONCE // max(1, logits.shape[0] * logits.shape[-1]))
    for start in range(0, labels.shape[1], step):
        wanted = labels[:, start : start + step]
        counts = wanted != NO_LABEL
        chances = log_softmax(logits[:, start : start + step])
        found = np.take_along_axis(chances, np.where(counts, wanted, 0)[..., None].astype(np.int64), -1)[..., 0]
        total -= float(found[counts].sum())
    if not isfinite(total):
        check_finite(logits, "the logits")
        raise ResultError(f"the cross-entropy is not finite, got {total}")
    return total, int(np.count_nonzero(labels != NO_LABEL))


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Logarithms of probabilities over the last axis, in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    made: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return made
