"""Damaged files of flashir: a flipped bit, a cut or a lost block must be noticed, or make no difference."""

from __future__ import annotations

import random
import shutil
import warnings
from pathlib import Path

from flashir.errors import FlashirError
from tests.campaign.case import Case
from tests.campaign.formats import FORMATS, good
from tests.campaign.verdict import WrongError

FAST = tuple(name for name, each in FORMATS.items() if each.guarded and not each.slow)
SLOW = tuple(name for name, each in FORMATS.items() if each.guarded and each.slow)
_good: dict[str, object] = {}
"""The content of the valid files by format."""


def case(case: Case) -> str:
    """A damaged file."""
    random = case.random
    name = random.choice(SLOW if random.random() < 0.1 else FAST)
    path = case.once(f"good/{name}", lambda path: good(path, name))
    if name not in _good:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            _good[name] = FORMATS[name].read(_copy(path, case.folder / "first"))
    work = _copy(path, case.folder / "work")
    files = sorted(each for each in work.rglob("*") if each.is_file() and is_of(name, each.relative_to(work)))
    file = random.choices(files, [min(each.stat().st_size, 20_000) + 500 for each in files])[0]
    content = file.read_bytes()
    damaged, what = damage(content, random)
    case.note("damage", f"{name}, {file.relative_to(work)}: {what}")
    if damaged == content:
        return "no damage"
    file.write_bytes(damaged)
    place = f"{name}, {sign_of_file(file)}"
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = FORMATS[name].read(work)
    except FlashirError as error:
        if file.name not in error.message and "folder" not in error.message and str(work) not in error.message:
            raise WrongError(f"{place}: an error that names no file", error.message) from error
        return f"{name}: noticed"
    if found == _good[name]:
        return f"{name}: harmless"
    if any(issubclass(each.category, UserWarning) for each in told):
        return f"{name}: warned"
    raise WrongError(f"{place}: damage passes unseen", f"{what} of {len(content)} bytes")


def damage(content: bytes, random: random.Random) -> tuple[bytes, str]:
    """The damaged content, and a description."""
    data = bytearray(content)
    if not data:
        return b"\0", "a byte in an empty file"
    way = random.random()
    if way < 0.75:
        at = random.randrange(len(data)) if random.random() < 0.6 else random.randrange(min(len(data), 3000))
        bit = random.randrange(8)
        data[at] ^= 1 << bit
        return bytes(data), f"bit {bit} of byte {at}"
    if way < 0.85:
        end = random.randrange(len(data))
        return bytes(data[:end]), f"cut at {end}"
    if way < 0.95:
        at, size = random.randrange(len(data)), random.choice([1, 16, 512, 4096])
        data[at : at + size] = bytes(len(data[at : at + size]))
        return bytes(data), f"{size} zeros at {at}"
    return bytes(data) + b"\0" * random.choice([1, 100]), "bytes behind the end"


def is_of(name: str, file: Path) -> bool:
    """Whether a file is guarded: texts of people, pages, boards and locks are not."""
    if name == "shards":
        return file.parts[0] == "shards"
    free = ("tensorboard", "metrics.jsonl", "recipe.toml")
    return not (name == "run" and (file.parts[0] in free or "log" in file.name))


def sign_of_file(file: Path) -> str:
    """The name of a file without its varying parts."""
    stem = file.name
    return stem if len(stem) < 24 and not any(c.isdigit() for c in file.stem) else f"*{file.suffix}"


def _copy(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    return to
