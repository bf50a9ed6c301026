"""GAUAlphaForMaskedLM of the package in float64, if gau_alpha and transformers are installed."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from flashir.importing.importer import Arrays, Forward, Settings
from flashir.reference.arrays import Array
from flashir_import.parts import each_alone, rates

NAMES = (
    *("vocab_size", "type_vocab_size", "hidden_size", "intermediate_size", "attention_key_size", "use_bias"),
    *("num_hidden_layers", "normalization", "attention_scale", "layer_norm_eps", "pad_token_id", "hidden_act"),
)


def masked_lm(arrays: Arrays, settings: Settings) -> Forward | None:
    """The package's model with these tensors; None if the package is not installed."""
    try:
        import gau_alpha
        import torch
    except ImportError:
        return None
    module = gau_alpha.GAUAlphaForMaskedLM(gau_alpha.GAUAlphaConfig(**{name: settings[name] for name in NAMES}))
    module.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in arrays.items()})
    return wide(module)


def wide(module: Any) -> Forward:
    """A copy of a live module in float64, with exact rotary tables. With a mask, each row is computed alone.

    The package's own mask hides no padding in a row of one token with `softmax_plus`: its scores are times log 1.
    """
    import torch

    copied = deepcopy(module).cpu().double().eval()
    encoder = copied.gau_alpha.encoder
    length, half = encoder.sin_pos.shape[1:]
    angles = torch.from_numpy(np.arange(length)[:, None] * rates(half, 2 * half))[None]
    encoder.sin_pos, encoder.cos_pos = angles.sin(), angles.cos()

    def model(ids: Array, mask: Array | None = None) -> Array:
        tokens = None if mask is None else torch.from_numpy(mask)
        with torch.no_grad():
            logits: Array = copied(torch.from_numpy(ids), attention_mask=tokens).logits.numpy()
        return logits

    def run(ids: Array, mask: Array | None = None) -> Array:
        if mask is None:
            return model(ids)
        return each_alone(lambda row: model(row, np.ones(row.shape, np.bool_)))(ids, mask)

    return run
