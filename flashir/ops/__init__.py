"""The ops, one file a family. `OPS` holds every record; importing this package fills it."""

from flashir.ops import (
    attention,
    blocks,
    contraction,
    elementwise,
    ffn,
    flash,
    gated,
    gau,
    heads,
    mhsa,
    norm,
    position,
    prefix,
    shape,
    softmax,
)
from flashir.ops.costs import Contraction, Cost
from flashir.ops.opdef import OPS, AttrSpec, OpDef, ParamSpec, Sample, define_op, opdef, sample

__all__ = [
    "OPS",
    "AttrSpec",
    "Contraction",
    "Cost",
    "OpDef",
    "ParamSpec",
    "Sample",
    "attention",
    "blocks",
    "contraction",
    "define_op",
    "elementwise",
    "ffn",
    "flash",
    "gated",
    "gau",
    "heads",
    "mhsa",
    "norm",
    "opdef",
    "position",
    "prefix",
    "sample",
    "shape",
    "softmax",
]
