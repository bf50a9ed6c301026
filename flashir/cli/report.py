"""What `flashir run` says of a run."""

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
from flashir.cli.weights import Weights
from flashir.ir import Graph
from flashir.planning.plan import Plan
from flashir.reference.cross_entropy import is_causal, logits_width
from flashir.reference.finite import check_finite
from flashir.train.data import Tokenizer


@dataclass(frozen=True)
class Result:
    """One result of a run, in plain statistics; those of its numbers are None where it has none.

    Args:
        name: of the value in the model.
        shape: of the array.
        mean, std, least, largest: of its numbers.
    """

    name: str
    shape: tuple[int, ...]
    mean: float | None
    std: float | None
    least: float | None
    largest: float | None

    @staticmethod
    def of(name: str, array: npt.NDArray[Any], *, plain: bool = False) -> Result:
        """That of an array; `plain`, without its statistics."""
        none = plain or not array.size
        numbers = () if none else (array.mean(dtype=float), array.std(dtype=float), array.min(), array.max())
        mean, std, least, largest = map(float, numbers) if numbers else (None,) * 4
        return Result(name, array.shape, mean, std, least, largest)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
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
        shape: of the input.
        weights: that the interpreter had.
        error, limit: how far the results are apart, relative to the largest, and how far they may be.
    """

    shape: tuple[int, ...]
    weights: Weights
    error: float
    limit: float

    @property
    def is_off(self) -> bool:
        """Whether they are further apart than they may be."""
        return not self.error <= self.limit


@dataclass(frozen=True)
class Report:
    """A run in numbers.

    Args:
        model: MODEL as typed.
        target, chunk, cumsum, tile: where it ran, with which choices.
        weights: that it ran with.
        results: what came out, in the order of the model.
        logits: whether the first of them is logits.
        seconds: of one run.
        count: how many tokens went in.
        surprise: how well the model foresees its input, where it is causal and gives logits.
        top: the likeliest tokens after the last, each with its probability.
        tokenizer: of the model, where it is known.
        out: the file that has the first result.
        verdict: of the comparison with the interpreter; None where not compared.
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
    ) -> Report:
        """The numbers of a run; beside the ids there may be `mask` and `segment_ids`, [b, t].

        Raises ResultError where a result is not finite.
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
        )

    def verified(
        self,
        model: Graph,
        weights: Weights,
        inputs: Sequence[npt.NDArray[Any]],
        results: Sequence[npt.NDArray[Any]],
        limit: float,
    ) -> Report:
        """The report with the distance of the results to the float64 interpreter's, and how large that may be."""
        from flashir.reference.compare import worst_error
        from flashir.reference.interpreter import interpret

        arrays = weights.of(model)
        with console.err().status("running the float64 interpreter"):
            wanted = interpret(model, arrays, *inputs)
        return replace(self, verdict=Verdict(inputs[0].shape, weights, worst_error(tuple(results), wanted), limit))

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        made: dict[str, Any] = {
            "model": self.model,
            "target": self.target,
            "chunk": self.chunk,
            "cumsum": self.cumsum,
            **({"tile": self.tile} if self.tile else {}),
            "weights": self.weights.as_dict(),
            "logits": self.logits,
            "shape": list(self.results[0].shape),
            "results": [each.as_dict() for each in self.results],
            "ms": 1e3 * self.seconds,
            "tokens_per_second": self.rate,
            "loss": self.surprise and self.surprise.loss,
            "perplexity": self.surprise and self.surprise.perplexity,
            "bits_per_byte": self.surprise.bits if self.surprise and self._is_bytes else None,
            "top": [{"token": token, "probability": chance} for token, chance in self.top],
            "out": self.out,
        }
        if (found := self.verdict) is not None:
            made |= {"relative_error": found.error, "tolerance": found.limit, "ok": not found.is_off}
            reference = {"against": "interpreter", "input_shape": list(found.shape), "weights": found.weights.as_dict()}
            made["compared"] = reference
        return made

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.count / max(self.seconds, 1e-9)

    @property
    def _is_bytes(self) -> bool:
        return self.tokenizer is not None and self.tokenizer.is_bytes

    def show(self) -> None:
        """Print it for people."""
        chosen = [f"chunk {self.chunk}"] if self.chunk else []
        chosen += [f"tile {self.tile}"] if self.tile else []
        chosen += [f"cumsum {self.cumsum}"] if self.cumsum else []
        facts = {
            "model": " · ".join([f"{self.model} on {self.target}", *chosen]),
            "weights": self.weights.said,
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
        if (found := self.verdict) is not None:
            verdict = "too far from" if found.is_off else "as"
            facts["verify"] = (
                f"{verdict} the float64 interpreter on {list(found.shape)} with {found.weights}: "
                f"{found.error:.1e} off, {found.limit:.0e} allowed"
            )
        console.show(console.facts(facts))

    def _results(self) -> dict[str, str]:
        """The shape of logits; of any other result its name, shape and statistics."""
        shown = {each.name: str(each) for each in self.results}
        if self.logits:
            shown = {"logits": f"{list(self.results[0].shape)}"} | dict([*shown.items()][1:])
        if self.out:
            first = next(iter(shown))
            shown[first] += f" in {self.out}"
        return shown

    def stop_if_off(self) -> None:
        """Say on stderr what is wrong, and exit with 1, where a comparison failed."""
        if (found := self.verdict) is not None and found.is_off:
            console.note(
                f"the results differ from the float64 interpreter by {found.error:.1e}, more than {found.limit:.0e}; "
                "were the parameters the same?",
                "bold red",
            )
            raise typer.Exit(1)
