"""Docstrings of types: the text, and what they say about each field."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import cleandoc
from typing import TypeVar

Kind = TypeVar("Kind", bound=type)
ARGUMENTS = "Args:\n"
_FIELDS = re.compile(r"^    (\w+(?:, \w+)*): ", re.MULTILINE)
_NEXT_SECTION = re.compile(r"^(?=\S)", re.MULTILINE)


def inherits(base: type) -> Callable[[Kind], Kind]:
    """Add what the docstring of a base says about its fields, because a TypedDict does not know its bases."""

    def documented(kind: Kind) -> Kind:
        kind.__doc__ = f"{cleandoc(kind.__doc__ or '')}\n{cleandoc(base.__doc__ or '').partition(ARGUMENTS)[2]}"
        return kind

    return documented


def parts(docstring: str) -> tuple[str, dict[str, str]]:
    """The text before the arguments, and the text of each argument."""
    summary, _, arguments = docstring.partition(ARGUMENTS)
    _, *named = _FIELDS.split(_NEXT_SECTION.split(arguments)[0])
    texts = dict(zip(named[::2], named[1::2], strict=True))
    return " ".join(summary.split()), {
        name: " ".join(text.split()) for names, text in texts.items() for name in names.split(", ")
    }
