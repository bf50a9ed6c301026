"""State dicts as the packages would write them, drawn at random: no package is needed to make one."""

from __future__ import annotations

from typing import Any

import numpy as np

from flashir.importing.importer import Array, Settings, Structure, importers

D, E, S, VOCAB = 16, 24, 8, 13
UNIT: Settings = {"dim": D, "expanded": E, "query_key_dim": S, "norm": "scale_norm"}
FLASH: Settings = {**UNIT, "rope_dims": S}
TRANSFORMER: Settings = {**FLASH, "num_tokens": VOCAB, "depth": 2}
OPTIONS: dict[str, Any] = {"causal": True, "group_size": 5}


def structure(family: str, name: str) -> Structure:
    """That kind of model of a package."""
    return next(each for each in importers()[family].structures() if each.name == name)


def drawn(family: str, name: str, sizes: Settings, seed: int = 0) -> dict[str, Array]:
    """A state dict in which every term matters, in float32."""
    random = np.random.default_rng(seed)
    made = {}
    for key, shape in structure(family, name).layout(sizes).items():
        if key.endswith(("freqs", "inv_freq")):
            width = 2 * shape[0]
            made[key] = (10000.0 ** (-np.arange(0, width, 2) / width)).astype(np.float32)
            continue
        values = random.standard_normal(shape) / (shape[-1] ** 0.5 if len(shape) > 1 and shape[-1] > 1 else 1)
        if key.endswith((".g", "scale")):
            values = 1 + 0.3 * values
        made[key] = np.asarray(values * (0.05 if "relative_attention" in key else 1), np.float32)
    return made


def flash_transformer(seed: int = 0, **sizes: Any) -> dict[str, Array]:
    """Of FLASHTransformer."""
    return drawn("flash-pytorch", "FLASHTransformer", TRANSFORMER | sizes, seed)
