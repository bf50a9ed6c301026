"""What `flashir run` says of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import typer

from flashir.cli import console, tokens
from flashir.inputs import vocabulary
from flashir.ir import Graph
from flashir.likelihood import is_causal
from flashir.planning import Plan
from flashir.train.data import Tokenizer


@dataclass(frozen=True)
class Report:
    """A run in numbers.

    Args:
        model: MODEL as typed.
        target, chunk, cumsum, tile: where it ran, with which choices.
        shape: of the logits.
        seconds: of one run.
        count: how many tokens went in.
        surprise: how well the model foresees its input, where it is causal.
        top: the likeliest tokens after the last, each with its probability.
        tokenizer: of the model, where it is known.
        out: the file that has the logits.
        error, limit: how far the logits are from the interpreter's, and how far they may be; None where not compared.
    """

    model: str
    target: str
    chunk: int | None
    cumsum: str | None
    tile: int | None
    shape: tuple[int, ...]
    seconds: float
    count: int
    surprise: tokens.Surprise | None
    top: tuple[tuple[int, float], ...]
    tokenizer: Tokenizer | None
    out: str | None
    error: float | None = None
    limit: float | None = None

    @staticmethod
    def of(
        word: str,
        plan: Plan,
        ids: npt.NDArray[Any],
        logits: npt.NDArray[Any],
        seconds: float,
        tokenizer: Tokenizer | None,
        out: Path | None,
    ) -> Report:
        """The numbers of a run."""
        model = plan.graph
        has_tokens = logits.ndim == 3 and ids.ndim == 2 and vocabulary(model, model.inputs[0]) is not None
        causal = has_tokens and is_causal(model)
        return Report(
            model=word,
            target=plan.target,
            chunk=plan.chunk,
            cumsum=plan.cumsum,
            tile=plan.tile,
            shape=logits.shape,
            seconds=seconds,
            count=ids.size,
            surprise=tokens.surprise(logits, ids) if causal else None,
            top=tuple(tokens.top(logits[0, -1])) if causal and logits.size else (),
            tokenizer=tokenizer,
            out=None if out is None else str(out),
        )

    def verified(
        self,
        model: Graph,
        params: Mapping[str, Any] | None,
        seed: int,
        inputs: Sequence[npt.NDArray[Any]],
        logits: npt.NDArray[Any],
        limit: float,
    ) -> Report:
        """The report with the distance to the float64 interpreter, and how large that may be."""
        from flashir.export import relative_error
        from flashir.interpreter import interpret
        from flashir.parameters import checked, init

        arrays = checked(model, init(model, seed) if params is None else params)
        with console.err().status("running the float64 interpreter"):
            wanted = interpret(model, arrays, *inputs)[0]
        return replace(self, error=relative_error(logits, wanted), limit=limit)

    def as_dict(self) -> dict[str, Any]:
        """For machines."""
        made: dict[str, Any] = {
            "model": self.model,
            "target": self.target,
            "chunk": self.chunk,
            "cumsum": self.cumsum,
            **({"tile": self.tile} if self.tile else {}),
            "shape": list(self.shape),
            "ms": 1e3 * self.seconds,
            "tokens_per_second": self.rate,
            "loss": self.surprise and self.surprise.loss,
            "perplexity": self.surprise and self.surprise.perplexity,
            "bits_per_byte": self.surprise.bits if self.surprise and self._is_bytes else None,
            "top": [{"token": token, "probability": chance} for token, chance in self.top],
            "out": self.out,
        }
        if self.error is not None:
            made |= {"relative_error": self.error, "tolerance": self.limit, "ok": not self.is_off}
        return made

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.count / max(self.seconds, 1e-9)

    @property
    def _is_bytes(self) -> bool:
        return self.tokenizer is not None and self.tokenizer.is_bytes

    @property
    def is_off(self) -> bool:
        """Whether the logits differ from the interpreter's by more than they may."""
        return self.error is not None and self.limit is not None and not self.error <= self.limit

    def show(self) -> None:
        """Print it for people."""
        chosen = [f"chunk {self.chunk}"] if self.chunk else []
        chosen += [f"tile {self.tile}"] if self.tile else []
        chosen += [f"cumsum {self.cumsum}"] if self.cumsum else []
        facts = {
            "model": " · ".join([f"{self.model} on {self.target}", *chosen]),
            "logits": f"{list(self.shape)}" + (f" in {self.out}" if self.out else ""),
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
        if self.error is not None:
            verdict = "too far from" if self.is_off else "as"
            facts["verify"] = f"{verdict} the float64 interpreter: {self.error:.1e} off, {self.limit:.0e} allowed"
        console.show(console.facts(facts))

    def stop_if_off(self) -> None:
        """Say on stderr what is wrong, and exit with 1, where a comparison failed."""
        if self.is_off:
            console.note(
                f"the logits differ from the float64 interpreter by {self.error:.1e}, more than {self.limit:.0e}; "
                "were the parameters the same?",
                "bold red",
            )
            raise typer.Exit(1)
