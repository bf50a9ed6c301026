"""Check the arguments of public functions against their annotations.

    @typed
    def plan(model: Graph, target: str = "onnx:cpu", batch: int = 1) -> Plan: ...

    plan("flash", batch=1.5)    # ArgumentError: plan: 2 problems: model must be a graph, batch must be a whole number

NumPy scalars become Python numbers, and a string becomes a path if the annotation is a path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from flashir.errors import ArgumentError, ArtefactError, FlashirError, TargetError, suggest

P = ParamSpec("P")
R = TypeVar("R")
Take = Callable[[Any], Any]
"""Converts a value to what the function expects; raises `_OtherError` if its type is wrong."""

Rule = tuple[Take, str]
"""How to convert a value, and a description of the values that are allowed."""

_SHOWN = 60


def typed(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to check and convert its arguments.

    An argument whose annotation cannot be checked, such as an array, passes unchanged. The function checks ranges
    itself.

    Raises:
        ArgumentError: on a call, with every argument that is missing, unknown or of the wrong type.
        ArtefactError: an OSError that the function does not handle.
        TargetError: the machine is out of memory, or a plug-in raises an exception that is not a FlashirError.
    """
    arguments = _Arguments(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        args, kwargs = arguments.convert(args, kwargs)  # type: ignore[assignment]
        with translated_errors():
            return function(*args, **kwargs)

    return call


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn OSError, MemoryError and the exceptions of plug-ins into errors of flashir.

    BrokenPipeError passes through.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ArtefactError(f"cannot use it: {error.strerror or error}", where=str(error.filename or "")) from error
    except MemoryError as error:
        raise TargetError("the machine has not enough memory for this") from error
    except FlashirError:
        raise
    except Exception as error:
        from flashir.plugins import blamed

        blame = blamed(error)
        if blame is None:
            raise
        raise blame from error


def check_fields(record: Any) -> None:
    """Check and convert the fields of a frozen dataclass in its `__post_init__`, as `typed` does for arguments.

    Raises:
        ArgumentError: with every field of the wrong type.
    """
    import typing

    problems = []
    for name, hint in typing.get_type_hints(type(record)).items():
        value, problem = _taken(name, getattr(record, name), _rule(hint))
        object.__setattr__(record, name, value)
        problems += problem
    if problems:
        raise ArgumentError(problems, where=type(record).__name__)


class _OtherError(Exception):
    """The value has the wrong type."""


class _Arguments:
    """The checks of one function, computed at the first call so that importing stays cheap."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    @property
    def name(self) -> str:
        """Its name in errors: `plan`, `Builder.input`, or the name of a class."""
        return self.function.__qualname__.removesuffix(".__init__").rpartition(".<locals>.")[2]

    @cached_property
    def signature(self) -> Any:
        import inspect

        return inspect.signature(self.function)

    @cached_property
    def rules(self) -> dict[str, Rule]:
        """The rule of each argument that can be checked."""
        import typing

        hints = typing.get_type_hints(self.function)
        rules = {}
        for name, parameter in self.signature.parameters.items():
            rule = _rule(hints.get(name, Any))
            if rule is not None and parameter.kind is not parameter.VAR_KEYWORD:  # the function checks those itself
                rules[name] = _repeated(rule) if parameter.kind is parameter.VAR_POSITIONAL else rule
        return rules

    def convert(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The checked and converted arguments."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(self._misfit(error, kwargs), where=self.name) from None
        problems = []
        for name, value in bound.arguments.items():
            bound.arguments[name], problem = _taken(name, value, self.rules.get(name))
            problems += problem
        if problems:
            raise ArgumentError(problems, where=self.name)
        return bound.args, bound.kwargs

    def _misfit(self, error: TypeError, kwargs: Iterable[str]) -> str:
        """Why a call does not fit the signature, with a suggestion for an unknown name."""
        known = [name for name in self.signature.parameters if name != "self"]
        unknown = [name for name in kwargs if name not in known]
        return f"there is no argument {unknown[0]!r}{suggest(unknown[0], known)}" if unknown else str(error)


def _taken(name: str, value: Any, rule: Rule | None) -> tuple[Any, list[str]]:
    """The converted value, and what is wrong with it."""
    if rule is None:
        return value, []
    take, expected = rule
    try:
        return take(value), []
    except _OtherError:
        return value, [f"{name} must be {expected}, got {shown(value)}"]


def shown(value: object) -> str:
    """A short text of a value for an error, with its type if the text does not show it."""
    try:
        text = repr(value)
    except Exception:  # a broken __repr__ of the user
        text = "a value without a repr"
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} .."
    plain = value is None or isinstance(value, (str, bytes, bool, int, float, list, tuple, dict, set))
    return text if plain else f"{type(value).__name__} {text}"


def _rule(hint: Any) -> Rule | None:
    """The rule of an annotation; None if it cannot be checked."""
    import types
    import typing

    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = typing.get_args(hint)
        rules = [_rule(member) for member in kinds if not (member is str and Path in kinds)]
        known = [rule for rule in rules if rule is not None]
        if len(known) < len(rules):
            return None
        words = dict.fromkeys(words for _, words in known if words != _ABSENT)
        return _first([take for take, _ in known]), " or ".join(words)
    if typing.get_origin(hint) is typing.Literal:  # the function knows what to say about another word
        return _PLAIN[str] if all(isinstance(word, str) for word in typing.get_args(hint)) else None
    if hint in _PLAIN:
        return _PLAIN[hint]
    kind = typing.get_origin(hint) or hint
    if not isinstance(kind, type) or kind in (object, Any, Mapping):  # `checked` reports wrong parameters
        return None
    items = typing.get_args(hint)
    if kind in (Sequence, Iterable) and items and items[0] in _MANY:
        return _listed(_instance(kind), _PLAIN[items[0]][0]), f"a list of {_MANY[items[0]]}"
    take = _like(kind) if getattr(kind, "_is_protocol", False) else _instance(kind)
    return take, _NAMED.get(kind.__name__, f"a {kind.__name__}")


_ABSENT = "None"
_MANY = {int: "whole numbers", float: "numbers", str: "strings", Path: "paths"}
_NAMED = {
    "Graph": "a graph, as flashir.model and flashir.load give it",
    "Decoder": "a decoder, as flashir.decoder gives it",
    "Sequence": "a list",
    "Iterable": "a list",
    "ndarray": "an array",
}


def _first(takes: list[Take]) -> Take:
    def take(value: Any) -> Any:
        for candidate in takes:
            try:
                return candidate(value)
            except _OtherError:
                continue
        raise _OtherError

    return take


def _repeated(rule: Rule) -> Rule:
    """The rule for `*args`, from the rule of one of them."""
    take, words = rule
    return lambda values: tuple(map(take, values)), f"each {words.removeprefix('a ')}"


def _listed(take_all: Take, take: Take) -> Take:
    return lambda values: tuple(map(take, take_all(values)))


def _instance(kind: type) -> Take:
    def take(value: Any) -> Any:
        scalar = kind is Iterable and getattr(value, "ndim", None) == 0  # it has __iter__, which raises
        if not isinstance(value, kind) or isinstance(value, (str, bytes)) or scalar:
            raise _OtherError
        return value

    return take


def _like(protocol: type) -> Take:
    members = [name for name in dir(protocol) if not name.startswith("_")]

    def take(value: Any) -> Any:
        if not all(hasattr(value, name) for name in members):
            raise _OtherError
        return value

    return take


def _whole(value: Any) -> int:
    import operator

    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        raise _OtherError
    try:
        return operator.index(value)
    except (TypeError, ValueError):
        raise _OtherError from None


def _number(value: Any) -> float:
    import numbers

    if not isinstance(value, numbers.Real):
        raise _OtherError
    try:
        plain = float(value)
    except OverflowError:  # such as an int of 400 digits
        raise _OtherError from None
    return _whole(value) if isinstance(value, (bool, numbers.Integral)) else plain


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise _OtherError


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _OtherError
    return value


def _path(value: Any) -> Path:
    if not isinstance(value, (str, os.PathLike)) or "\0" in str(os.fspath(value)) or value == "":
        raise _OtherError  # Path("") would be the current folder
    try:
        os.fsencode(value)
    except UnicodeEncodeError:  # a lone surrogate, which no file system supports
        raise _OtherError from None
    return Path(os.fsdecode(value))


def _none(value: Any) -> None:
    if value is not None:
        raise _OtherError


_PLAIN: Mapping[Any, Rule] = {
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    bool: (_flag, "true or false"),
    str: (_text, "a string"),
    Path: (_path, "a path"),
    type(None): (_none, _ABSENT),
}
