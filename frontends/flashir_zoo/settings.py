"""The settings of the zoo: sizes and tasks of the paper, and what a user may set beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flashir.errors import SettingError, suggest
from flashir.ir import AUTO, Attr, DType
from flashir.ops import OPS, AttrSpec

Settings = dict[str, Attr]

SIZES: dict[str, Settings] = {
    "tiny": {"d_model": 64, "depth": 2, "key_dim": 16, "vocab": 256},  # for tests
    "small": {"d_model": 512, "depth": 24},
    "base": {"d_model": 768, "depth": 24},  # Tables 7 and 8
    "large": {"d_model": 1024, "depth": 24},
    "pg19": {"d_model": 1024, "depth": 72},  # Table 9
}
TASKS: dict[str, Settings] = {
    "lm": {"causal": True, "norm": "layer_norm"},  # Table 8
    "mlm": {"causal": False, "norm": "scale_norm"},  # Table 7
}

_EVERY_MODEL = {
    "d_model": AttrSpec((int,), least=2, doc="width of the residual stream"),
    "depth": AttrSpec((int,), least=0, doc="number of layers"),
    "vocab": AttrSpec((int,), 32000, least=1, doc="number of tokens"),
    "tied": AttrSpec((bool,), True, doc="logits through the embedding's own weight"),
    "dtype": AttrSpec((str,), "float32", ("float32", "bfloat16", "float16"), doc="the compute type"),
}
_SEGMENTS = {"segments": AttrSpec((bool,), False, doc="a second input, segment_ids (Code 7)")}


@dataclass(frozen=True)
class System:
    """A system of the paper: the block its layers are, and a line about it."""

    block: str
    doc: str
    segments: bool

    def specs(self) -> dict[str, AttrSpec]:
        """What may be set: what every model has, and what its block takes."""
        own = {name: spec for name, spec in OPS[self.block].attrs.items() if name not in ("scope", "valid")}
        return {**_EVERY_MODEL, **(_SEGMENTS if self.segments else {}), **own}


SYSTEMS = {
    "flash": System("flash", "gated attention units with mixed chunk attention, linear in the length", segments=True),
    "flash-quad": System("gau", "gated attention units with quadratic attention", segments=False),
}


def resolve(model: str, given: Mapping[str, Attr]) -> Settings:
    """Every setting of a model: those given, then those of its task and size, then the defaults.

    Raises:
        SettingError: an unknown model, and every setting that is unknown or wrong.
    """
    if model not in SYSTEMS:
        raise SettingError(f"unknown model {model!r}{suggest(model, SYSTEMS)}")
    specs = SYSTEMS[model].specs()
    causal = given.get("causal", True)
    size, task = given.get("size", "base"), given.get("task", "lm" if causal else "mlm")
    problems = [*_unknown("size", size, SIZES), *_unknown("task", task, TASKS)]
    own = {name: _number_or_auto(value) for name, value in given.items() if name not in ("size", "task")}
    problems += [f"{model} has no setting {n!r}{suggest(n, [*specs, 'size', 'task'])}" for n in own if n not in specs]
    problems += [p for n, value in own.items() if n in specs and (p := specs[n].problem(n, value))]
    if problems:
        raise SettingError(problems, where=model)
    chosen = {name: spec.default for name, spec in specs.items()}
    return {**chosen, **SIZES[str(size)], **TASKS[str(task)], **own}


def dtype_of(settings: Settings) -> DType:
    """The compute type as an element type."""
    return DType.named(str(settings["dtype"]))


def block_attrs(model: str, settings: Settings) -> Settings:
    """The settings that the layers take as attributes."""
    return {name: value for name, value in settings.items() if name in OPS[SYSTEMS[model].block].attrs}


def _unknown(kind: str, name: Attr, known: Iterable[str]) -> list[str]:
    return [] if name in tuple(known) else [f"unknown {kind} {name!r}{suggest(str(name), known)}"]


def _number_or_auto(value: Attr) -> Attr:
    return AUTO if value == "auto" else value
