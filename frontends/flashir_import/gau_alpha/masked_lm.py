"""GAUAlphaForMaskedLM: token ids [b, t] -> logits [b, t, vocab]. A norm follows each gated attention unit.

Tensors have the package's names; d, E and s are its hidden, intermediate and key widths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashir.errors import ParameterError, SettingError
from flashir.importing.importer import Arrays, Forward, Settings, Shapes
from flashir.ir import Builder, DType, Graph, Value
from flashir.ir.op import AttrSpec, choice, flag, integer, number, text
from flashir.reference.arrays import Array
from flashir_import.gau_alpha import package, reference
from flashir_import.parts import MASK, foreign, linear, mask_inputs, sample_masks

EMBED, HEAD = "gau_alpha.embeddings", "cls.predictions.decoder.weight"
SWISH = ("swish", "silu")
PARTS = (
    *("GAUAlphaForMaskedLM", "GAUAlphaModel", "GAUAlphaEmbeddings", "GAUAlphaEncoder", "GAULayer", "ModuleList"),
    *("GatedAttentionUnit", "ScaleOffset", "Norm", "GAUAlphaOnlyMLMHead", "RoFormerV2LMPredictionHead"),
    *("Embedding", "Dropout", "Linear", "SiLU", "SiLUActivation"),
)
_LAYER = re.compile(r"gau_alpha\.encoder\.layer\.(\d+)\.")


def layer(i: int) -> str:
    """The name prefix of a layer's tensors."""
    return f"gau_alpha.encoder.layer.{i}.gau."


