"""The settings of the zoo: those of a size and a task of the paper, overridden by the user's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flashir.errors import SettingError, suggest
from flashir.ir import AUTO, Attr, DType
from flashir.ops import OPS, AttrSpec
from flashir_zoo.systems import SYSTEMS, Settings, System

TASKS: dict[str, Settings] = {
    "lm": {"causal": True, "norm": "layer_norm"},  # Table 8
    "mlm": {"causal": False, "norm": "scale_norm"},  # Table 7
}
HEAD_WIDTH = 64  # Tables 7 to 9: 12 heads for 768, 16 for 1024

_EVERY_MODEL = {
    "d_model": AttrSpec((int,), least=2, doc="width of the residual stream"),
    "depth": AttrSpec((int,), least=1, doc="number of layers"),
    "vocab": AttrSpec((int,), 32000, least=1, doc="number of tokens"),
    "tied": AttrSpec((bool,), True, doc="logits through the embedding's own weight"),
    "head_bias": AttrSpec((bool,), False, doc="logits have a bias, which training may begin at the log frequencies"),
    "predict": AttrSpec(
        (str,), "tokens", ("tokens", "class", "tags"), doc="scores: of tokens, of labels for a row, or for each token"
    ),
    "labels": AttrSpec((int,), 2, least=1, doc="how many labels there are to predict"),
    "dtype": AttrSpec((str,), "float32", ("float32", "bfloat16", "float16"), doc="the compute type"),
}
_MASK = AttrSpec((bool,), False, doc="an input, mask, true where there is a token: nothing sees the others")


def specs_of(system: System) -> dict[str, AttrSpec]:
    """The settings of a system besides its size and task."""
    return {**_EVERY_MODEL, **_apart(system), **system.specs()}


def _apart(system: System) -> dict[str, AttrSpec]:
    """The settings for segments and padding masks."""
    kinds = (*(("token",) if system.apart else ()), *((True, "chunk") if system.by_chunk else ()))
    doc = "an input, segment_ids. token: documents in a row do not see each other"
    if system.by_chunk:
        doc += "; chunk, or true: chunks without a document in common do not (Code 7)"
    segments = {"segments": AttrSpec((bool, str), False, (False, *kinds), doc=doc)} if kinds else {}
    return segments | ({"mask": _MASK} if system.apart else {})


def resolve(model: str, settings: Mapping[str, Attr]) -> Settings:
    """Every setting of a model. The settings override those of the system, of its task and size, and the defaults.

    Raises:
        SettingError: the model is unknown; or lists every setting that is unknown or invalid.
    """
    if model not in SYSTEMS:
        raise SettingError(f"unknown model {model!r}{suggest(model, SYSTEMS)}")
    system = SYSTEMS[model]
    specs = specs_of(system)
    causal = settings.get("causal", True)
    size, task = settings.get("size", "base"), settings.get("task", "lm" if causal else "mlm")
    problems = [*_unknown("size", size, system.sizes), *_unknown("task", task, TASKS)]
    own = {name: _number_or_auto(value) for name, value in settings.items() if name not in ("size", "task")}
    problems += [f"{model} has no setting {n!r}{suggest(n, [*specs, 'size', 'task'])}" for n in own if n not in specs]
    problems += [p for n, value in own.items() if n in specs and (p := specs[n].problem(n, value))]
    if own.get("predict") == "class" and own.get("segments"):
        problems.append("predict = 'class' has one result a row, and segments put several documents in a row")
    if "labels" in own and own.get("predict", "tokens") == "tokens":
        problems.append("labels belong to predict = 'class' or 'tags'")
    if own.get("head_bias") and own.get("predict", "tokens") != "tokens":
        problems.append("head_bias belongs to predict = 'tokens'; scores of labels always have a bias")
    if problems:
        raise SettingError(problems, where=model)
    chosen = {name: spec.default for name, spec in specs.items()}
    sized = system.sizes[str(size)]
    chosen |= {**sized, **TASKS[str(task)], **system.own, **own}
    is_multi_head = "heads" in specs and specs["heads"].default != 1
    if is_multi_head and "heads" not in own and ("heads" not in sized or "d_model" in own):
        chosen["heads"] = _heads(chosen["d_model"])
    return chosen


def _heads(d_model: Attr) -> int:
    """The number of heads with a width of at most 64, even for rope; 1 if there is none."""
    assert isinstance(d_model, int)
    wide = range(min(HEAD_WIDTH, d_model), 0, -1)
    return next((d_model // s for s in wide if d_model % s == 0 and s % 2 == 0), 1)


def dtype_of(settings: Settings) -> DType:
    """The compute dtype."""
    return DType.named(str(settings["dtype"]))


def attrs_of(block: str, settings: Settings) -> Settings:
    """The settings that are attributes of a block."""
    return {name: value for name, value in settings.items() if name in OPS[block].attrs}


def _unknown(kind: str, name: Attr, known: Iterable[str]) -> list[str]:
    return [] if name in tuple(known) else [f"unknown {kind} {name!r}{suggest(name, known)}"]


def _number_or_auto(value: Attr) -> Attr:
    return AUTO if value == "auto" else value
