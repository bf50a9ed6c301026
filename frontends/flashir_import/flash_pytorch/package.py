"""The models of the package FLASH-pytorch in float64, if it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.importing.importer import Arrays, Forward, Settings
from flashir.reference.arrays import Array
from flashir_import.parts import each_alone, in_float64

SHARED = ("group_size", "query_key_dim", "causal", "shift_tokens", "laplace_attn_fn", "reduce_group_non_causal_attn")


def transformer(arrays: Arrays, settings: Settings) -> Forward | None:
    """FLASHTransformer."""
    norm = {"layer_norm": "layernorm", "scale_norm": "scalenorm"}[settings["norm"]]
    arguments = {name: settings[name] for name in ("dim", "num_tokens", "depth", *SHARED)} | {"norm_type": norm}
    return _loaded("FLASHTransformer", arrays, settings, **arguments)


def flash(arrays: Arrays, settings: Settings) -> Forward | None:
    """FLASH."""
    return _loaded("FLASH", arrays, settings, **{name: settings[name] for name in ("dim", *SHARED)})


def gau(arrays: Arrays, settings: Settings) -> Forward | None:
    """GAU."""
    names = ("dim", "query_key_dim", "causal", "laplace_attn_fn", "add_residual")
    return _loaded("GAU", arrays, settings, **{name: settings[name] for name in names})


def _loaded(kind: str, arrays: Arrays, settings: Settings, **named: Any) -> Forward | None:
    """A model of the package with these tensors; None if the package is not installed."""
    try:
        import flash_pytorch.flash_pytorch as package
        import torch
    except ImportError:
        return None
    named["expansion_factor"] = (settings["expanded"] + 0.5) / settings["dim"]  # the package rounds down
    if kind != "FLASHTransformer":
        named["norm_klass"] = package.ScaleNorm if settings["norm"] == "scale_norm" else torch.nn.LayerNorm
    if kind == "FLASH" and settings["rope_dims"]:
        named["rotary_pos_emb"] = package.RotaryEmbedding(dim=settings["rope_dims"])
    module = getattr(package, kind)(**named)
    for layer in module.layers if kind == "FLASHTransformer" else [module]:
        layer.norm.eps = settings["norm_eps"]
    module.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in arrays.items()})
    return wide(module)


def wide(module: Any) -> Forward:
    """A live module in float64.

    With a mask, each row is computed without its padding. The package's own mask hides padding, but divisors count it.
    """
    import torch

    copied = in_float64(module)

    def run(x: Array) -> Array:
        with torch.no_grad():
            tensor = torch.from_numpy(x)
            result: Array = copied(tensor.double() if tensor.is_floating_point() else tensor).numpy()
        return result

    return each_alone(run)
