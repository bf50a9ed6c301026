"""The kinds of cases: what each looks for, and the limits of one case."""

from __future__ import annotations

from dataclasses import dataclass

from tests.campaign.verdict import UsageError

GIB = 2**30


@dataclass(frozen=True)
class Kind:
    """One kind of cases.

    Args:
        name: as on the command line.
        module: where `case(case) -> str` is; imported by the worker alone.
        about: a line for people.
        seconds: of processor time that one case may take; six times that by the clock, for the machine may be busy.
        memory: bytes that the worker and its children may hold together.
        hidden: run only where its name is given.
    """

    name: str
    module: str
    about: str
    seconds: float = 120
    memory: int = 6 * GIB
    hidden: bool = False


_ALL = (
    Kind("values", "tests.campaign.values", "random models on every backend against the float64 interpreter"),
    Kind("gradients", "tests.campaign.slopes", "gradients of torch and jax against directional derivatives", 240),
    Kind("causality", "tests.campaign.causality", "later tokens change no earlier logit, bit for bit"),
    Kind("decode", "tests.campaign.decode", "prompts and steps give the logits of the whole text"),
    Kind("texts", "tests.campaign.texts", "mutated IR texts are read as they are printed, or refused", 20),
    Kind("api", "tests.campaign.api", "public functions with arguments of wrong types and ranges", 60),
    Kind("commands", "tests.campaign.commands", "command lines with wrong options, values and files", 120),
    Kind(
        "planted", "tests.campaign.planted", "faults on purpose, to see that they are found", 3, GIB // 4, hidden=True
    ),
)
KINDS = {kind.name: kind for kind in _ALL}
SHOWN = tuple(kind.name for kind in _ALL if not kind.hidden)


def chosen(names: str | None) -> tuple[Kind, ...]:
    """The kinds of a list such as `texts,api`; all but the hidden ones without a list. Raises UsageError."""
    wanted = SHOWN if names is None else tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    if unknown := [name for name in wanted if name not in KINDS]:
        raise UsageError(f"unknown kinds {', '.join(map(repr, unknown))}; known: {', '.join(SHOWN)}")
    return tuple(KINDS[name] for name in wanted)
