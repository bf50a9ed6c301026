"""The report of `flashir run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import typer

from flashir.cli import console, tokens
from flashir.cli.labels import Predicted
from flashir.cli.weights import Weights
from flashir.ir import Graph
from flashir.planning.plan import Plan
from flashir.reference.cross_entropy import is_causal, logits_width
from flashir.reference.finite import check_finite
from flashir.train.data import Tokenizer


@dataclass(frozen=True)
class Result:
    """The statistics of one result of a run. They are None for an empty result and for logits.

    Args:
        name: the name of the value in the model.
        shape: the shape of the array.
        mean, std, least, largest: the statistics of its elements.
    """

    name: str
    shape: tuple[int, ...]
    mean: float | None
    std: float | None
    least: float | None
    largest: float | None

    @staticmethod
    def of(name: str, array: npt.NDArray[Any], *, plain: bool = False) -> Result:
        """The statistics of an array; with `plain`, its name and shape alone."""
        none = plain or not array.size
        numbers = () if none else (array.mean(dtype=float), array.std(dtype=float), array.min(), array.max())
        mean, std, least, largest = map(float, numbers) if numbers else (None,) * 4
        return Result(name, array.shape, mean, std, least, largest)

    def as_dict(self) -> dict[str, Any]:
        """The JSON fields."""
        numbers = {"mean": self.mean, "std": self.std, "min": self.least, "max": self.largest}
        return {"name": self.name, "shape": list(self.shape), **numbers}

    def __str__(self) -> str:
        if self.mean is None:
            return f"{list(self.shape)}"
        numbers = f"mean {self.mean:.4g}, std {self.std:.4g}, from {self.least:.4g} to {self.largest:.4g}"
        return f"{list(self.shape)}, {numbers}"


@dataclass(frozen=True)
class Verdict:
    """A comparison with the float64 interpreter.

    Args:
        shape: the shape of the input.
        weights: the weights of the interpreter.
        error, limit: the largest difference relative to the largest value, and its tolerance.
    """

    shape: tuple[int, ...]
    weights: Weights
    error: float
    limit: float

    @property
    def is_off(self) -> bool:
        """Whether the error exceeds the tolerance."""
        return not self.error <= self.limit


@dataclass(frozen=True)
class Report:
    """The numbers of a run.

    Args:
        model: MODEL as typed.
        target, chunk, cumsum, tile: the target and the choices of the run.
        weights: the weights of the run.
        results: the results, in the order of the model.
        logits: whether the first result is logits.
        seconds: the time of one run.
        count: the number of input tokens.
        surprise: the loss of the model on its input, if it is causal and returns logits.
        top: the most likely next tokens with their probabilities.
        tokenizer: the tokenizer of the model, if it is known.
        out: the file with the first result.
        predicted: the labels that it predicts, if they have names.
        verdict: the comparison with the interpreter; None if there was none.
    """

    model: str
    target: str
    chunk: int | None
    cumsum: str | None
    tile: int | None
    weights: Weights
    results: tuple[Result, ...]
    logits: bool
    seconds: float
    count: int
    surprise: tokens.Surprise | None
    top: tuple[tuple[int, float], ...]
    tokenizer: Tokenizer | None
    out: str | None
    predicted: Predicted | None = None
    verdict: Verdict | None = None

    @staticmethod
    def of(
        word: str,
        plan: Plan,
        weights: Weights,
        ids: npt.NDArray[Any],
        results: Sequence[npt.NDArray[Any]],
        seconds: float,
        tokenizer: Tokenizer | None,
        out: Path | None,
        beside: Mapping[str, npt.NDArray[Any]],
        labels: Sequence[str] = (),
    ) -> Report:
        """The report of a run. `beside` may have `mask` and `segment_ids`, [b, t]; `labels` are names of scores.

        Raises ResultError if a result is not finite.
        """
        model, first = plan.graph, results[0]
        logits = logits_width(model) is not None
        names = [value.name for value in model.outputs]
        for name, array in zip(names, results, strict=True):
            check_finite(array, "the logits" if logits and array is first else f"the numbers of {name}")
        foresees = logits and is_causal(model)
        last = np.flatnonzero(beside["mask"][0])[-1:] if "mask" in beside and first.size else [-1]
        return Report(
            model=word,
            target=plan.target,
            chunk=plan.chunk,
            cumsum=plan.cumsum,
            tile=plan.tile,
            weights=weights,
            results=tuple(
                Result.of(name, array, plain=logits and array is first)
                for name, array in zip(names, results, strict=True)
            ),
            logits=logits,
            seconds=seconds,
            count=prod(ids.shape[:2]),
            surprise=tokens.surprise(first, ids, beside) if foresees else None,
            top=tuple(tokens.top(first[0, last[0]])) if foresees and first.size and len(last) else (),
            tokenizer=tokenizer,
            out=None if out is None else str(out),
            predicted=Predicted.of(first, labels, beside.get("mask")),
        )

    def verified(
        self,
        model: Graph,
        weights: Weights,
        inputs: Sequence[npt.NDArray[Any]],
        results: Sequence[npt.NDArray[Any]],
        limit: float,
    ) -> Report:
        """The report with a comparison of the results with the float64 interpreter, within a tolerance."""
        from flashir.reference.compare import worst_error
        from flashir.reference.interpreter import interpret

        arrays = weights.of(model)
        with console.err().status("running the float64 interpreter"):
            wanted = interpret(model, arrays, *inputs)
        return replace(self, verdict=Verdict(inputs[0].shape, weights, worst_error(tuple(results), wanted), limit))

    def as_dict(self) -> dict[str, Any]:
        """The JSON fields."""
        fields: dict[str, Any] = {
            "model": self.model,
            "target": self.target,
            "chunk": self.chunk,
            "cumsum": self.cumsum,
            **({"tile": self.tile} if self.tile else {}),
            "weights": self.weights.as_dict(),
            "logits": self.logits,
            "shape": list(self.results[0].shape),
            "results": [result.as_dict() for result in self.results],
            "ms": 1e3 * self.seconds,
            "tokens_per_second": self.rate,
            "loss": self.surprise and self.surprise.loss,
            "perplexity": self.surprise and self.surprise.perplexity,
            "bits_per_byte": self.surprise.bits if self.surprise and self._is_bytes else None,
            "top": [{"token": token, "probability": chance} for token, chance in self.top],
            "labels": self.predicted and self.predicted.labels,
            "out": self.out,
        }
        if (verdict := self.verdict) is not None:
            fields |= {"relative_error": verdict.error, "tolerance": verdict.limit, "ok": not verdict.is_off}
            reference = {
                "against": "interpreter",
                "input_shape": list(verdict.shape),
                "weights": verdict.weights.as_dict(),
            }
            fields["compared"] = reference
        return fields

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.count / max(self.seconds, 1e-9)

    @property
    def _is_bytes(self) -> bool:
        return self.tokenizer is not None and self.tokenizer.is_bytes

    def show(self) -> None:
        """Print the report."""
        chosen = [f"chunk {self.chunk}"] if self.chunk else []
        chosen += [f"tile {self.tile}"] if self.tile else []
        chosen += [f"cumsum {self.cumsum}"] if self.cumsum else []
        facts = {
            "model": " · ".join([f"{self.model} on {self.target}", *chosen]),
            "weights": self.weights.origin_text,
            **self._results(),
            "time": f"{console.milliseconds(1e3 * self.seconds)}, {self.rate:,.0f} tokens/s",
        }
        if self.surprise is not None:
            unit = "byte" if self._is_bytes else "token"
            facts["loss"] = (
                f"{self.surprise.loss:.4f} nats a token, {self.surprise.bits:.4f} bits per {unit}, "
                f"perplexity {self.surprise.perplexity:,.4g}"
            )
        if self.top:
            facts["next"] = "  ".join(
                f"{tokens.shown(self.tokenizer, token)} {chance:.1%}" for token, chance in self.top
            )
        if self.predicted is not None:
            facts["labels"] = str(self.predicted)
        if (verdict := self.verdict) is not None:
            relation = "differs from" if verdict.is_off else "agrees with"
            facts["verify"] = (
                f"{relation} the float64 interpreter on {list(verdict.shape)} with {verdict.weights}: "
                f"relative error {verdict.error:.1e}, tolerance {verdict.limit:.0e}"
            )
        console.show(console.facts(facts))

    def _results(self) -> dict[str, str]:
        """The results by name: the shape of logits, or the shape and statistics of another result."""
        shown = {result.name: str(result) for result in self.results}
        if self.logits:
            shown = {"logits": f"{list(self.results[0].shape)}"} | dict([*shown.items()][1:])
        if self.out:
            first = next(iter(shown))
            shown[first] += f" in {self.out}"
        return shown

    def stop_if_off(self) -> None:
        """If the comparison failed, report it on stderr and exit with 1."""
        if (verdict := self.verdict) is not None and verdict.is_off:
            console.note(
                f"the results differ from the float64 interpreter by {verdict.error:.1e}, "
                f"more than {verdict.limit:.0e}; were the parameters the same?",
                "bold red",
            )
            raise typer.Exit(1)
