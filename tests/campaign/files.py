"""Malformed files of every format: they must be read, or refused with an error that names the file."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

from tests.campaign.case import Case
from tests.campaign.flips import damage, sign_of_file
from tests.campaign.formats import FORMATS, good, reading
from tests.campaign.texts import mutated

FAST = tuple(name for name, each in FORMATS.items() if not each.slow)
SLOW = tuple(name for name, each in FORMATS.items() if each.slow)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 1e308, -0.5, float("nan"), float("inf"), "", "x", "\0",
    "\ud800", "é" * 50, "../../x", "/etc/passwd", "9" * 5000, [], {}, [[]], [None], {"": ""}, "a" * 100_000,
)  # fmt: skip
TOML = (
    "nan",
    "inf",
    "-1",
    "9" * 500,
    "1e400",
    "true",
    "[]",
    "{}",
    "''",
    "'x'",
    "[1]",
    "1979-05-27",
    "[" * 3000 + "]" * 3000,
)


def case(case: Case) -> str:
    """A malformed file."""
    random = case.random
    name = random.choice(SLOW if random.random() < 0.1 else FAST)
    path = case.once(f"good/{name}", lambda path: good(path, name))
    work = case.folder / "work"
    shutil.copytree(path, work)
    files = sorted(each for each in work.rglob("*") if each.is_file() and "tensorboard" not in each.parts)
    file = random.choice(files)
    what = malform(file, random)
    case.note("file", f"{name}, {file.relative_to(work)}: {what}")
    if file.is_file():
        case.note("content", repr(file.read_bytes()[:4000]))
    place = f"{name}, {sign_of_file(file)}"
    return f"{name}: {reading(name, work, place)}"


def malform(file: Path, random: random.Random) -> str:
    """Damage or replace a file. Returns a description."""
    ways = [_damaged, _damaged, _foreign, _other_thing]
    if _is_json(file):
        ways += [_structured] * 8
    elif file.suffix in (".toml", ".fir"):
        ways += [_worded] * 8
    elif file.suffix == ".safetensors":
        ways += [_header] * 6
    return random.choice(ways)(file, random)


def _damaged(file: Path, random: random.Random) -> str:
    content, what = damage(file.read_bytes(), random)
    file.write_bytes(content)
    return what


def _foreign(file: Path, random: random.Random) -> str:
    """The content of another kind of file."""
    contents: dict[str, bytes] = {
        "nothing": b"",
        "zeros": bytes(5000),
        "a zip": b"PK\3\4" + bytes(100),
        "a pickle": b"\x80\4\x95\3\0\0\0\0\0\0\0]\x94.",
        "a SQLite file": b"SQLite format 3\0" + bytes(200),
        "brackets": b"[" * 200_000,
        "braces": b'{"a":' * 200_000,
        "a page": b"<!doctype html><p>404 not found</p>",
        "a pointer of git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "an .npy file": b"\x93NUMPY\1\0" + b"v\0{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }",
        "a large number": b"9" * 100_000,
        "UTF-16": "model".encode("utf-16"),
        "a mark and text": b"\xef\xbb\xbfmodel",
    }
    what = random.choice(sorted(contents))
    file.write_bytes(contents[what])
    return what


def _other_thing(file: Path, random: random.Random) -> str:
    """Replace the file by a folder, a broken link, a link to itself, or nothing."""
    file.unlink()
    match random.randrange(4):
        case 0:
            file.mkdir()
            return "a folder"
        case 1:
            file.symlink_to("nowhere")
            return "a link to nowhere"
        case 2:
            file.symlink_to(file.name)
            return "a link to itself"
        case _:
            return "missing"


def _structured(file: Path, random: random.Random) -> str:
    """A JSON value with parts replaced, removed, wrapped or repeated."""
    value = json.loads(file.read_bytes())
    told = []
    for _ in range(random.choice([1, 1, 2, 4])):
        value, what = _changed(value, random)
        told.append(what)
    file.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
    return "; ".join(told)


def _changed(value: Any, random: random.Random) -> tuple[Any, str]:
    places = list(_places(value, ()))
    place = random.choice(places)
    if not place:
        return random.choice(VALUES), "the whole"
    holder = value
    for key in place[:-1]:
        holder = holder[key]
    key, shown = place[-1], "/".join(map(str, place))[-80:]
    match random.randrange(6):
        case 0:
            del holder[key]
            return value, f"{shown} is gone"
        case 1:
            holder[key] = [holder[key]]
            return value, f"{shown} in a list"
        case 2 if isinstance(holder, dict):
            holder[random.choice(["x", "", "\0", f"{key}2", str(key).upper()])] = holder.pop(key)
            return value, f"{shown} has another name"
        case 3 if isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            holder[key] = random.choice([holder[key] + 1, -holder[key], holder[key] * 1000, str(holder[key])])
            return value, f"{shown} is another number"
        case _:
            holder[key] = random.choice(VALUES)
            return value, f"{shown} = {str(holder[key])[:30]!r}"


def _places(value: Any, path: tuple[Any, ...]) -> Any:
    yield path
    if len(path) < 6 and isinstance(value, dict):
        for key in list(value)[:400]:
            yield from _places(value[key], (*path, key))
    elif len(path) < 6 and isinstance(value, list):
        for index in range(min(len(value), 20)):
            yield from _places(value[index], (*path, index))


def _worded(file: Path, random: random.Random) -> str:
    """A text with changed tokens, or with a replaced TOML value."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".toml" and random.random() < 0.7:
        lines = text.splitlines()
        at = random.randrange(len(lines))
        name = lines[at].partition("=")[0].strip()
        lines[at] = f"{name} = {random.choice(TOML)}"
        text = "\n".join(lines)
    else:
        text = mutated(text, random)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return "another text"


def _header(file: Path, random: random.Random) -> str:
    """A safetensors file with a changed JSON header, whose length may be wrong."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, what = json.loads(content[8 : 8 + size]), []
    for _ in range(random.choice([1, 1, 2])):
        if random.random() < 0.3 and isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
            header["__metadata__"] = {name: json.dumps(random.choice(VALUES)) for name in header["__metadata__"]}
            what.append("other metadata")
        elif random.random() < 0.3:
            text = re.sub(
                r'"F32"',
                f'"{random.choice(["F16", "BF16", "F64", "I64", "F8_E4M3", "BOOL", "C64", "F4"])}"',
                json.dumps(header),
                count=1,
            )
            header = json.loads(text)
            what.append("another type")
        else:
            header, said = _changed(header, random)
            what.append(said)
    data = json.dumps(header).encode("utf-8", "surrogatepass")
    length = len(data) if random.random() < 0.9 else random.choice([0, 2**63, 2**64 - 1, len(data) + 1000])
    file.write_bytes(length.to_bytes(8, "little") + data + content[8 + size :])
    return "; ".join(what)


def _is_json(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except (ValueError, OSError):
        return False
    return True
