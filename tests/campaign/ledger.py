"""The results of a campaign in a folder: counts, which are replaced as a whole, and findings, which are appended."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaign.kinds import Kind
from tests.campaign.verdict import Reply, UsageError

COUNTS, FINDINGS = "counts.json", "findings.jsonl"
FORMAT = 1
ALIKE = 20
"""The most findings to keep per sign; further ones are only counted."""
SIGNS = 200
"""The most signs of refusals to count."""
OFTEN = 1.0
"""Seconds between two writes of the counts."""


@dataclass
class Count:
    """The counts of a kind: next number, seconds, outcomes, and findings and refusals by sign."""

    next: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)

    @property
    def cases(self) -> int:
        """The number of cases."""
        return sum(self.outcomes.values())

    @property
    def found(self) -> int:
        """The number of findings."""
        return sum(self.findings.values())


class Ledger:
    """The folder of a campaign. After a kill it is at most a second old, and no case is counted twice."""

    def __init__(self, folder: Path, seed: int, kinds: tuple[Kind, ...]) -> None:
        self.folder, self.seed = folder, seed
        self.counts = {kind.name: Count() for kind in kinds}
        self._written = 0.0
        self._kept: dict[tuple[str, str], set[str]] = {}

    @staticmethod
    def new(folder: Path, seed: int, kinds: tuple[Kind, ...]) -> Ledger:
        """A new ledger. Raises UsageError if the folder is not empty."""
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty; choose another folder, or --resume {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(folder, seed, kinds)
        ledger.write()
        return ledger

    @staticmethod
    def read(folder: Path, kinds: tuple[Kind, ...] | None) -> Ledger:
        """Read a ledger to continue, by default with its own kinds. Raises UsageError."""
        from tests.campaign.kinds import chosen

        try:
            told: dict[str, Any] = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
            if told["format"] != FORMAT:
                raise UsageError(f"{folder / COUNTS} has another format")
            own = kinds or chosen(",".join(told["kinds"]))
            ledger = Ledger(folder, told["seed"], own)
            ledger.counts |= {name: Count(**count) for name, count in told["kinds"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{folder} is no campaign: {error}") from None
        for line in ledger.findings():
            ledger._kept.setdefault((line["case"].partition(":")[0], line["sign"]), set()).add(line["case"])
        return ledger

    def findings(self) -> list[dict[str, Any]]:
        """The kept findings. A truncated last line is skipped."""
        path = self.folder / FINDINGS
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def add(self, kind: Kind, number: int, reply: Reply) -> None:
        """Record a reply. A finding is on disk when this returns."""
        count = self.counts[kind.name]
        count.next = number + 1
        count.seconds += reply.seconds
        count.outcomes[reply.outcome] = count.outcomes.get(reply.outcome, 0) + 1
        if reply.is_finding:
            count.findings[reply.sign] = count.findings.get(reply.sign, 0) + 1
            self._keep(kind, f"{kind.name}:{self.seed}:{number}", reply)
        elif reply.sign and (reply.sign in count.refusals or len(count.refusals) < SIGNS):
            count.refusals[reply.sign] = count.refusals.get(reply.sign, 0) + 1
        if reply.is_finding or time.monotonic() - self._written > OFTEN:
            self.write()

    def close(self) -> None:
        """Remove the shared files of the workers."""
        shutil.rmtree(self.folder / "shared", ignore_errors=True)

    def write(self) -> None:
        """Replace the counts on disk."""
        self._written = time.monotonic()
        told = {"format": FORMAT, "seed": self.seed, "kinds": {name: vars(c) for name, c in self.counts.items()}}
        path = self.folder / COUNTS
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        os.replace(unfinished, path)

    def _keep(self, kind: Kind, case: str, reply: Reply) -> None:
        alike = self._kept.setdefault((kind.name, reply.sign), set())
        if case in alike or len(alike) >= ALIKE:
            return
        alike.add(case)
        line = {
            "case": case,
            "sign": reply.sign,
            "what": reply.what,
            "replay": replay(case),
            "notes": reply.notes,
            "detail": reply.detail,
        }
        path = self.folder / FINDINGS
        torn = path.exists() and path.stat().st_size and path.read_bytes()[-1:] != b"\n"
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if torn else "") + json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def replay(case: str) -> str:
    """The command to replay a case."""
    return f"python -m tests.campaign --replay {case}"
