"""A guard around the library `tokenizers`: a tokenizer.json is checked first, and errors become InputErrors.

The library is written in Rust. On an unexpected file it may panic, which is not an Exception in Python and is printed
to stderr as well, or it may take all memory. The guard looks for the causes before it calls the library.
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
"""A vocabulary may leave out this many ids, plus as many as it has. The library allocates all ids up to the largest."""

GROWTH = 1 << 14
"""The largest factor by which a tokenizer may lengthen a text."""

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
    """The library. Raises TargetError if it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise TargetError(
            "the library tokenizers is not installed", where="tokenizers", hint="pip install 'flashir[train]'"
        ) from None
    return tokenizers


def opened_library(text: str, content: Mapping[str, Any], file: Path | None) -> tokenizers.Tokenizer:
    """Create the tokenizer of a tokenizer.json, and try it on a few texts.

    Args:
        text: the text of the file.
        content: the parsed text.
        file: the path of the file.

    Raises:
        InputError: the file is excessive, or the library cannot create or use the tokenizer.
        TargetError: the library is not installed.
    """
    library = need_library()
    if problems := list(_excesses(content)):
        raise InputError(problems, where=_where(file), hint="get the file from its source again")
    with guarded_library(file, "is not a tokenizer"):
        tokenizer: tokenizers.Tokenizer = library.Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    with guarded_library(file, "is a tokenizer that cannot be used"):
        for probe in _PROBES:
            _tried(tokenizer, probe)
    return tokenizer


@contextmanager
def guarded_library(file: Path | None, problem: str) -> Iterator[None]:
    """Turn errors of the library into an InputError that names the file, and suppress the output of a panic."""
    with guarded(_where(file), InputError, problem, "fix the file, or get it from its source again"), _without_panics():
        yield


def _where(file: Path | None) -> str:
    return "tokenizer" if file is None else str(file)


def _tried(library: tokenizers.Tokenizer, text: str) -> None:
    """Encode and decode a text, so that a panic happens now. An unknown token is not an error."""
    try:
        ids = library.encode(text, add_special_tokens=False).ids
    except Exception:  # there is no unknown token; its texts may not need one
        return
    library.decode(ids, skip_special_tokens=False)


@contextmanager
def _without_panics() -> Iterator[None]:
    """Buffer stderr, also of Rust, and write it afterwards unless there was a panic."""
    with _CAPTURING, ExitStack() as open_files:
        try:
            buffer = open_files.enter_context(tempfile.TemporaryFile())
            stderr = os.dup(2)
            os.dup2(buffer.fileno(), 2)
        except OSError:  # there is no stderr, or no space for a file, so nothing is buffered
            yield
            return
        panicked = False
        try:
            yield
        except BaseException as error:
            panicked = not isinstance(error, (Exception, KeyboardInterrupt))
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            buffer.seek(0)
            if (content := buffer.read()) and not panicked:
                with suppress(OSError):
                    os.write(2, content)


def _excesses(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of a file that are excessive or make the library fail."""
    ids = token_ids(content)
    bound = 2 * len(ids) + SPARE_IDS
    outside = sorted((token, name) for name, token in ids.items() if not 0 <= token < bound)
    for token, name in outside[-_SHOWN:]:
        yield f"the id of {name!r} must be from 0 to {bound - 1}, because there are {len(ids)} tokens, got {token}"
    growth = {"normalizer": 1.0, "post_processor": 1.0, "decoder": 1.0}
    for place in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        for part in _parts(content.get(place)):
            yield from (f"its {place} {problem}" for problem in _faults(part))
            growth[place] = growth.get(place, 1.0) * _growth(part)
    for place, times in growth.items():
        if times > GROWTH:
            yield f"its {place} may make a text {times:.0f} times as long, more than {GROWTH} times"


def _parts(part: object) -> Iterator[dict[str, Any]]:
    """Yield a part of a tokenizer, and all parts inside it."""
    waiting = [part]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item


def _faults(part: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults that make the library panic or end the process."""
    if part.get("type") == "Replace" and "" in _pattern(part).values():
        yield "replaces an empty pattern"
    if part.get("type") == "Prepend" and part.get("prepend") == "":
        yield "prepends an empty text"
    if part.get("type") == "Precompiled" and not _is_charsmap(part.get("precompiled_charsmap")):
        yield "has an invalid precompiled_charsmap"


def _is_charsmap(content: object) -> bool:
    """Whether the content begins with a valid size of its table. The library allocates that size without a check."""
    try:
        data = base64.b64decode(content, validate=True) if isinstance(content, str) else b""
    except ValueError:
        return False
    size = int.from_bytes(data[:4], "little")
    return len(data) > 4 and size % 4 == 0 and size <= len(data) - 4


def _growth(part: Mapping[str, Any]) -> float:
    """The largest factor by which a part lengthens a text."""
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
