"""What an export wrote, and how it was checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flashir.exporting.quantise import Quantised
from flashir.planning.plan import Plan
from flashir.reference.compare import Compared


@dataclass(frozen=True)
class Exported:
    """The result of `export`.

    Args:
        path: the main file of the artefact.
        plan: the plan behind the artefact.
        checks: a line for each check that the artefact passed.
        notes: what a user of the artefact should know.
        quantised: the cost of quantised weights; None if they are not quantised.
        files: all written files, the main file first.
        compared: the checks that compared results.
    """

    path: Path
    plan: Plan
    checks: tuple[str, ...]
    notes: tuple[str, ...]
    quantised: Quantised | None = None
    files: tuple[Path, ...] = ()
    compared: tuple[Compared, ...] = ()
