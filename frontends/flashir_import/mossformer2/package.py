"""MossFormer2 itself, in float64, where the folder of clearvoice is on the path of python."""

from __future__ import annotations

from copy import deepcopy
from importlib import import_module
from typing import Any

import numpy as np

from flashir.importing.importer import Array, Arrays, Forward, Settings
from flashir_import.parts import rates


def separation(arrays: Arrays, settings: Settings) -> Forward | None:
    """MossFormer of models.mossformer2_ss."""
    named = {"in_channels": settings["channels_in"], "out_channels": settings["dim"], "num_blocks": settings["depth"]}
    more = {"kernel_size": settings["window"], "num_spks": settings["speakers"]}
    return _loaded("models.mossformer2_ss.mossformer2", "MossFormer", arrays, settings, **named, **more)


def enhancement(arrays: Arrays, settings: Settings) -> Forward | None:
    """MossFormer_MaskNet of models.mossformer2_se."""
    named = {"in_channels": settings["channels_in"], "out_channels": settings["dim"], "num_blocks": settings["depth"]}
    more = {"out_channels_final": settings["channels_out"], "num_spks": settings["speakers"]}
    return _loaded("models.mossformer2_se.mossformer2", "MossFormer_MaskNet", arrays, settings, **named, **more)


def _loaded(module: str, kind: str, arrays: Arrays, settings: Settings, **named: Any) -> Forward | None:
    """None where it is not there, or has other sizes than those tensors."""
    try:
        import torch

        made = getattr(import_module(module), kind)(**named)
    except ImportError:
        return None
    if settings["query_key_dim"] != 128 or settings["inner"] != 256:  # the package has no arguments for them
        return None
    made.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in arrays.items()})
    return wide(made)


def wide(module: Any) -> Forward:
    """A copy of a live module in float64, with exact rates of positions, and nothing kept from call to call."""
    import torch

    copied = deepcopy(module).cpu().double().eval()
    for part in copied.modules():
        for name in ("inv_freq", "freqs"):
            if (given := getattr(part, name, None)) is not None:
                given.data.copy_(torch.from_numpy(rates(len(given), 2 * len(given))))
        if hasattr(part, "cache_if_possible"):
            part.cache_if_possible = False

    def run(x: Array) -> Array:
        with torch.no_grad():
            if x.ndim == 2:
                waves: Array = torch.stack(copied(torch.from_numpy(x)), -1).numpy()
                return waves
            masks: Array = copied(torch.from_numpy(x).transpose(1, 2)).numpy()
            return masks

    return run
