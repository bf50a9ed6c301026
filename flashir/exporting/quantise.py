"""What fewer bits cost: how well a model foresees a text as it is, and with narrow weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, expm1, inf
from typing import Any

import numpy as np

from flashir.backends.narrow_weights import Quantising
from flashir.backends.protocols import Batch, Exporter, Run
from flashir.backends.registry import having
from flashir.errors import ArtefactError, FlashirError, InputError, SettingError, TargetError, either, option
from flashir.execution.compile import Prepared
from flashir.generation.generate import decoder, generate, longest
from flashir.generation.sampling import Sampling
from flashir.ir import DType
from flashir.planning.plan import compute_type
from flashir.reference.cross_entropy import nats
from flashir.reference.finite import representable
from flashir.reference.inputs import one_document, vocabulary

TOLERANCE = 0.01
"""By what share perplexity may grow, 0.01 is one percent. docs/decisions/052 has what trained models lose."""

ROWS, LENGTH = 4, 512
"""Of the text that a model writes, where there is no other; longer rows where a chunk is, so that there are two."""

LONGEST = 700.0  # nats a token whose perplexity is a number


@dataclass(frozen=True)
class Quantised:
    """What narrow weights cost.

    Args:
        kind: such as `int8`.
        text: whose text it was measured on.
        tokens: of it that were foreseen.
        float_loss, loss: nats a token, of the model as it is and with narrow weights.
        float_bytes: of the weights as they are.
    """

    kind: str
    text: str
    tokens: int
    float_loss: float
    loss: float
    float_bytes: int

    @property
    def float_perplexity(self) -> float:
        """By token, as it is."""
        return exp(self.float_loss) if self.float_loss < LONGEST else inf

    @property
    def perplexity(self) -> float:
        """By token, with narrow weights."""
        return exp(self.loss) if self.loss < LONGEST else inf

    @property
    def growth(self) -> float:
        """By what share perplexity grows; below 0 where it falls."""
        return expm1(min(self.loss - self.float_loss, LONGEST))

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        of_float = {"float_loss": self.float_loss, "float_perplexity": representable(self.float_perplexity)}
        narrow = {"loss": self.loss, "perplexity": representable(self.perplexity), "growth": self.growth}
        about = {"kind": self.kind, "text": self.text, "tokens": self.tokens, "float_bytes": self.float_bytes}
        return {**about, **of_float, **narrow}


class Comparison:
    """Compares a model with its quantised self, and refuses one that is worse by more than a tolerance.

    Args:
        ready: the model as it is.
        target: its target.
        kind: of the narrow weights.
        text: rows to be foreseen, and what comes; without any, the model writes some.
        tolerance: by what share perplexity may grow.

    Raises:
        SettingError: the model does not compute in float32, or the tolerance is no share.
        TargetError: the backend writes weights in one way only.
    """

    def __init__(self, ready: Prepared, target: str, kind: str, text: Iterable[Batch] | None, tolerance: float) -> None:
        if not 0 <= tolerance < inf:
            raise SettingError(f"tolerance must be a share from 0 on, such as {TOLERANCE}, got {tolerance}")
        if (dtype := compute_type(ready.plan.graph)) is not DType.F32:
            raise SettingError(
                f"weights are quantised of a model that computes in float32, this one computes in {dtype.value}",
                hint="leave out dtype, or quantize",
            )
        if not isinstance(ready.backend, Quantising):
            raise TargetError(
                f"the backend {ready.backend.name!r} does not quantise",
                where=target,
                hint=f"choose a target of {either(having(Quantising))}",
            )
        self.backend: Exporter = ready.backend.quantised(kind)
        self.found: Quantised | None = None
        self.kind = kind
        self._ready, self._target = ready, target
        self._text, self._tolerance = text, tolerance

    def __call__(self, whole: Run, narrow: Run) -> None:
        """Measure both.

        Raises:
            ArtefactError: perplexity grows by more than the tolerance, or is no number.
            InputError: the text has no token to be foreseen.
            SettingError: there is no text, and the model cannot write any.
        """
        rows = written(self._ready, self._target) if self._text is None else [*self._text]
        before, after, tokens = 0.0, 0.0, 0
        for row in rows:
            some, count = nats(whole(row.inputs), row.labels)
            before, after, tokens = before + some, after + nats(narrow(row.inputs), row.labels)[0], tokens + count
        if not tokens:
            raise InputError("the text has no token that could be foreseen")
        whose = "of the float model itself" if self._text is None else "of the text given"
        size = 4 * self._ready.plan.parameters
        found = self.found = Quantised(self.kind, whose, tokens, before / tokens, after / tokens, size)
        if not found.growth <= self._tolerance:
            raise ArtefactError(
                f"perplexity grows from {found.float_perplexity:.5g} to {found.perplexity:.5g}, by "
                f"{found.growth:.2%}, more than {self._tolerance:.2%}",
                where=f"quantised to {self.kind}",
                hint="float16 loses less than int8; a larger tolerance allows it",
            )


def written(ready: Prepared, target: str) -> list[Batch]:
    """Rows that a model writes, each token drawn as likely as the model finds it.

    What another model thinks of them costs it the divergence of the two, at least; that is what a comparison wants.

    Raises:
        SettingError: it is not causal, or does not continue texts for another reason.
    """
    model = ready.plan.graph
    length = min(max(LENGTH, 2 * (ready.plan.chunk or 0)), longest(model, None) or inf)
    vocab = vocabulary(model, model.inputs[0])
    if vocab is None:
        raise SettingError("the model takes no tokens, so there is no perplexity", where=f"@{model.name}")
    first = np.random.default_rng(0).integers(0, vocab, (ROWS, 1))
    try:
        made = decoder(model, target, ready.params, max_len=int(length), length=int(length))
        picked = generate(made, first, tokens=int(length) - 1, sampling=Sampling(temperature=1.0))
        ids = np.concatenate([first, *(each[:, None] for each in picked)], axis=1)
    except FlashirError as error:
        raise SettingError(
            ["there is no text to measure perplexity on, and the model does not write one", *error.problems],
            where=error.where,
            hint=f"give text to measure on: {option('text', 'FILE')}",
        ) from None
    return [replace(row, inputs=tuple(one_document(model, row.inputs[0]))) for row in rows_of(ids)]


def rows_of(ids: Sequence[Any] | Any) -> list[Batch]:
    """Each row of ids [b, t], of which every token but the first is foreseen."""
    return [Batch((row[None, :-1],), row[None, 1:]) for row in np.asarray(ids)]
