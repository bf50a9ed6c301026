"""The cross-entropy of tokens under the logits of a model, in nats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from flashir.backends.score import Score
from flashir.backends.training import NO_LABEL
from flashir.errors import ResultError, SettingError
from flashir.ir import Graph, Node, Value
from flashir.ir.graph import Attr
from flashir.ops import OPS
from flashir.reference.finite import check_finite
from flashir.reference.inputs import vocabulary
from flashir.transforms.token_analysis import part_of

AT_ONCE = 2**24  # logits per block, so that the float64 copy stays small

PASSED = ("cast", "reshape", "slice")
"""Ops that a lowered model may have after its logits, besides sums and products with a parameter."""


def logits_width(model: Graph) -> int | None:
    """The size v of the vocabulary if the first result of the model is logits [b, t, v]; otherwise None.

    A result is logits if it comes from an `unembed`, or from a product with a weight as large as the vocabulary. If the
    model is as wide as its vocabulary, the weight must be the embedding table or belong to an `unembed`.
    """
    known = vocabulary(model, model.inputs[0]) if model.inputs else None
    result = model.outputs[0]
    if known is None or result.type.rank != 3 or result.type.shape[-1] != known or not result.type.dtype.is_float:
        return None
    producers = model.producers()
    node = producers.get(result)
    while node is not None and (node.op in PASSED or node.op in ("add", "mul")):
        rest = [value for value in node.operands if node.op in PASSED or _weight(producers, value) is None]
        node = producers.get(rest[0]) if len(rest) == 1 else None
    if node is None or node.op == "unembed":  # one in a scope of its own scores labels, however many there are
        return None if node is None or node.attrs["scope"] == "head" else known
    weight = _weight(producers, node.operands[1]) if node.op in ("dense", "matmul", "einsum") else None
    if weight is None or known not in weight.output.type.shape:
        return None
    ambiguous = weight.output.type.shape == (known, known)
    return None if ambiguous and not str(weight.attrs["name"]).startswith(("embed.", "unembed.")) else known


def need_logits(model: Graph, why: str) -> int:
    """The size of the vocabulary. Raises SettingError if the model returns no logits; `why` says what needs them."""
    width = logits_width(model)
    if width is None:
        shown = ", ".join(str(value.type) for value in model.outputs)
        raise SettingError(
            f"the result {shown} is not logits over the tokens that the model takes, so {why}",
            where=f"@{model.name}",
            hint="a model for text takes token ids and ends in `unembed`",
        )
    return width


def _weight(producers: Mapping[Value, Node], value: Value) -> Node | None:
    """The node of a parameter, possibly cast, transposed or reshaped; None for anything else."""
    node = producers.get(value)
    while node is not None and node.op in ("cast", "transpose", "reshape"):
        node = producers.get(node.operands[0])
    return node if node is not None and node.op == "param" else None


def is_causal(model: Graph) -> bool:
    """Whether the model is causal, by the `causal` attributes of its ops, or of the ops in their decompositions."""
    known = _causal(model.walk())
    if not known:
        known = [value for node in model.walk() if OPS[node.op].decompose for value in _causal(part_of(node).walk())]
    return bool(known) and all(value is True for value in known)


def _causal(nodes: Iterable[Node]) -> list[Attr]:
    return [node.attrs["causal"] for node in nodes if "causal" in node.attrs]


def nats(logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[float, int]:
    """The cross-entropy of labels [..] under logits [.., v], summed in float64, and the number of labels.

    Positions with `NO_LABEL` do not count.

    Raises:
        ResultError: the logits are not finite.
    """
    labels, logits = labels.reshape(-1), logits.reshape(-1, logits.shape[-1])
    total, step = 0.0, max(1, AT_ONCE // max(1, logits.shape[-1]))
    for start in range(0, len(labels), step):
        targets = labels[start : start + step]
        counts = targets != NO_LABEL
        log_probs = log_softmax(logits[start : start + step])
        chosen = np.take_along_axis(log_probs, np.where(counts, targets, 0)[..., None].astype(np.int64), -1)[..., 0]
        total -= float(chosen[counts].sum())
    if not isfinite(total):
        check_finite(logits, "the logits")
        raise ResultError(f"the cross-entropy is not finite, got {total}")
    return total, int(np.count_nonzero(labels != NO_LABEL))


def score(scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Score:
    """How well scores [.., v] predict labels [..]. Raises ResultError as `nats`."""
    right = (scores.argmax(-1) == labels) & (labels != NO_LABEL)
    return Score(*nats(scores, labels), int(np.count_nonzero(right)))


def log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The log-softmax over the last axis in float64."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return result
