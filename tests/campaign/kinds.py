"""The kinds of cases, what they look for, and the limits of a case."""

from __future__ import annotations

from dataclasses import dataclass

from tests.campaign.verdict import UsageError

GIB = 2**30


@dataclass(frozen=True)
class Kind:
    """A kind of cases.

    Args:
        name: the name on the command line.
        module: the module with `case(case) -> str`, which only the worker imports.
        about: a line of help.
        seconds: the limit of processor time of a case. The limit of wall time is six times as long.
        memory: the limit of memory of the worker and its children, in bytes.
        hidden: run only if it is named.
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
    Kind(
        "exports", "tests.campaign.exports", "exports run in another process with the runtime of their format only", 180
    ),
    Kind("texts", "tests.campaign.texts", "mutated IR texts are read as they are printed, or refused", 20),
    Kind("api", "tests.campaign.api", "public functions with arguments of wrong types and ranges", 60),
    Kind("commands", "tests.campaign.commands", "command lines with wrong options, values and files", 120),
    Kind("flips", "tests.campaign.flips", "damaged files of flashir are noticed, or harmless"),
    Kind("files", "tests.campaign.files", "malformed files of every format that flashir reads are refused", 60),
    Kind("archives", "tests.campaign.archives", "hostile files are refused, and have no effect", 180),
    Kind("kills", "tests.campaign.kills", "verbs that write, killed at a random moment: old or new, never half", 300),
    Kind(
        "disks",
        "tests.campaign.disks",
        "verbs that write to a full disk: one message, and existing files stay whole",
        300,
    ),
    Kind("streams", "tests.campaign.streams", "closed, full or interrupted streams; unusual environments", 200),
    Kind("planted", "tests.campaign.planted", "planted faults, which must be found", 3, GIB // 4, hidden=True),
)
KINDS = {kind.name: kind for kind in _ALL}
SHOWN = tuple(kind.name for kind in _ALL if not kind.hidden)


def chosen(names: str | None) -> tuple[Kind, ...]:
    """The kinds in a list such as `texts,api`; by default all but the hidden ones. Raises UsageError."""
    wanted = SHOWN if names is None else tuple(dict.fromkeys(name.strip() for name in names.split(",")))
    if unknown := [name for name in wanted if name not in KINDS]:
        raise UsageError(f"unknown kinds {', '.join(map(repr, unknown))}; known: {', '.join(SHOWN)}")
    return tuple(KINDS[name] for name in wanted)
