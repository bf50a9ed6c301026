"""Convert names to Python identifiers and attribute paths for generated code."""

from __future__ import annotations

import builtins
import keyword
import re

from torch import fx, nn

from flashir.errors import ParameterError

_PART = re.compile(r"[A-Za-z0-9_+-]+\Z")  # as IR text allows, and harmless in quotes
_ILLEGAL = re.compile(r"[^A-Za-z0-9_]")
_RESERVED = frozenset(("self", "torch", "device", "inf", "nan", "NoneType", "fx_pytree", "pytree"))
_TAKEN = frozenset(dir(fx.GraphModule)) | frozenset(vars(nn.Module())) | {"graph", "meta"}


def identifier(name: str) -> str:
    """A Python identifier for a name that shadows nothing: `0.a` -> `_0_a`, `self` -> `self_`."""
    result = _ILLEGAL.sub("_", name)
    if not result or result[0].isdigit():
        result = f"_{result}"
    taken = result in _RESERVED or keyword.iskeyword(result) or hasattr(builtins, result)
    return f"{result}_" if taken else result


def attribute_path(name: str) -> str:
    """The attribute path of a parameter in a module: `0.in.weight` -> `0.in-.weight`.

    Generated code would contain `module.in`, a syntax error. For a part that is not an identifier it has
    `getattr(module, "in-")`.
    """
    return ".".join(f"{part}-" if _is_keyword(part) else part for part in name.split("."))


def parameter_name(path: str) -> str:
    """The full name of the parameter at an attribute path."""
    return ".".join(part[:-1] if part[-1:] == "-" and _is_keyword(part) else part for part in path.split("."))


def _is_keyword(part: str) -> bool:
    return keyword.iskeyword(part.rstrip("-"))


def check_path(name: str) -> str:
    """Return the name of a parameter if a module can have such an attribute.

    Raises ParameterError if a part of it is not a valid name, or is an attribute of every module, such as `forward`.
    """
    for part in name.split("."):
        if not _PART.match(part):
            raise ParameterError(f"{name!r} is not a valid name for a parameter: see {part!r}", where="torch")
        if part in _TAKEN:
            raise ParameterError(
                f"no parameter can be called {name!r}: every module has its own {part!r}",
                where="torch",
                hint="give the block another scope",
            )
    return name
