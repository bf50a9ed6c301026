"""The kinds of cases, what they look for, and the limits of a case."""

from __future__ import annotations

from dataclasses import dataclass

from tests.campaign.verdict import UsageError

GIB = 2**30


@dataclass(frozen=True)
class Kind:
    """A kind of cases.

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
    Kind("exports", "tests.campaign.exports", "exports run elsewhere by the runtime of their format alone", 180),
    Kind("texts", "tests.campaign.texts", "mutated IR texts are read as they are printed, or refused", 20),
    Kind("api", "tests.campaign.api", "public functions with arguments of wrong types and ranges", 60),
    Kind("commands", "tests.campaign.commands", "command lines with wrong options, values and files", 120),
    Kind("flips", "tests.campaign.flips", "damage in every file that flashir writes is noticed, or harmless"),
    Kind("files", "tests.campaign.files", "malformed files of every format that flashir reads are refused", 60),
    Kind("archives", "tests.campaign.archives", "files of strangers that mean harm are refused, and do nothing", 180),
    Kind("kills", "tests.campaign.kills", "verbs that write, ended at a random moment: old or new, never half", 300),
    Kind(
        "disks",
        "tests.campaign.disks",
        "verbs that write on a full disk: one message, and what was there is whole",
        300,
    ),
    Kind("streams", "tests.campaign.streams", "streams that are closed, full or cut short; odd environments", 200),
    Kind("planted", "tests.campaign.planted", "faults on purpose, which must be found", 3, GIB // 4, hidden=True),
)
KINDS = {kind.name: kind for kind in _ALL}
SHOWN = tuple(kind.name for kind in _ALL if not kind.hidden)


def chosen(names: str | None) -> tuple[Kind, ...]:
    """The kinds in a list such as `texts,api`; by default all but the hidden ones. Raises UsageError."""
    wanted = SHOWN if names is None else tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    if unknown := [name for name in wanted if name not in KINDS]:
        raise UsageError(f"unknown kinds {', '.join(map(repr, unknown))}; known: {', '.join(SHOWN)}")
    return tuple(KINDS[name] for name in wanted)
