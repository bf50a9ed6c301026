"""The cost of quantised weights: the perplexity of a model with float weights and with quantised ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, expm1, inf
from typing import Any

import numpy as np

from flashir.backends.narrow_weights import Quantising
from flashir.backends.protocols import Exporter, Run
from flashir.backends.registry import having
from flashir.backends.training import Batch
from flashir.errors import ArtefactError, FlashirError, InputError, SettingError, TargetError, either, option
from flashir.execution.prepare import Prepared
from flashir.generation.generate import decoder, generate, longest
from flashir.generation.sampling import Sampling
from flashir.ir import DType
from flashir.planning.plan import compute_type
from flashir.reference.cross_entropy import nats
from flashir.reference.finite import representable
from flashir.reference.inputs import one_document, vocabulary
from flashir.reference.narrowing import LONGEST

ROWS, LENGTH = 4, 512
"""The size of the text that a model generates for the comparison. Rows have at least two chunks."""


@dataclass(frozen=True)
class Quantised:
    """The cost of quantised weights.

    Args:
        kind: the type of the weights, such as `int8`.
        text: the origin of the text.
        tokens: the number of predicted tokens.
        float_loss, loss: nats per token of the float model and of the quantised model.
        float_bytes: bytes of the float weights.
    """

    kind: str
    text: str
    tokens: int
    float_loss: float
    loss: float
    float_bytes: int

    @property
    def float_perplexity(self) -> float:
        """The per-token perplexity of the float model."""
        return exp(self.float_loss) if self.float_loss < LONGEST else inf

    @property
    def perplexity(self) -> float:
        """The per-token perplexity of the quantised model."""
        return exp(self.loss) if self.loss < LONGEST else inf

    @property
    def growth(self) -> float:
        """The relative growth of perplexity; negative if it falls."""
        return expm1(min(self.loss - self.float_loss, LONGEST))

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        of_float = {"float_loss": self.float_loss, "float_perplexity": representable(self.float_perplexity)}
        narrow = {"loss": self.loss, "perplexity": representable(self.perplexity), "growth": self.growth}
        subject = {"kind": self.kind, "text": self.text, "tokens": self.tokens, "float_bytes": self.float_bytes}
        return {**subject, **of_float, **narrow}


class Comparison:
    """Compares a model with its quantised version, and rejects one whose perplexity grows too much.

    Args:
        prepared: the float model.
        target: the target.
        kind: the type of the weights, such as `int8`.
        text: rows of tokens with labels; None for text that the model generates.
        tolerance: the largest relative growth of perplexity.

    Raises:
        SettingError: the model does not compute in float32.
        TargetError: the backend cannot quantise weights.
    """

    def __init__(
        self, prepared: Prepared, target: str, kind: str, text: Iterable[Batch] | None, tolerance: float
    ) -> None:
        if (dtype := compute_type(prepared.plan.graph)) is not DType.F32:
            raise SettingError(
                f"only a model that computes in float32 can be quantised, this one computes in {dtype.value}",
                hint="leave out dtype, or quantize",
            )
        if not isinstance(prepared.backend, Quantising):
            raise TargetError(
                f"the backend {prepared.backend.name!r} does not quantise",
                where=target,
                hint=f"choose a target of {either(having(Quantising))}",
            )
        self.backend: Exporter = prepared.backend.quantised(kind)
        self.result: Quantised | None = None
        self.kind = kind
        self._prepared, self._target = prepared, target
        self._text, self._tolerance = text, tolerance

    def __call__(self, whole: Run, narrow: Run) -> None:
        """Measure both models.

        Raises:
            ArtefactError: perplexity grows by more than the tolerance, or is not finite.
            InputError: the text has no token to predict.
            SettingError: there is no text, and the model cannot generate any.
        """
        rows = sampled_rows(self._prepared, self._target) if self._text is None else [*self._text]
        before, after, tokens = 0.0, 0.0, 0
        for row in rows:
            loss, count = nats(whole(row.inputs), row.labels)
            before, after, tokens = before + loss, after + nats(narrow(row.inputs), row.labels)[0], tokens + count
        if not tokens:
            raise InputError("the text has no token to predict")
        whose = "of the float model itself" if self._text is None else "of the text given"
        size = 4 * self._prepared.plan.parameters
        result = self.result = Quantised(self.kind, whose, tokens, before / tokens, after / tokens, size)
        if not result.growth <= self._tolerance:
            raise ArtefactError(
                f"perplexity grows from {result.float_perplexity:.5g} to {result.perplexity:.5g}, by "
                f"{result.growth:.2%}, more than {self._tolerance:.2%}",
                where=f"quantised to {self.kind}",
                hint="float16 loses less than int8; a larger tolerance allows it",
            )


def sampled_rows(prepared: Prepared, target: str) -> list[Batch]:
    """Rows sampled from a model.

    On such text, the loss of another model exceeds that of this one by their KL divergence, in expectation.

    Raises:
        SettingError: the model is not causal, or cannot decode for another reason.
    """
    model = prepared.plan.graph
    length = min(max(LENGTH, 2 * (prepared.plan.chunk or 0)), longest(model, None) or inf)
    vocab = vocabulary(model, model.inputs[0])
    if vocab is None:
        raise SettingError("the model takes no tokens, so there is no perplexity", where=f"@{model.name}")
    first = np.random.default_rng(0).integers(0, vocab, (ROWS, 1))
    try:
        sampler = decoder(model, target, prepared.params, max_len=int(length), length=int(length))
        columns = generate(sampler, first, tokens=int(length) - 1, sampling=Sampling(temperature=1.0))
        ids = np.concatenate([first, *(column[:, None] for column in columns)], axis=1)
    except FlashirError as error:
        raise SettingError(
            ["there is no text to measure perplexity on, and the model cannot generate one", *error.problems],
            where=error.where,
            hint=f"give text to measure on: {option('text', 'FILE')}",
        ) from None
    return [replace(row, inputs=tuple(one_document(model, row.inputs[0]))) for row in rows_of(ids)]


def rows_of(ids: Sequence[Any] | Any) -> list[Batch]:
    """A batch for each row of ids [b, t]. Every token but the first is predicted."""
    return [Batch((row[None, :-1],), row[None, 1:]) for row in np.asarray(ids)]
