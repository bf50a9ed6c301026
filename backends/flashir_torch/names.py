"""Names that come from outside, made fit for generated code: python identifiers, and paths of attributes."""

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
    """A python identifier that resembles the name and shadows nothing: `0.a` -> `_0_a`, `self` -> `self_`."""
    made = _ILLEGAL.sub("_", name)
    if not made or made[0].isdigit():
        made = f"_{made}"
    taken = made in _RESERVED or keyword.iskeyword(made) or hasattr(builtins, made)
    return f"{made}_" if taken else made


def attribute_path(name: str) -> str:
    """Where a module has the parameter of that full name: `0.in.weight` -> `0.in-.weight`.

    Generated code reads `module.in`, which is no Python, but `getattr(module, "in-")` for what is no identifier.
    """
    return ".".join(f"{part}-" if _is_keyword(part) else part for part in name.split("."))


def parameter_name(path: str) -> str:
    """The full name of the parameter that a module has there."""
    return ".".join(part[:-1] if part[-1:] == "-" and _is_keyword(part) else part for part in path.split("."))


def _is_keyword(part: str) -> bool:
    return keyword.iskeyword(part.rstrip("-"))


def check_path(name: str) -> str:
    """The name of a parameter, where a module can have an attribute of that name.

    Raises ParameterError where a part of it is no name, or one that every module has already, such as `forward`.
    """
    for part in name.split("."):
        if not _PART.match(part):
            raise ParameterError(f"{name!r} is no name for a parameter: {part!r} in it is none", where="torch")
        if part in _TAKEN:
            raise ParameterError(
                f"no parameter can be called {name!r}: every module has its own {part!r}",
                where="torch",
                hint="give the block another scope",
            )
    return name
