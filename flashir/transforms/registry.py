"""Passes by name: `pad,lower,decompose{ops=einsum,dense},canonicalise` -> the passes, with options as fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from flashir.errors import SettingError, suggest
from flashir.ops import all_ops
from flashir.transforms.canonicalise import Canonicalise
from flashir.transforms.derive_decoder import ToExtend, ToPrefill, ToStep
from flashir.transforms.hoist import Hoist
from flashir.transforms.keep_range import KeepRange
from flashir.transforms.lower import Decompose, EinsumToMatmul, Lower
from flashir.transforms.name_parameters import NameParameters
from flashir.transforms.narrow_results import NarrowResults
from flashir.transforms.one_document import OneDocument
from flashir.transforms.pad import Pad
from flashir.transforms.pipeline import Pass
from flashir.transforms.set_dtype import SetDType
from flashir.transforms.settle_choices import choose_passes
from flashir.transforms.split_activations import SplitActivations
from flashir.transforms.split_projections import SplitProjections
from flashir.transforms.wide_params import WideParams
from flashir.transforms.widen_scan import WidenScan

PASSES: dict[str, type[Pass]] = {
    kind.name: kind
    for kind in (
        Canonicalise,
        Decompose,
        EinsumToMatmul,
        Hoist,
        KeepRange,
        Lower,
        NameParameters,
        NarrowResults,
        OneDocument,
        Pad,
        SetDType,
        SplitActivations,
        SplitProjections,
        ToPrefill,
        ToStep,
        ToExtend,
        WidenScan,
        WideParams,
    )
} | choose_passes()
_ONE = re.compile(r"\s*(?P<name>[a-z0-9-]+)\s*(?:\{(?P<options>[^{}]*)\})?\s*(?:,|\Z)")
_OPTION = re.compile(r"\s*(?P<name>\w+)=(?P<value>\S*)\s*")


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """The passes that a text such as `choose-chunk{chunk=256},lower` names, in order.

    Raises SettingError for an unknown pass or option, or an invalid value.
    """
    return tuple(_passes(text))


def _passes(text: str) -> Iterator[Pass]:
    position = 0
    while position < len(text.rstrip()):
        match = _ONE.match(text, position)
        if match is None:
            raise SettingError(f"passes must look like 'pad,lower{{target=cpu}}', got {text[position:]!r}")
        position = match.end()
        name = match["name"]
        if name not in PASSES:
            all_ops()  # load plug-ins: their ops may have further choices
        known = PASSES | choose_passes()
        if name not in known:
            raise SettingError(f"unknown pass {name!r}{suggest(name, known)}")
        yield known[name](**_options(known[name], match["options"] or ""))


def _options(kind: type[Pass], text: str) -> dict[str, Any]:
    """`chunk=256 policy=fastest` -> the fields of the pass."""
    hints = get_type_hints(kind)
    known = [option.name for option in fields(kind) if option.repr]
    options: dict[str, Any] = {}
    position = 0
    while position < len(text):
        match = _OPTION.match(text, position)
        if match is None:
            raise SettingError(f"options of {kind.name} must look like 'name=value', got {text[position:]!r}")
        position = match.end()
        name, value = match["name"], match["value"]
        if name not in known:
            raise SettingError(f"the pass {kind.name} has no option {name!r}{suggest(name, known)}")
        try:
            options[name] = _reader(hints[name])(value)
        except (KeyError, ValueError):
            wanted = getattr(hints[name], "__name__", None) or str(hints[name])
            raise SettingError(f"{name} of {kind.name} must be {wanted}, got {value!r}") from None
    return options


def _reader(hint: Any) -> Callable[[str], Any]:
    """A function that parses a value of this type."""
    if get_origin(hint) is tuple:
        item = _reader(get_args(hint)[0])
        return lambda text: tuple(item(part) for part in text.split(",") if part)
    kinds = get_args(hint) or (hint,)
    if NoneType in kinds:
        inner = _reader(next(kind for kind in kinds if kind is not NoneType))
        return lambda text: None if text == "none" else inner(text)
    if hint is bool:
        return {"true": True, "false": False}.__getitem__
    read: Callable[[str], Any] = hint
    return read
