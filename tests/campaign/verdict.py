"""The reply of a case: an outcome, or a finding with a sign that similar findings share."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LONGEST = 6000
_NUMBERS = re.compile(r"\d+")


class UsageError(Exception):
    """The arguments of the campaign are invalid."""


class WrongError(Exception):
    """A fault of flashir.

    Args:
        sign: a few words that are the same for its like.
        what: what is wrong in this case, with the numbers.
    """

    def __init__(self, sign: str, what: str = "") -> None:
        super().__init__(f"{sign}: {what}" if what else sign)
        self.sign, self.what = sign, what


@dataclass(frozen=True)
class Reply:
    """The reply of a case.

    Args:
        outcome: such as `ok` or `refused`; `found` for a finding.
        sign, what, detail: of a finding; the sign of a refusal is its message without numbers.
        notes: what the case was made of, by name.
        seconds: how long it took.
    """

    outcome: str
    sign: str = ""
    what: str = ""
    detail: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def is_finding(self) -> bool:
        """Whether the case found a fault."""
        return self.outcome == "found"


def found(error: BaseException) -> Reply:
    """The finding for an exception, either a WrongError or one that leaked from flashir."""
    detail = "".join(traceback.format_exception(error))[-LONGEST:]
    if isinstance(error, WrongError):
        return Reply("found", error.sign, error.what, detail)
    what = f"{type(error).__name__}: {_text(error)[:500]}"
    return Reply("found", f"{type(error).__name__} leaves {place(error.__traceback__)}", what, detail)


def place(trace: TracebackType | None) -> str:
    """The innermost function of flashir in a traceback: `flashir/files/atomic.py, reading`."""
    frames = [frame for frame in traceback.extract_tb(trace) if is_ours(frame.filename)]
    if not frames:
        return "the campaign"
    last = frames[-1]
    return f"{Path(last.filename).relative_to(ROOT)}, {last.name}"


def is_ours(filename: str) -> bool:
    """Whether a file is source of flashir or of its plug-ins."""
    path = Path(filename)
    return path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in ("flashir", "backends", "frontends")


def sign_of(text: str) -> str:
    """A message without numbers, so that similar messages are equal."""
    return _NUMBERS.sub("N", text.strip().splitlines()[-1] if text.strip() else "")[:120]


def _text(error: Any) -> str:
    try:
        return str(error)
    except Exception as other:
        return f"(its text cannot be had: {type(other).__name__})"
