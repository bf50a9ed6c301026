"""MossFormer2 of the package in float64, if the folder of clearvoice is on Python's path."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from flashir.importing.importer import Arrays, Forward, Settings
from flashir.reference.arrays import Array
from flashir_import.parts import in_float64


def separation(arrays: Arrays, settings: Settings) -> Forward | None:
    """MossFormer of models.mossformer2_ss."""
    arguments = {
        "in_channels": settings["channels_in"],
        "out_channels": settings["dim"],
        "num_blocks": settings["depth"],
    }
    more = {"kernel_size": settings["window"], "num_spks": settings["speakers"]}
    return _loaded("models.mossformer2_ss.mossformer2", "MossFormer", arrays, settings, **arguments, **more)


def enhancement(arrays: Arrays, settings: Settings) -> Forward | None:
    """MossFormer_MaskNet of models.mossformer2_se."""
    arguments = {
        "in_channels": settings["channels_in"],
        "out_channels": settings["dim"],
        "num_blocks": settings["depth"],
    }
    more = {"out_channels_final": settings["channels_out"], "num_spks": settings["speakers"]}
    return _loaded("models.mossformer2_se.mossformer2", "MossFormer_MaskNet", arrays, settings, **arguments, **more)


def _loaded(module: str, kind: str, arrays: Arrays, settings: Settings, **named: Any) -> Forward | None:
    """The package's model with these tensors; None if it is not installed or does not support the sizes."""
    try:
        import torch

        model = getattr(import_module(module), kind)(**named)
    except ImportError:
        return None
    if settings["query_key_dim"] != 128 or settings["inner"] != 256:  # the package has no arguments for them
        return None
    model.load_state_dict({name: torch.tensor(np.asarray(array)) for name, array in arrays.items()})
    return wide(model)


def wide(module: Any) -> Forward:
    """A live module in float64."""
    import torch

    copied = in_float64(module)

    def run(x: Array) -> Array:
        with torch.no_grad():
            if x.ndim == 2:
                waves: Array = torch.stack(copied(torch.from_numpy(x)), -1).numpy()
                return waves
            masks: Array = copied(torch.from_numpy(x).transpose(1, 2)).numpy()
            return masks

    return run
