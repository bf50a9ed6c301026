"""Hostile files with several changes and valid seals: they must be refused by name, and have no effect."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.campaign.case import Case
from tests.campaign.files import VALUES, _changed
from tests.campaign.formats import good, reading
from tests.campaign.verdict import WrongError
from tests.hostile import onnx_models, tokenizer_files, torch_archives

MANY = 0.3
"""The share of cases with more than one change."""


def case(case: Case) -> str:
    """A hostile file."""
    random, trace = case.random, case.folder / "trace"
    kind = random.choice(["onnx", "tokenizer", "tokenizer", "tokenizer", "pt2"])
    path, must_fail = _MAKERS[kind](case, trace, random)
    outcome = reading(kind, path, kind)
    if outcome == "read" and must_fail:
        raise WrongError(f"{kind}: what means harm is read", case.notes["changes"])
    if trace.exists():
        raise WrongError(f"{kind}: a file acts when it is read", case.notes["changes"])
    return f"{kind}: {outcome}"


def _drawn(case: Case, names: list[str], random: random.Random) -> list[str]:
    """The names of one or more changes, in order."""
    count = 1 if random.random() > MANY else random.choice([2, 3])
    chosen = random.sample(names, min(count, len(names)))
    case.note("changes", ", then ".join(chosen))
    return chosen


def _whole(case: Case, kind: str) -> Path:
    """A valid file, copied to the folder of the case."""
    path = case.once(f"good/{kind}", lambda path: good(path, kind))
    shutil.copytree(path, case.folder / "work")
    return case.folder / "work"


def _onnx(case: Case, trace: Path, random: random.Random) -> tuple[Path, bool]:
    names = [name for name in onnx_models.CHANGES if name != "metadata twice"]
    folder = _whole(case, "onnx")
    for name in _drawn(case, names, random):
        try:
            onnx_models.resealed(folder / "model.onnx", onnx_models.CHANGES[name])
        except Exception:  # the change before has taken what this one changes
            break
    return folder, True


def _pt2(case: Case, trace: Path, random: random.Random) -> tuple[Path, bool]:
    changes = {**torch_archives.actions(trace), **torch_archives.excesses()}
    folder = _whole(case, "pt2")
    whole = shutil.copy(folder / "model.pt2", case.folder / "whole.pt2")
    for name in _drawn(case, list(changes), random):
        try:
            torch_archives.rebuilt(Path(whole), folder / "model.pt2", changes[name])
        except Exception:
            break
        shutil.copy(folder / "model.pt2", whole)
    return folder, True


def _tokenizer(case: Case, trace: Path, random: random.Random) -> tuple[Path, bool]:
    """A hostile tokenizer. Some cases change another part too, and may become harmless."""
    folder = _whole(case, "tokenizer")
    (name,) = _drawn(case, list(tokenizer_files.FILES), random)[:1]
    text, end = tokenizer_files.FILES[name]
    more = random.random() < MANY
    if more:
        try:
            text = json.dumps(_changed(json.loads(text), random)[0])
        except (ValueError, RecursionError, TypeError):
            text += json.dumps(random.choice(VALUES[:5]))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    return folder, end == tokenizer_files.AT_READING and not more


_MAKERS: dict[str, Callable[[Case, Path, random.Random], tuple[Path, bool]]] = {
    "onnx": _onnx,
    "pt2": _pt2,
    "tokenizer": _tokenizer,
}
