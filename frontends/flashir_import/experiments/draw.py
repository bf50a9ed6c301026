"""Random models of the packages: random settings, and weights at which every term matters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Drawn = tuple[Any, dict[str, Any]]
"""A live module, and the options that shapes do not determine."""


def flash_pytorch(seed: int) -> Drawn:
    """A FLASHTransformer, a FLASH or a GAU."""
    import torch
    from flash_pytorch import FLASH, GAU, FLASHTransformer
    from flash_pytorch.flash_pytorch import ScaleNorm
    from rotary_embedding_torch import RotaryEmbedding

    random = np.random.default_rng(seed)

    def pick(*choices: Any) -> Any:
        return choices[random.integers(len(choices))]

    kind = pick("transformer", "transformer", "flash", "gau")
    width, keys = pick(16, 24, 34, 48), pick(4, 8, 20, 33, 40)
    shared = {"dim": width, "query_key_dim": keys, "expansion_factor": pick(1.0, 2.0, 1.5, 0.7, 3.1)}
    options: dict[str, Any] = {"causal": pick(True, False), "laplace_attn_fn": pick(True, False)}
    norm = pick(ScaleNorm, torch.nn.LayerNorm)
    if kind == "gau":
        options |= {"add_residual": pick(True, False)}
        return randomised(GAU(**shared, **options, norm_klass=norm), seed), options
    options |= {
        "group_size": pick(1, 2, 8, 16, 20),
        "shift_tokens": pick(True, False),
        "reduce_group_non_causal_attn": pick(True, False),
    }
    if kind == "flash":
        rotary = RotaryEmbedding(dim=min(32, keys)) if pick(True, False) else None
        return randomised(FLASH(**shared, **options, norm_klass=norm, rotary_pos_emb=rotary), seed), options
    name = "scalenorm" if norm is ScaleNorm else "layernorm"
    sizes = {"num_tokens": pick(7, 101), "depth": pick(1, 2, 3), "norm_type": name}
    return randomised(FLASHTransformer(**shared, **options, **sizes), seed), options


def gau_alpha(seed: int) -> Drawn:
    """A GAUAlphaForMaskedLM. Stubs replace transformers if it is not installed."""
    stand_in_for_transformers()
    import gau_alpha as package

    random = np.random.default_rng(seed)

    def pick(*choices: Any) -> Any:
        return choices[random.integers(len(choices))]

    options = {"normalization": pick("softmax", "squared_relu", "softmax_plus"), "attention_scale": pick(True, False)}
    width = pick(16, 24, 48)
    sizes = {
        "vocab_size": pick(7, 101),
        "hidden_size": width,
        "intermediate_size": pick(width, 2 * width, width + 5),
        "attention_key_size": pick(4, 20, 32),
        "num_hidden_layers": pick(1, 2, 3),
        "use_bias": pick(True, False),
    }
    return randomised(package.GAUAlphaForMaskedLM(package.GAUAlphaConfig(**sizes, **options)), seed), options


def stand_in_for_transformers() -> None:
    """Stubs of the names that gau_alpha imports from transformers, unless it is installed."""
    if "transformers" in sys.modules or find_spec("transformers") is not None:
        return
    import torch

    class Config:
        """Keeps its settings."""

        def __init__(self, pad_token_id: int = 0, **settings: Any) -> None:
            self.pad_token_id = pad_token_id
            self.output_attentions = self.output_hidden_states = False
            self.use_return_dict = True
            vars(self).update(settings)

    class Model(torch.nn.Module):
        """Keeps its config."""

        def __init__(self, config: Config) -> None:
            super().__init__()
            self.config = config

        def post_init(self) -> None:
            """Does nothing."""

    class Output(dict[Any, Any]):
        """A dict whose entries can be read by attribute or by index."""

        __getattr__ = dict.get

        def __getitem__(self, key: Any) -> Any:
            return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)

    outputs = ("BaseModelOutput", "MaskedLMOutput", "MultipleChoiceModelOutput", "QuestionAnsweringModelOutput")
    more = ("SequenceClassifierOutput", "TokenClassifierOutput")
    _module("", __path__=[])
    _module(".models", __path__=[])
    _module(".models.bert", BertTokenizer=None, BertTokenizerFast=None)
    _module(".activations", get_activation=lambda name: torch.nn.SiLU())
    _module(".configuration_utils", PretrainedConfig=Config)
    _module(".modeling_outputs", **dict.fromkeys((*outputs, *more), Output))
    _module(".modeling_utils", PreTrainedModel=Model, SequenceSummary=None)
    _module(".utils", logging=SimpleNamespace(get_logger=lambda name: None))


def _module(name: str, **content: Any) -> None:
    module = ModuleType(f"transformers{name}")
    vars(module).update(content)
    sys.modules[f"transformers{name}"] = module


def mossformer2(seed: int) -> Drawn:
    """A small MossFormer2_SS, or the mask net of MossFormer2_SE in every third case."""
    random = np.random.default_rng(seed)
    width, depth = int(random.choice([16, 32, 64])), int(random.integers(1, 3))
    if seed % 3 == 2:
        sizes = {"in_channels": 18, "out_channels": width, "out_channels_final": 61, "num_blocks": depth}
        return randomised(clearvoice("mossformer2_se", "MossFormer_MaskNet")(**sizes), seed), {}
    sizes = {"in_channels": width, "out_channels": width, "num_blocks": depth, "num_spks": int(random.integers(2, 4))}
    return randomised(clearvoice("mossformer2_ss", "MossFormer")(**sizes), seed), {}


def clearvoice(model: str, name: str) -> Any:
    """A class of clearvoice. Its modules import each other as `models`, so their folder goes onto Python's path."""
    package = find_spec("clearvoice")
    assert package is not None and package.submodule_search_locations is not None
    if (folder := next(iter(package.submodule_search_locations))) not in sys.path:
        sys.path.append(folder)
    return getattr(import_module(f"models.{model}.mossformer2"), name)


FAMILIES: dict[str, Callable[[int], Drawn]] = {
    "flash-pytorch": flash_pytorch,
    "gau-alpha": gau_alpha,
    "mossformer2": mossformer2,
}


def randomised(module: Any, seed: int) -> Any:
    """The module with random parameters: matrices with std 1 / sqrt(fan in), scales around 1."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            fan_in = parameter.shape[-1] if parameter.ndim > 1 and "gamma" not in name and "emb" not in name else 1
            values = torch.randn(parameter.shape, generator=generator) * fan_in**-0.5
            if name.endswith((".g", "scale", "norm.weight")):
                values = 1 + 0.3 * values
            if "relative_attention_bias" in name:
                values *= 0.05
            parameter.copy_(values * 0.3 if name.endswith("bias") else values)
    return module.eval()
