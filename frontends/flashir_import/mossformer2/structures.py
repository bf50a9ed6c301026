"""Separation, wave [b, L] -> waves [b, L, speakers], and the mask net of enhancement, [b, t, c] -> [b, t, c']."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flashir.errors import ParameterError, SettingError
from flashir.importing.importer import Array, Arrays, Forward, Settings, Shapes
from flashir.ir import Builder, Graph, Value
from flashir.ir.op import AttrSpec
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
    """What both have: the mask net, under a prefix."""

    name = ""
    prefix = ""
    dilated = True
    options: Mapping[str, AttrSpec] = {}

    def recognise(self, shapes: Shapes) -> bool:
        """Shared attention with convolutions, and the memory that it has."""
        first = f"{self.prefix}{BLOCK}."
        memory = f"{first}fsmn.0.gated_fsmn.fsmn.{'conv.conv1' if self.dilated else 'conv1'}.weight"
        return f"{first}layers.0.{MARK}" in shapes and memory in shapes

    def read_module(self, module: Any) -> Settings:
        """None. Raises SettingError where a part is foreign, or set to what the package never sets."""
        problems = list(foreign(module, PARTS))
        for name, part in module.named_modules():
            shares = type(part).__name__ == "FLASH_ShareA_FFConvM"
            if shares and (part.group_size, part.causal, part.shift_tokens) != (256, False, True):
                problems.append(f"{name} has another group, or causality, or shift, than ClearVoice gives it")
        if problems:
            raise SettingError(problems, where=self.name)
        return {}

    def read_config(self, said: Mapping[str, Any]) -> Settings:
        """None: shapes tell all."""
        return {}

    def sizes(self, shapes: Shapes) -> Settings:
        """Widths, the depth, the speakers, the lengths of kernels."""
        block = f"{self.prefix}{BLOCK}."
        memory = f"{block}fsmn.0.gated_fsmn.fsmn.{'conv.conv1' if self.dilated else 'conv1'}.weight"
        wanted = {
            "encoder": (f"{self.prefix}conv1d_encoder.weight", 3),
            "out": (f"{self.prefix}conv1d_out.weight", 3),
            "decoder": (f"{self.prefix}conv1_decoder.weight", 3),
            "keys": (f"{block}layers.0.qk_offset_scale.gamma", 2),
            "rates": (f"{block}layers.0.rotary_pos_emb.freqs", 1),
            "mark": (f"{block}layers.0.{MARK}", 3),
            "memory": (memory, 4),
        }
        found = {key: shapes.get(name, ()) for key, (name, _) in wanted.items()}
        if odd := [name for key, (name, rank) in wanted.items() if len(found[key]) != rank]:
            raise ParameterError([f"{name} must have {wanted_rank(wanted, name)} axes" for name in odd])
        numbers = [int(match[1]) for name in shapes if (match := _LAYER.search(name))]
        dim = found["encoder"][0]
        return {
            "dim": dim,
            "channels_in": found["encoder"][1],
            "channels_out": found["decoder"][0],
            "speakers": found["out"][0] // dim,
            "depth": max(numbers) + 1,
            "query_key_dim": found["keys"][1],
            "rope_dims": 2 * found["rates"][0],
            "kernel": found["mark"][2],
            "inner": found["memory"][0],
            "memory": found["memory"][2],
            "dilated": self.dilated,
        }

    def layout(self, settings: Settings) -> Shapes:
        """The tensors of the model, those of the frequencies too."""
        _, parameters = self.made(settings)
        block, half = f"{self.prefix}{BLOCK}.layers.", settings["rope_dims"] // 2
        rates = {f"{block}{i}.rotary_pos_emb.freqs": (half,) for i in range(settings["depth"])}
        return {**parameters.shapes(), **rates, f"{self.prefix}pos_enc.inv_freq": (settings["dim"] // 2,)}

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """Other frequencies."""
        names = {f"{self.prefix}pos_enc.inv_freq": settings["dim"]}
        for i in range(settings["depth"]):
            names[f"{self.prefix}{BLOCK}.layers.{i}.rotary_pos_emb.freqs"] = settings["rope_dims"]
        return [problem for name, width in names.items() if (problem := rate_problem(name, arrays[name], width))]

    def build(self, arrays: Arrays, settings: Settings) -> tuple[Graph, dict[str, Array]]:
        """The model; its parameters have the package's names."""
        graph, parameters = self.made(settings)
        return graph, parameters.arrays(arrays)

    def made(self, settings: Settings) -> tuple[Graph, Parameters]:
        """The model, and what its parameters are made of."""
        raise NotImplementedError

    def live(self, module: Any, settings: Settings) -> Forward:
        """As it is."""
        return package.wide(module)


