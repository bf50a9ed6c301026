"""The layer FLASH of FLASH-pytorch: features [b, t, d] -> [b, t, d]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashir.errors import SettingError
from flashir.importing.importer import Arrays, Forward, Settings, Shapes
from flashir.ir import Builder, Graph
from flashir.ir.op import AttrSpec, flag, integer
from flashir.reference.arrays import Array
from flashir_import.flash_pytorch import package, reference
from flashir_import.flash_pytorch.unit import (
    LAPLACE,
    NORM_EPS,
    PARTS,
    read_unit,
    unit_attrs,
    unit_layout,
    unit_params,
    unit_sizes,
)
from flashir_import.parts import MASK, foreign, mask_inputs, rate_problem, sample_masks

HEADS = "quad_q lin_q quad_k lin_k"
FLASH_PARTS = ("FLASH", "RotaryEmbedding", *PARTS)
OPTIONS: dict[str, AttrSpec] = {
    "causal": flag(doc="whether attention is causal"),
    "group_size": integer(least=1, doc="tokens per group, flashir's chunk"),
    "laplace_attn_fn": LAPLACE,
    "reduce_group_non_causal_attn": flag(True, doc="whether linear attention sums over all groups, if not causal"),
    "norm_eps": NORM_EPS,
    "mask": MASK,
}
SCALES, OUT = "qk_offset_scale", "to_out"


def flash_attrs(settings: Settings) -> dict[str, Any]:
    """The attributes of the layer `flash`."""
    causal = settings["causal"]
    return {
        **unit_attrs(settings),
        "chunk": settings["group_size"],
        "rope_dims": settings["rope_dims"],
        "rope_interleaved": settings["rope_dims"] > 0,
        "token_shift": settings["shift_tokens"],
        "qk_scale": "length",
        "lin_norm": "chunk" if causal else "length",
        "head_order": HEADS,
        "reduce_groups": causal or settings["reduce_group_non_causal_attn"],
    }


def flash_layout(settings: Settings, prefix: str = "") -> Shapes:
    """The tensors of one layer."""
    rope = settings["rope_dims"]
    rates: Shapes = {f"{prefix}rotary_pos_emb.freqs": (rope // 2,)} if rope else {}
    return {**unit_layout(settings, prefix, SCALES, 4, OUT), **rates}


def flash_params(arrays: Arrays, settings: Settings, prefix: str = "") -> dict[str, Array]:
    """The parameters of one layer by local name."""
    return unit_params(arrays, settings, prefix, SCALES, OUT, settings["query_key_dim"] ** 0.5)


def rope_dims(shapes: Shapes, prefix: str = "") -> int:
    """The number of rotary channels; 0 without frequencies."""
    shape = shapes.get(f"{prefix}rotary_pos_emb.freqs", (0,))
    return 2 * shape[0] if len(shape) == 1 else 0


def flash_problems(arrays: Arrays, settings: Settings, prefix: str = "") -> list[str]:
    """Problems of a layer's rotary frequencies."""
    name, rope = f"{prefix}rotary_pos_emb.freqs", settings["rope_dims"]
    problem = rate_problem(name, arrays[name], rope) if rope else None
    if rope > settings["query_key_dim"]:
        return [f"{name} rotate {rope} channels, but heads have {settings['query_key_dim']}"]
    return [problem] if problem else []


def read_flash(module: Any, name: str, problems: list[str]) -> Settings:
    """The options of a live layer. Appends its foreign parts to the problems."""
    rotary = module.rotary_pos_emb
    if rotary is not None and type(rotary).__name__ == "RotaryEmbedding":
        unsupported = [option for option in ("use_xpos", "learned_freq") if getattr(rotary, option, False)]
        unsupported += ["interpolate_factor"] if getattr(rotary, "interpolate_factor", 1.0) != 1.0 else []
        problems += [f"{name}rotary_pos_emb sets {option}, which is not supported" for option in unsupported]
    scale = float(module.to_qk[0].out_features) ** 0.5
    return {
        **read_unit(module, name, problems, scale),
        "group_size": int(module.group_size),
        "shift_tokens": bool(module.shift_tokens),
        "reduce_group_non_causal_attn": bool(module.reduce_group_non_causal_attn),
    }


class FlashLayer:
    """FLASH."""

    name = "FLASH"
    options: Mapping[str, AttrSpec] = OPTIONS | {
        "shift_tokens": flag(False, doc="whether half the channels come from the previous token")
    }

    def recognise(self, shapes: Shapes) -> bool:
        """The offset and scale of four heads, at the root."""
        return f"{SCALES}.gamma" in shapes

    def read_module(self, module: Any) -> Settings:
        """The options of a live layer. Raises SettingError."""
        problems = list(foreign(module, FLASH_PARTS))
        options = read_flash(module, "", problems)
        if problems:
            raise SettingError(problems)
        return options

    def sizes(self, shapes: Shapes) -> Settings:
        """d, e, s, the norm and the rotary width."""
        return unit_sizes(shapes, "", OUT) | {"rope_dims": rope_dims(shapes)}

    def layout(self, settings: Settings) -> Shapes:
        """The tensors of the layer."""
        return flash_layout(settings)

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """Wrong frequencies."""
        return flash_problems(arrays, settings)

    def build(self, arrays: Arrays, settings: Settings) -> tuple[Graph, dict[str, Array]]:
        """One FLASH block."""
        b = Builder("flash_layer")
        x = b.input("x", f"f32[B, T, {settings['dim']}]")
        graph = b.finish(*b.insert("flash", (x, None, *mask_inputs(b, settings)), flash_attrs(settings)))
        return graph, {f"layers.0.{name}": array for name, array in flash_params(arrays, settings).items()}

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Features, and a mask."""
        x = random.standard_normal((batch, length, settings["dim"]))
        return x, *sample_masks(settings, batch, length, random)

    def lengths(self, settings: Settings) -> Sequence[int]:
        """Around group boundaries."""
        return border_lengths(settings["group_size"])

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """The NumPy reference."""
        return reference.forward(reference.flash, arrays, settings)

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """FLASH of the package."""
        return package.flash(arrays, settings)

    def live(self, module: Any, settings: Settings) -> Forward:
        """The module in float64."""
        return package.wide(module)


def border_lengths(group: int) -> list[int]:
    """1, and lengths around group boundaries."""
    return [length for length in (1, group - 1, group, group + 1, 2 * group + 7) if length > 0]
