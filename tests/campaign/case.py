"""A case with its random numbers, folders and notes, and how to run it."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.campaign.kinds import KINDS, Kind
from tests.campaign.verdict import Reply, UsageError, found, sign_of

TALK = "CAMPAIGN_TALK"
"""The environment variable to print notes to standard error immediately."""


@dataclass
class Case:
    """A case, which the kind, the seed and the number determine.

    Args:
        kind, seed, number: the identity of the case.
        folder: its own empty folder, which is removed afterwards.
        shared: a folder that all cases of this worker share, for files that are slow to make.
    """

    kind: Kind
    seed: int
    number: int
    folder: Path
    shared: Path
    random: random.Random = field(init=False)
    notes: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.kind.name}:{self.seed}:{self.number}")

    def note(self, name: str, value: object) -> None:
        """Record a fact about the case, for the reader of a finding."""
        text = value if isinstance(value, str) else repr(value)
        self.notes[name] = text if len(text) <= 20_000 else f"{text[:10_000]}\n... {len(text)} characters ...\n"
        if os.environ.get(TALK):
            print(f"--- {name}\n{self.notes[name]}", file=sys.stderr, flush=True)

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A path that all cases of this worker share. `make` fills it on first use."""
        path = self.shared / name
        if not path.exists():
            unfinished = self.shared / f"{name}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(path)
        return path

    @property
    def name(self) -> str:
        """The name to replay the case by, such as `texts:7:12`."""
        return f"{self.kind.name}:{self.seed}:{self.number}"


def parse(name: str) -> tuple[Kind, int, int]:
    """The kind, seed and number of `texts:7:12`. Raises UsageError."""
    parts = name.split(":")
    if len(parts) != 3 or parts[0] not in KINDS or not (parts[1] + parts[2]).isdecimal():
        raise UsageError(f"a case is KIND:SEED:NUMBER, such as texts:7:12, got {name!r}")
    return KINDS[parts[0]], int(parts[1]), int(parts[2])


def run(kind: Kind, seed: int, number: int, scratch: Path, shared: Path) -> Reply:
    """Run a case in this process.

    Args:
        kind, seed, number: the identity of the case.
        scratch: a folder of this worker.
        shared: a folder that all workers of this kind use, one at a time.
    """
    from flashir.errors import FlashirError

    folder = scratch / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shared.mkdir(parents=True, exist_ok=True)
    before = os.getcwd()
    os.chdir(folder)  # files with relative paths are removed with the case
    case = Case(kind, seed, number, folder, shared)
    started = time.monotonic()
    try:
        reply = Reply(_act_of(kind)(case))
    except FlashirError as error:
        reply = Reply(f"refused: {error.code}", sign_of(error.problems[0]))
    except BaseException as error:
        reply = found(error)
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)
    return replace(reply, notes=case.notes if reply.is_finding else {}, seconds=time.monotonic() - started)


def _act_of(kind: Kind) -> Callable[[Case], str]:
    module: Any = import_module(kind.module)
    act: Callable[[Case], str] = module.case
    return act
