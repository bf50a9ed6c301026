"""FLASHTransformer of FLASH-pytorch: token ids [b, t] -> logits [b, t, vocab]."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashir.errors import ParameterError, SettingError
from flashir.importing.importer import Arrays, Forward, Settings, Shapes
from flashir.ir import Builder, Graph, Value
from flashir.ir.op import AttrSpec, flag
from flashir.reference.arrays import Array
from flashir_import.flash_pytorch import package, reference
from flashir_import.flash_pytorch.layer import (
    FLASH_PARTS,
    OPTIONS,
    OUT,
    border_lengths,
    flash_attrs,
    flash_layout,
    flash_params,
    flash_problems,
    read_flash,
    rope_dims,
)
from flashir_import.flash_pytorch.unit import unit_sizes
from flashir_import.parts import foreign, linear, mask_inputs, rate_problem, same_of_all, sample_masks

MOST_ROTARY = 32
_LAYER = re.compile(r"layers\.(\d+)\.")


class Transformer:
    """FLASHTransformer."""

    name = "FLASHTransformer"
    options: Mapping[str, AttrSpec] = OPTIONS | {
        "shift_tokens": flag(True, doc="whether half the channels come from the previous token")
    }

    def recognise(self, shapes: Shapes) -> bool:
        """FLASH layers and an embedding."""
        return "token_emb.weight" in shapes and "layers.0.qk_offset_scale.gamma" in shapes

    def read_module(self, module: Any) -> Settings:
        """The options of a live model. Raises SettingError."""
        known = {*FLASH_PARTS, "FLASHTransformer", "ScaledSinuEmbedding", "ModuleList"}
        problems = list(foreign(module, known))
        if problems:
            raise SettingError(problems)
        layers = [read_flash(layer, f"layers.{i}.", problems) for i, layer in enumerate(module.layers)]
        named = {name: "the eps of norms" if name == "norm_eps" else name for name in self.options if name != "mask"}
        options = {key: same_of_all([layer[key] for layer in layers], name, problems) for key, name in named.items()}
        if (last := module.to_logits[0]).eps != 1e-5:
            problems.append(f"to_logits.0 has an eps of {last.eps}, wanted 1e-5")
        if problems:
            raise SettingError(problems)
        return {name: value for name, value in options.items() if value is not None}

    def sizes(self, shapes: Shapes) -> Settings:
        """d, e, s, the vocabulary, the depth, the norm and the number of rotary channels."""
        embedding = shapes.get("token_emb.weight", ())
        if len(embedding) != 2:
            raise ParameterError(f"token_emb.weight must be a matrix, got shape {embedding}")
        numbers = {int(match[1]) for name in shapes if (match := _LAYER.match(name))}
        sizes = unit_sizes(shapes, "layers.0.", OUT)
        rotary = rope_dims(shapes, "layers.0.") or 2 * (min(MOST_ROTARY, sizes["query_key_dim"]) // 2)
        return sizes | {
            "dim": embedding[1],
            "num_tokens": embedding[0],
            "depth": max(numbers, default=-1) + 1,
            "rope_dims": rotary,
        }

    def layout(self, settings: Settings) -> Shapes:
        """The tensors of the model."""
        d, vocab = settings["dim"], settings["num_tokens"]
        shapes: dict[str, tuple[int, ...]] = {
            "token_emb.weight": (vocab, d),
            "abs_pos_emb.scale": (1,),
            "abs_pos_emb.inv_freq": (d // 2,),
        }
        for i in range(settings["depth"]):
            shapes |= flash_layout(settings, f"layers.{i}.")
        head: Shapes = {"0.weight": (d,), "0.bias": (d,), "1.weight": (vocab, d), "1.bias": (vocab,)}
        return shapes | {f"to_logits.{name}": shape for name, shape in head.items()}

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """Wrong frequencies."""
        name = "abs_pos_emb.inv_freq"
        problem = rate_problem(name, arrays[name], settings["dim"])
        problems = [problem] if problem else []
        for i in range(settings["depth"]):
            problems += flash_problems(arrays, settings, f"layers.{i}.")
        return problems

    def build(self, arrays: Arrays, settings: Settings) -> tuple[Graph, dict[str, Array]]:
        """The embedding with positions, the layers, a final norm, and a head with a bias."""
        b = Builder("flash_transformer")
        ids, mask = b.input("ids", "i32[B, T]"), mask_inputs(b, settings)
        x = b.scaled_sin(b.embed(ids, vocab=settings["num_tokens"], dim=settings["dim"]))
        attrs = flash_attrs(settings)

        def layer(b: Builder, h: Value, *mask: Value) -> Value:
            return b.insert("flash", (h, None, *mask), attrs)[0]

        x = b.repeat(x, *mask, times=settings["depth"], body=layer)
        graph = b.finish(b.unembed(b.layer_norm(x), tied=False, bias=True))
        params = {
            "embed.weight": arrays["token_emb.weight"],
            "pos.scale": arrays["abs_pos_emb.scale"].reshape(()),
            "final_norm.scale": arrays["to_logits.0.weight"],
            "final_norm.bias": arrays["to_logits.0.bias"],
            "unembed.weight": linear(arrays["to_logits.1.weight"]),
            "unembed.bias": arrays["to_logits.1.bias"],
        }
        for i in range(settings["depth"]):
            unit = flash_params(arrays, settings, f"layers.{i}.")
            params |= {f"layers.{i}.{name}": array for name, array in unit.items()}
        return graph, params

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Token ids, and a mask."""
        ids = random.integers(0, settings["num_tokens"], (batch, length))
        return ids, *sample_masks(settings, batch, length, random)

    def lengths(self, settings: Settings) -> Sequence[int]:
        """Around group boundaries."""
        return border_lengths(settings["group_size"])

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """The NumPy reference."""
        return reference.forward(reference.transformer, arrays, settings)

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """FLASHTransformer of the package."""
        return package.transformer(arrays, settings)

    def live(self, module: Any, settings: Settings) -> Forward:
        """The module in float64."""
        return package.wide(module)