class MaskedLM:
    """GAUAlphaForMaskedLM."""

    name = "GAUAlphaForMaskedLM"
    options: Mapping[str, AttrSpec] = {
        "normalization": choice("softmax", "squared_relu", "softmax_plus", doc="the function of the scores"),
        "attention_scale": flag(True, doc="whether scores are divided by the root of the key width"),
        "layer_norm_eps": number(1e-12, least=0, doc="the eps of the norms"),
        "pad_token_id": integer(0, least=0, doc="the id of padding, which is masked"),
        "hidden_act": text("swish", doc="the activation, swish or silu"),
        "mask": MASK,
    }

    def recognise(self, shapes: Shapes) -> bool:
        """A unit with a single input projection, and a head."""
        return f"{layer(0)}i_dense.weight" in shapes and HEAD in shapes

    def read_module(self, module: Any) -> Settings:
        """The options of a live model. Raises SettingError."""
        problems = list(foreign(module, PARTS))
        if problems:
            raise SettingError(problems)
        config = vars(module.config)
        return {name: config[name] for name in self.options if name in config}

    def sizes(self, shapes: Shapes) -> Settings:
        """The vocabulary, the token types, d, E, s, the depth, and whether there are biases."""
        words, types = (shapes.get(f"{EMBED}.{name}_embeddings.weight", ()) for name in ("word", "token_type"))
        out, scale = shapes.get(f"{layer(0)}o_dense.weight", ()), shapes.get(f"{layer(0)}q_scaleoffset.weight", ())
        if (len(words), len(types), len(out), len(scale)) != (2, 2, 2, 1):
            raise ParameterError("the embeddings and o_dense.weight must be matrices, q_scaleoffset.weight a vector")
        numbers = [int(match[1]) for name in shapes if (match := _LAYER.match(name))]
        return {
            "vocab_size": words[0],
            "type_vocab_size": types[0],
            "hidden_size": words[1],
            "intermediate_size": out[1],
            "attention_key_size": scale[0],
            "num_hidden_layers": max(numbers) + 1,
            "use_bias": f"{layer(0)}i_dense.bias" in shapes,
        }

    def layout(self, settings: Settings) -> Shapes:
        """The tensors of the model."""
        d, wide, s = settings["hidden_size"], settings["intermediate_size"], settings["attention_key_size"]
        shapes: dict[str, tuple[int, ...]] = {
            f"{EMBED}.word_embeddings.weight": (settings["vocab_size"], d),
            f"{EMBED}.token_type_embeddings.weight": (settings["type_vocab_size"], d),
            HEAD: (settings["vocab_size"], d),
        }
        for i in range(settings["num_hidden_layers"]):
            weights: Shapes = {
                "i_dense.weight": (2 * wide + s, d),
                "o_dense.weight": (d, wide),
                "q_scaleoffset.weight": (s,),
                "k_scaleoffset.weight": (s,),
            }
            biases: Shapes = {name.replace("weight", "bias"): shape[:1] for name, shape in weights.items()}
            shapes |= {f"{layer(i)}{name}": shape for name, shape in weights.items()}
            shapes |= {f"{layer(i)}{name}": shape for name, shape in biases.items() if settings["use_bias"]}
        return shapes

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """Unsupported settings."""
        activation, vocab, pad = settings["hidden_act"], settings["vocab_size"], settings["pad_token_id"]
        problems = [] if activation in SWISH else [f"hidden_act must be swish, got {activation!r}"]
        if settings["attention_key_size"] % 2:
            problems.append(f"the key width must be even, got {settings['attention_key_size']}")
        if pad >= vocab:
            problems.append(f"pad_token_id must be less than {vocab}, got {pad}")
        return problems

    def build(self, arrays: Arrays, settings: Settings) -> tuple[Graph, dict[str, Array]]:
        """The embedding and a norm, the units, and an untied head. Without a mask, the id of padding is masked."""
        d, wide, s = settings["hidden_size"], settings["intermediate_size"], settings["attention_key_size"]
        eps = settings["layer_norm_eps"]
        b = Builder("gau_alpha")
        ids = b.input("ids", "i32[B, T]")
        (tokens,) = mask_inputs(b, settings) or (_not_padding(b, ids, settings["pad_token_id"]),)
        attrs: dict[str, Any] = {
            **({"expansion": wide // d} if wide % d == 0 else {"expanded": wide}),
            "key_dim": s,
            "causal": False,
            "norm": "none",
            "rel_bias": "t5",
            "rope_interleaved": True,
            "attention": "relu2" if settings["normalization"] == "squared_relu" else "softmax",
            "qk_scale": {"softmax": "none", "squared_relu": "root_length", "softmax_plus": "log_length"}[
                settings["normalization"]
            ],
        }

        def body(b: Builder, h: Value, tokens: Value) -> Value:
            return b.scale_normalization(b.gau(h, tokens, **attrs), b.constant(1.0), eps=eps)

        x = b.scale_normalization(b.embed(ids, vocab=settings["vocab_size"], dim=d), b.constant(1.0), eps=eps)
        x = b.repeat(x, tokens, times=settings["num_hidden_layers"], body=body)
        graph = b.finish(b.unembed(x, vocab=settings["vocab_size"], tied=False))
        words = arrays[f"{EMBED}.word_embeddings.weight"].astype(np.float32)
        params = {
            "embed.weight": words + arrays[f"{EMBED}.token_type_embeddings.weight"][0].astype(np.float32),
            "unembed.weight": linear(arrays[HEAD]),
        }
        for i in range(settings["num_hidden_layers"]):
            unit = _params(arrays, settings, layer(i))
            params |= {f"layers.{i}.{name}": array for name, array in unit.items()}
        return graph, params

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Token ids without padding; any ids, and a mask."""
        if settings["mask"]:
            ids = random.integers(0, settings["vocab_size"], (batch, length))
            return ids, *sample_masks(settings, batch, length, random)
        ids = random.integers(0, settings["vocab_size"] - 1, (batch, length))
        return (ids + (ids >= settings["pad_token_id"]),)

    def lengths(self, settings: Settings) -> Sequence[int]:
        """Short and long, odd and even."""
        return 1, 2, 15, 64, 77

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """The NumPy reference."""
        return reference.masked_lm(arrays, settings)

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """The model of the package."""
        return package.masked_lm(arrays, settings)

    def live(self, module: Any, settings: Settings) -> Forward:
        """The module in float64."""
        return package.wide(module)


def _not_padding(b: Builder, ids: Value, pad: int) -> Value:
    """Whether each id differs from that of padding, [b, t]."""
    return b.less(b.constant(0, DType.I32), b.maximum(b.sub(ids, pad), b.sub(b.constant(pad, DType.I32), ids)))


def _params(arrays: Arrays, settings: Settings, prefix: str) -> dict[str, Array]:
    """The parameters of one unit by local name. Constant scales of the scores are folded into the queries."""
    d, wide, s = settings["hidden_size"], settings["intermediate_size"], settings["attention_key_size"]

    def tensor(name: str, width: int) -> Array:
        return np.asarray(arrays.get(f"{prefix}{name}", np.zeros(width)), np.float32)

    root = s**-0.5 if settings["attention_scale"] else 1.0
    factor = root * (s**0.5 if settings["normalization"] == "softmax_plus" else 1.0)
    gamma, beta = (
        np.stack([tensor(f"q_scaleoffset.{name}", s).astype(np.float64) * factor, tensor(f"k_scaleoffset.{name}", s)])
        for name in ("weight", "bias")
    )
    return {
        "proj_in.weight": linear(tensor("i_dense.weight", 0)),
        "proj_in.bias": tensor("i_dense.bias", 2 * wide + s),
        "offset_scale.gamma": gamma.astype(np.float32),
        "offset_scale.beta": beta.astype(np.float32),
        "rel_bias.buckets": np.zeros(32, np.float32),
        "proj_out.weight": linear(tensor("o_dense.weight", 0)),
        "proj_out.bias": tensor("o_dense.bias", d),
    }
