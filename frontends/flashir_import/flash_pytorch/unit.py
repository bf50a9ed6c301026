"""The common part of FLASH and GAU: a norm, two input projections, offset and scale, a T5 bias, an output projection.

Tensors have the package's names; d, e and s are as in the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.errors import ParameterError
from flashir.importing.importer import Arrays, Settings, Shapes
from flashir.ir.op import flag, number
from flashir.reference.arrays import Array
from flashir_import.parts import linear

BUCKETS = 32
FARTHEST = 128
LAPLACE = flag(False, doc="whether the Laplace function replaces squared relu")
NORM_EPS = number(1e-5, least=0, doc="the eps of the norms")
NORMS = {"LayerNorm": "layer_norm", "ScaleNorm": "scale_norm"}
PARTS = (
    *("LayerNorm", "ScaleNorm", "ReLUSquared", "LaplacianAttnFn", "T5RelativePositionBias", "Embedding"),
    *("Dropout", "Sequential", "Linear", "SiLU", "OffsetScale"),
)
"""The classes of the parts of a unit."""

FUNCTIONS = {"ReLUSquared": False, "LaplacianAttnFn": True}


def unit_sizes(shapes: Shapes, prefix: str, out: str) -> Settings:
    """d, e, s and the norm, from the shapes of one unit. Raises ParameterError if a shape is wrong."""
    hidden, keys = shapes.get(f"{prefix}to_hidden.0.weight", ()), shapes.get(f"{prefix}to_qk.0.weight", ())
    inner = shapes.get(f"{prefix}{out}.weight", ())
    if len(hidden) != 2 or len(keys) != 2 or len(inner) != 2:
        names = f"{prefix}to_hidden.0.weight, {prefix}to_qk.0.weight and {prefix}{out}.weight"
        raise ParameterError(f"{names} must be matrices, got shapes {hidden}, {keys} and {inner}")
    norm = "scale_norm" if f"{prefix}norm.g" in shapes else "layer_norm"
    return {"dim": hidden[1], "expanded": inner[1], "query_key_dim": keys[0], "norm": norm}


def unit_layout(settings: Settings, prefix: str, scales: str, heads: int, out: str) -> Shapes:
    """The tensors of one unit."""
    d, e, s = settings["dim"], settings["expanded"], settings["query_key_dim"]
    norm: Shapes = {"norm.g": (1,)} if settings["norm"] == "scale_norm" else {"norm.weight": (d,), "norm.bias": (d,)}
    shapes: Shapes = {
        **norm,
        "to_hidden.0.weight": (2 * e, d),
        "to_hidden.0.bias": (2 * e,),
        "to_qk.0.weight": (s, d),
        "to_qk.0.bias": (s,),
        f"{scales}.gamma": (heads, s),
        f"{scales}.beta": (heads, s),
        "rel_pos_bias.relative_attention_bias.weight": (BUCKETS, 1),
        f"{out}.weight": (d, e),
        f"{out}.bias": (d,),
    }
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def unit_params(
    arrays: Arrays, settings: Settings, prefix: str, scales: str, out: str, root: float
) -> dict[str, Array]:
    """The parameters of one unit by local name. The bias is multiplied by `root`, as in the package."""
    tensors = {name: arrays[f"{prefix}{name}"].astype(np.float32) for name in unit_layout(settings, "", scales, 1, out)}
    e = settings["expanded"]
    hidden, inside = tensors["to_hidden.0.weight"], tensors["to_hidden.0.bias"]
    norm = (
        {"norm.scale": tensors["norm.g"].reshape(())}
        if settings["norm"] == "scale_norm"
        else {"norm.scale": tensors["norm.weight"], "norm.bias": tensors["norm.bias"]}
    )
    buckets = tensors["rel_pos_bias.relative_attention_bias.weight"][:, 0].astype(np.float64) * root
    return {
        **norm,
        "proj_in.weight": linear(np.concatenate([hidden[e:], hidden[:e], tensors["to_qk.0.weight"]])),
        "proj_in.bias": np.concatenate([inside[e:], inside[:e], tensors["to_qk.0.bias"]]),
        "offset_scale.gamma": tensors[f"{scales}.gamma"],
        "offset_scale.beta": tensors[f"{scales}.beta"],
        "rel_bias.buckets": buckets.astype(np.float32),
        "proj_out.weight": linear(tensors[f"{out}.weight"]),
        "proj_out.bias": tensors[f"{out}.bias"],
    }


def unit_attrs(settings: Settings) -> dict[str, Any]:
    """The attributes that both layers share."""
    d, e = settings["dim"], settings["expanded"]
    return {
        **({"expansion": e // d} if e % d == 0 else {"expanded": e}),
        "key_dim": settings["query_key_dim"],
        "causal": settings["causal"],
        "norm": settings["norm"],
        "norm_eps": settings["norm_eps"],
        "norm_clamp": settings["norm"] == "scale_norm",
        "rel_bias": "t5",
        "attention": "laplace" if settings["laplace_attn_fn"] else "relu2",
    }


def read_unit(module: Any, name: str, problems: list[str], scale: float) -> Settings:
    """The options of one live unit. Appends its foreign parts to the problems."""
    norm, bias, function = (type(part).__name__ for part in (module.norm, module.rel_pos_bias, module.attn_fn))
    if norm not in NORMS:
        problems.append(f"{name}norm is a {norm}, wanted one of {', '.join(NORMS)}")
    if function not in FUNCTIONS:
        problems.append(f"{name}attn_fn is a {function}, wanted one of {', '.join(FUNCTIONS)}")
    if bias != "T5RelativePositionBias":
        problems.append(f"{name}rel_pos_bias is a {bias}, wanted the T5RelativePositionBias of the package")
    else:
        buckets = (module.rel_pos_bias.num_buckets, module.rel_pos_bias.max_distance, module.rel_pos_bias.causal)
        if buckets != (BUCKETS, FARTHEST, module.causal) or abs(module.rel_pos_bias.scale - scale) > 1e-9 * scale:
            problems.append(f"{name}rel_pos_bias has other buckets or another scale than in the package")
    return {
        "causal": bool(module.causal),
        "laplace_attn_fn": FUNCTIONS.get(function, False),
        "norm_eps": float(getattr(module.norm, "eps", 1e-5)),
    }
