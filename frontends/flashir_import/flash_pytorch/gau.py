"""The layer GAU of FLASH-pytorch: features [b, t, d] -> [b, t, d]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashir.errors import SettingError
from flashir.importing.importer import Arrays, Forward, Settings, Shapes
from flashir.ir import Builder, Graph
from flashir.ir.op import AttrSpec, flag
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
from flashir_import.parts import MASK, foreign, mask_inputs, sample_masks

SCALES, OUT = "offsetscale", "to_out.0"


class Gau:
    """GAU."""

    name = "GAU"
    options: Mapping[str, AttrSpec] = {
        "causal": flag(doc="whether attention is causal"),
        "add_residual": flag(True, doc="whether the input is added to the output"),
        "laplace_attn_fn": LAPLACE,
        "norm_eps": NORM_EPS,
        "mask": MASK,
    }

    def recognise(self, shapes: Shapes) -> bool:
        """The offset and scale of two heads, at the root."""
        return f"{SCALES}.gamma" in shapes

    def read_module(self, module: Any) -> Settings:
        """The options of a live layer. Raises SettingError."""
        problems = list(foreign(module, ("GAU", *PARTS)))
        scale = float(module.to_qk[0].in_features) ** 0.5
        options = {**read_unit(module, "", problems, scale), "add_residual": bool(module.add_residual)}
        if problems:
            raise SettingError(problems)
        return options

    def sizes(self, shapes: Shapes) -> Settings:
        """d, e, s and the norm."""
        return unit_sizes(shapes, "", OUT)

    def layout(self, settings: Settings) -> Shapes:
        """The tensors of the layer."""
        return unit_layout(settings, "", SCALES, 2, OUT)

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """No further problems."""
        return ()

    def build(self, arrays: Arrays, settings: Settings) -> tuple[Graph, dict[str, Array]]:
        """One GAU block. The package divides the bias by the length too."""
        b = Builder("gau_layer")
        x = b.input("x", f"f32[B, T, {settings['dim']}]")
        attrs = {**unit_attrs(settings), "residual": settings["add_residual"], "rope_dims": 0, "bias_scale": "length"}
        params = unit_params(arrays, settings, "", SCALES, OUT, settings["dim"] ** 0.5)
        graph = b.finish(*b.insert("gau", (x, *mask_inputs(b, settings)), attrs))
        return graph, {f"layers.0.{name}": array for name, array in params.items()}

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Features, and a mask."""
        x = random.standard_normal((batch, length, settings["dim"]))
        return x, *sample_masks(settings, batch, length, random)

    def lengths(self, settings: Settings) -> Sequence[int]:
        """Around the distances where the T5 buckets widen and end."""
        return 1, 15, 16, 17, 135

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """The NumPy reference."""
        return reference.forward(reference.gau, arrays, settings)

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """GAU of the package."""
        return package.gau(arrays, settings)

    def live(self, module: Any, settings: Settings) -> Forward:
        """The module in float64."""
        return package.wide(module)