def wanted_rank(wanted: Mapping[str, tuple[str, int]], name: str) -> int:
    """How many axes the tensor of that name has."""
    return next(rank for each, rank in wanted.values() if each == name)


class Separation(Net):
    """MossFormer2_SS."""

    name = "MossFormer2_SS"
    prefix = "mask_net."

    def recognise(self, shapes: Shapes) -> bool:
        """With the encoder of a wave."""
        return super().recognise(shapes) and "enc.conv1d.weight" in shapes

    def sizes(self, shapes: Shapes) -> Settings:
        """Those of the net, and the length of a window."""
        window = shapes.get("enc.conv1d.weight", ())
        if len(window) != 3:
            raise ParameterError(f"enc.conv1d.weight must be [n, 1, k], got shape {window}")
        return super().sizes(shapes) | {"window": window[2]}

    def problems(self, arrays: Arrays, settings: Settings) -> Sequence[str]:
        """Other frequencies; a decoder of another width, which the package itself cannot run."""
        odd = [] if settings["dim"] == settings["channels_in"] else ["the encoder and the net must be of one width"]
        return [*odd, *super().problems(arrays, settings)]

    def made(self, settings: Settings) -> tuple[Graph, Parameters]:
        """Windows of the wave, a mask of them for each speaker, and back; as long as what came in."""
        p, window = Parameters(settings["depth"]), settings["window"]
        b = Builder("mossformer2_ss")
        wave = b.input("wave", "f32[B, L]")
        batch, length = wave.type.shape
        encoder = p.take(b, "enc.conv1d.weight", (settings["channels_in"], 1, window), taps)
        x = b.relu(b.conv1d(b.reshape(wave, shape=(batch, length, 1)), encoder, stride=window // 2))
        kernel = p.take(b, "dec.weight", (settings["dim"], 1, window), transposed_taps)

        def heard(mask: Value) -> Value:
            long = b.conv_transpose1d(b.mul(x, mask), kernel, stride=window // 2)
            return b.pad(long, axis=1, after=length - long.type.shape[1])

        waves = [heard(mask) for mask in mask_net(b, p, x, self.prefix, settings)]
        return b.finish(b.concat(*waves, axis=-1)), p

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Noise."""
        return (random.standard_normal((batch, length)),)

    def lengths(self, settings: Settings) -> Sequence[int]:
        """One group of windows, around its border, and more; no multiples of a step."""
        step = settings["window"] // 2
        return [step * frames + rest for frames, rest in ((4, 3), (256, 0), (257, 1), (519, step - 1))]

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """In numpy."""
        return reference.separation(arrays, settings)

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """In PyTorch."""
        return package.separation(arrays, settings)


class MaskNet(Net):
    """The mask net of MossFormer2_SE, without the transforms around it."""

    name = "MossFormer2_SE"
    dilated = False

    def made(self, settings: Settings) -> tuple[Graph, Parameters]:
        """Features of a spectrum to the mask of the first speaker."""
        p = Parameters(settings["depth"])
        b = Builder("mossformer2_se")
        x = b.input("features", f"f32[B, T, {settings['channels_in']}]")
        return b.finish(mask_net(b, p, x, self.prefix, settings)[0]), p

    def inputs(self, settings: Settings, batch: int, length: int, random: np.random.Generator) -> tuple[Array, ...]:
        """Features."""
        return (random.standard_normal((batch, length, settings["channels_in"])),)

    def lengths(self, settings: Settings) -> Sequence[int]:
        """Around the borders of groups."""
        return 2, 255, 256, 257, 519

    def reference(self, arrays: Arrays, settings: Settings) -> Forward:
        """In numpy."""
        return reference.enhancement(arrays, settings)

    def package(self, arrays: Arrays, settings: Settings) -> Forward | None:
        """In PyTorch."""
        return package.enhancement(arrays, settings)
