"""What `flashir export` prints: the checks, the plan and the files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashir.cli import console
from flashir.cli.candidates import choice
from flashir.exporting.exported import Exported
from flashir.models.checkpoint import TOKENIZER


@dataclass(frozen=True)
class ExportReport:
    """What was exported, as JSON or as lines.

    Args:
        model: MODEL as typed.
        exported: the result of `export`.
        sizes: the bytes of each written file by its path, the main file first.
        notes: what a user of the artefact should know.
        weights: the origin of the weights, as a JSON object.
    """

    model: str
    exported: Exported
    sizes: Mapping[str, int]
    notes: Sequence[str]
    weights: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        quantised = self.exported.quantised
        return {
            **self.exported.plan.as_dict(),
            "model": self.model,
            "path": str(self.exported.path),
            "files": dict(self.sizes),
            "weights": dict(self.weights),
            "checks": list(self.exported.checks),
            "compared": [comparison.as_dict() for comparison in self.exported.compared],
            "notes": list(self.notes),
            "quantised": quantised and {**quantised.as_dict(), "bytes": self._model_bytes},
        }

    def show(self) -> None:
        """Print a line for each check, note and file."""
        for line in self.exported.checks:
            console.say(f"ok    {line}", "green")
        for line in self.notes:
            console.say(f"note  {line}", "yellow")
        plan = self.exported.plan
        console.say(f"plan  {choice(plan)}. {plan.why}")
        if self.exported.quantised is not None:
            console.say(self._quantised_text())
        for number, (name, count) in enumerate(self.sizes.items()):
            parameters = "" if number else f", {console.many(plan.parameters)} parameters"
            console.say(f"{name}  ({console.size(count)}{parameters})", "bold")
        if len(self.sizes) > 1:
            console.say(f"{len(self.sizes)} files, {console.size(sum(self.sizes.values()))}")

    @property
    def _model_bytes(self) -> int:
        """The bytes of the files without the tokenizer and those of a web page."""
        return sum(self.sizes[str(file)] for file in self.exported.files if file.name != TOKENIZER)

    def _quantised_text(self) -> str:
        """The size and the perplexity of quantised weights."""
        narrow = self.exported.quantised
        assert narrow is not None
        before, after = console.size(narrow.float_bytes), console.size(self._model_bytes)
        perplexities = f"{console.large(narrow.float_perplexity, 5)} -> {console.large(narrow.perplexity, 5)}"
        cost = f"{perplexities} ({narrow.growth:+.3%})"
        return f"{narrow.kind}  {before} -> {after}, perplexity {cost} on {narrow.tokens:,} tokens {narrow.text}"
