"""The library `tokenizers` behind a guard: what a tokenizer.json asks for is bounded, what the library raises is told.

It is written in Rust. Where it does not foresee what a file says it panics, which is no Exception in Python and is
printed to stderr as well, or it takes all memory. Of what does so, a file is searched first.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashir.errors import InputError, TargetError
from flashir.files.foreign import guarded
from flashir.models.end_tokens import token_ids

if TYPE_CHECKING:
    import tokenizers

SPARE_IDS = 1 << 16
"""Ids that a vocabulary may leave out, beside as many as it has: memory is taken for every id up to the largest."""

GROWTH = 1 << 14
"""How many times as long a text may become before it is cut into tokens."""

_SHOWN = 5
_PROBES = (
    "",
    "a",
    " a b",
    "Hello, world! 12\n\t",
    "h\u00e9llo \u4f60\u597d \u00df\u0301 \U0001f600 [x] <s>",
    "aaaaaaaa" * 8,
)
_BETWEEN = re.compile(r"[*?|^$]|\\[bBAzZG]|\{0?,")
_CAPTURING = threading.Lock()


def need_library() -> Any:
    """The library. Raises TargetError where it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise TargetError(
            "the library tokenizers is not installed", where="tokenizers", hint="pip install 'flashir[train]'"
        ) from None
    return tokenizers


def opened_library(text: str, said: Mapping[str, Any], file: Path | None) -> tokenizers.Tokenizer:
    """The tokenizer of the library that a tokenizer.json describes, tried on a few texts.

    Args:
        text: of the file.
        said: the same, parsed.
        file: where it comes from.

    Raises:
        InputError: it asks for too much, or the library cannot make or use it.
        TargetError: the library is not installed.
    """
    library = need_library()
    if problems := list(_excesses(said)):
        raise InputError(problems, where=_where(file), hint="get the file from who made it")
    with guarded_library(file, "is no tokenizer"):
        made: tokenizers.Tokenizer = library.Tokenizer.from_str(text)
        made.no_truncation()
        made.no_padding()
    with guarded_library(file, "is a tokenizer that cannot be used"):
        for each in _PROBES:
            _tried(made, each)
    return made


@contextmanager
def guarded_library(file: Path | None, problem: str) -> Iterator[None]:
    """Whatever the library raises becomes an InputError that names the file; what it prints of a panic is left out."""
    with guarded(_where(file), InputError, problem, "mend the file, or get it from who made it"), _without_panics():
        yield


def _where(file: Path | None) -> str:
    return "tokenizer" if file is None else str(file)


def _tried(library: tokenizers.Tokenizer, text: str) -> None:
    """Encode and decode a text, so that a panic comes now. That it has no token for some text is another matter."""
    try:
        ids = library.encode(text, add_special_tokens=False).ids
    except Exception:  # no unknown token: it may be meant for texts that need none
        return
    library.decode(ids, skip_special_tokens=False)


@contextmanager
def _without_panics() -> Iterator[None]:
    """Holds back what is written to stderr meanwhile, by Rust too, and passes it on after, unless there was a panic."""
    with _CAPTURING, ExitStack() as open_files:
        try:
            kept = open_files.enter_context(tempfile.TemporaryFile())
            real = os.dup(2)
            os.dup2(kept.fileno(), 2)
        except OSError:  # there is no stderr, or no place for a file: then nothing is held back
            yield
            return
        panicked = False
        try:
            yield
        except BaseException as error:
            panicked = not isinstance(error, (Exception, KeyboardInterrupt))
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
            kept.seek(0)
            if (held := kept.read()) and not panicked:
                with suppress(OSError):
                    os.write(2, held)


def _excesses(said: Mapping[str, Any]) -> Iterator[str]:
    """What a file asks for that no tokenizer needs."""
    ids = token_ids(said)
    bound = 2 * len(ids) + SPARE_IDS
    outside = sorted((token, name) for name, token in ids.items() if not 0 <= token < bound)
    for token, name in outside[-_SHOWN:]:
        yield f"the id of {name!r} must be from 0 to {bound - 1}, for there are {len(ids)} tokens, got {token}"
    growth = {"normalizer": 1.0, "post_processor": 1.0, "decoder": 1.0}
    for place in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for part in _parts(said.get(place)):
            yield from (f"its {place} {problem}" for problem in _faults(part))
            growth[place] = growth.get(place, 1.0) * _growth(part)
    for place, times in growth.items():
        if times > GROWTH:
            yield f"its {place} may make a text {times:.0f} times as long, more than {GROWTH} times"


def _parts(part: object) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer and those it is a sequence of."""
    waiting = [part]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _faults(part: Mapping[str, Any]) -> Iterator[str]:
    """What makes the library panic, or end the process."""
    if part.get("type") == "Replace" and "" in _pattern(part).values():
        yield "replaces an empty pattern"
    if part.get("type") == "Prepend" and part.get("prepend") == "":
        yield "prepends nothing"
    if part.get("type") == "Precompiled" and not _is_charsmap(part.get("precompiled_charsmap")):
        yield "has a precompiled_charsmap that is none"


def _is_charsmap(content: object) -> bool:
    """Whether this begins with the size in bytes of a table that is there: the library takes memory for it unseen."""
    try:
        data = base64.b64decode(content, validate=True) if isinstance(content, str) else b""
    except ValueError:
        return False
    size = int.from_bytes(data[:4], "little")
    return len(data) > 4 and size % 4 == 0 and size <= len(data) - 4


def _growth(part: Mapping[str, Any]) -> float:
    """How many times as long it makes a text at most."""
    content = part.get("content")
    if part.get("type") == "Replace" and isinstance(content, str):
        pattern = _pattern(part)
        if isinstance(string := pattern.get("String"), str):
            return max(1.0, len(content) / max(len(string), 1))
        between = _BETWEEN.search(str(pattern.get("Regex"))) is not None  # it may match between characters
        return max(1.0, len(content) + between)
    if part.get("type") == "TemplateProcessing" and isinstance(single := part.get("single"), list):
        return max(1.0, sum(isinstance(piece, dict) and "Sequence" in piece for piece in single))
    return 1.0


def _pattern(part: Mapping[str, Any]) -> Mapping[str, Any]:
    pattern = part.get("pattern")
    return pattern if isinstance(pattern, dict) else {}
