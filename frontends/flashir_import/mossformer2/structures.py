"""Separation, wave [b, L] -> waves [b, L, speakers], and the mask net of enhancement, [b, t, c] -> [b, t, c']."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashir.errors import ParameterError, SettingError
from flashir.importing.importer import Arrays, Forward, Settings, Shapes
from flashir.ir import Builder, Graph, Value
from flashir.ir.op import AttrSpec
from flashir.reference.arrays import Array
from flashir_import.mossformer2 import package, reference
from flashir_import.mossformer2.blocks import BLOCK, mask_net
from flashir_import.mossformer2.parameters import Parameters, taps, transposed_taps
from flashir_import.parts import foreign, rate_problem

MARK = "to_hidden.mdl.3.sequential.1.conv.weight"
PARTS = (
    *("MossFormer", "MossFormer_MaskNet", "Encoder", "Decoder", "GroupNorm", "Conv1d", "ScaledSinuEmbedding", "PReLU"),
    *("Computation_Block", "MossFormerM", "MossformerBlock_GFSMN", "ModuleList", "FLASH_ShareA_FFConvM", "Dropout"),
    *("FFConvM", "Sequential", "ScaleNorm", "LayerNorm", "CLayerNorm", "Linear", "SiLU", "ConvModule", "Transpose"),
    *("DepthwiseConv1d", "OffsetScale", "RotaryEmbedding", "Sigmoid", "Tanh", "ReLU", "Gated_FSMN_Block_Dilated"),
    *("Gated_FSMN_dilated", "UniDeepFsmn_dilated", "DilatedDenseNet", "ConstantPad2d", "Conv2d", "InstanceNorm2d"),
    *("Gated_FSMN_Block", "Gated_FSMN", "UniDeepFsmn", "Identity"),
)
_LAYER = re.compile(r"\.layers\.(\d+)\.")


class Net:
    """The mask net, under a prefix: the common part of both models."""

    name = ""
    prefix = ""
    dilated = True
    options: Mapping[str, AttrSpec] = {}

    @property
    def block(self) -> str:
        """The prefix of the layers."""
        return f"{self.prefix}{BLOCK}."

    @property
    def memory(self) -> str:
        """The kernel of the first layer's memory, which tells the two kinds apart."""
        return f"{self.block}fsmn.0.gated_fsmn.fsmn.{'conv.conv1' if self.dilated else 'conv1'}.weight"

    def recognise(self, shapes: Shapes) -> bool:
        """Shared attention with convolutions, and this model's kind of memory."""
        return f"{self.block}layers.0.{MARK}" in shapes and self.memory in shapes

    def read_module(self, module: Any) -> Settings:
        """No options. Raises SettingError if a part is foreign, or its settings differ from ClearVoice's."""
        problems = list(foreign(module, PARTS))
        for name, part in module.named_modules():
            shares = type(part).__name__ == "FLASH_ShareA_FFConvM"
            if shares and (part.group_size, part.causal, part.shift_tokens) != (256, False, True):
                problems.append(f"{name} has another group_size, causal or shift_tokens than in ClearVoice")
        if problems:
            raise SettingError(problems)
        return {}

    def sizes(self, shapes: Shapes) -> Settings:
        """Widths, depth, number of speakers, kernel lengths."""
        names = {
            "encoder": (f"{self.prefix}conv1d_encoder.weight", 3),
            "out": (f"{self.prefix}conv1d_out.weight", 3),
            "decoder": (f"{self.prefix}conv1_decoder.weight", 3),
            "keys": (f"{self.block}layers.0.qk_offset_scale.gamma", 2),
            "rates": (f"{self.block}layers.0.rotary_pos_emb.freqs", 1),
            "mark": (f"{self.block}layers.0.{MARK}", 3),
            "memory": (self.memory, 4),
        }
        sizes = {key: shapes.get(name, ()) for key, (name, _) in names.items()}
        if wrong := [f"{name} must have {rank} axes" for key, (name, rank) in names.items() if len(sizes[key]) != rank]:
            raise ParameterError(wrong)
        numbers = [int(match[1]) for name in shapes if (match := _LAYER.search(name))]
        dim = sizes["encoder"][0]
        return {
            "dim": dim,
            "channels_in": sizes["encoder"][1],
            "channels_out": sizes["decoder"][0],
            "speakers": sizes["out"][0] // dim,
            "depth": max(numbers) + 1,
            "query_key_dim": sizes["keys"][1],
            "rope_dims": 2 * sizes["rates"][0],
            "kernel": sizes["mark"][2],
            "inner": sizes["memory"][0],
            "memory": sizes["memory"][2],
            "dilated": self.dilated,
        }

    def layout(self, settings: Settings) -> Shapes:
        """The tensors of the model, including the frequencies."""
        _, parameters = self.graph(settings)
        half = settings["rope_dims"] // 2
        rates = {f"{self.block}layers.{i}.rotary_pos_emb.freqs": (half,) for i in range(settings["depth"])}
        return {**parameters.shapes(), **rates, f"{self.prefix}pos_enc.inv_freq": (settings["dim"] // 2,)}

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """Wrong frequencies."""
        names = {f"{self.prefix}pos_enc.inv_freq": settings["dim"]}
        for i in range(settings["depth"]):
            names[f"{self.block}layers.{i}.rotary_pos_emb.freqs"] = settings["rope_dims"]
        return [problem for name, width in names.items() if (problem := rate_problem(name, arrays[name], width))]

    def build(self, arrays: Arrays, settings: Settings) -> tuple[Graph, dict[str, Array]]:
        """The model; its parameters have the package's names."""
        graph, parameters = self.graph(settings)
        return graph, parameters.arrays(arrays)

    def graph(self, settings: Settings) -> tuple[Graph, Parameters]:
        """The model, and the tensors of its parameters."""
        raise NotImplementedError

    def live(self, module: Any, settings: Settings) -> Forward:
        """The module in float64."""
        return package.wide(module)


class Separation(Net):
    """MossFormer2_SS."""

    name = "MossFormer2_SS"
    prefix = "mask_net."

    def recognise(self, shapes: Shapes) -> bool:
        """A mask net and the encoder of a wave."""
        return super().recognise(shapes) and "enc.conv1d.weight" in shapes

    def sizes(self, shapes: Shapes) -> Settings:
        """The sizes of the net, and the window length."""
        window = shapes.get("enc.conv1d.weight", ())
        if len(window) != 3:
            raise ParameterError(f"enc.conv1d.weight must be [n, 1, k], got shape {window}")
        return super().sizes(shapes) | {"window": window[2]}

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """Wrong frequencies; an encoder of another width than the net, which the package cannot run."""
        same_width = settings["dim"] == settings["channels_in"]
        problems = [] if same_width else ["the encoder and the net must have the same width"]
        return [*problems, *super().problems(arrays, settings)]

    def graph(self, settings: Settings) -> tuple[Graph, Parameters]:
        """Encodes windows of the wave, and decodes them with a mask per speaker, to the length of the input."""
        p, window = Parameters(settings["depth"]), settings["window"]
        b = Builder("mossformer2_ss")
        wave = b.input("wave", "f32[B, L]")
        batch, length = wave.type.shape
        encoder = p.take(b, "enc.conv1d.weight", (settings["channels_in"], 1, window), taps)
        x = b.relu(b.conv1d(b.reshape(wave, shape=(batch, length, 1)), encoder, stride=window // 2))
        kernel = p.take(b, "dec.weight", (settings["dim"], 1, window), transposed_taps)

        def decode(mask: Value) -> Value:
            decoded = b.conv_transpose1d(b.mul(x, mask), kernel, stride=window // 2)
            return b.pad(decoded, axis=1, after=length - decoded.type.shape[1])

        waves = [decode(mask) for mask in mask_net(b, p, x, self.prefix, settings)]
        return b.finish(b.concat(*waves, axis=-1)), p

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Noise."""
        return (random.standard_normal((batch, length)),)

    def lengths(self, settings: Settings) -> Sequence[int]:
        """Below, around and above one group of windows, with and without a partial step."""
        step = settings["window"] // 2
        return [step * frames + rest for frames, rest in ((4, 3), (255, 2), (256, 0), (257, 1), (519, step - 1))]

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """The NumPy reference."""
        return reference.separation(arrays, settings)

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """The model of the package."""
        return package.separation(arrays, settings)


class MaskNet(Net):
    """The mask net of MossFormer2_SE, without the transforms around it."""

    name = "MossFormer2_SE"
    dilated = False

    def graph(self, settings: Settings) -> tuple[Graph, Parameters]:
        """The features of a spectrum -> the mask of the first speaker."""
        p = Parameters(settings["depth"])
        b = Builder("mossformer2_se")
        x = b.input("features", f"f32[B, T, {settings['channels_in']}]")
        return b.finish(mask_net(b, p, x, self.prefix, settings)[0]), p

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Features."""
        return (random.standard_normal((batch, length, settings["channels_in"])),)

    def lengths(self, settings: Settings) -> Sequence[int]:
        """Around group boundaries."""
        return 2, 255, 256, 257, 519

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """The NumPy reference."""
        return reference.enhancement(arrays, settings)

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """The model of the package."""
        return package.enhancement(arrays, settings)
