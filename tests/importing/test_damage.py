"""Every kind of model: a damaged file is an error that names the tensor, never a silent import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import flashir
from flashir.errors import ParameterError
from tests.importing import test_gau_alpha, test_mossformer2
from tests.importing.support import FLASH, OPTIONS, TRANSFORMER, UNIT, drawn

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "FLASHTransformer": ("flash-pytorch", TRANSFORMER, OPTIONS),
    "FLASH": ("flash-pytorch", FLASH, OPTIONS),
    "GAU": ("flash-pytorch", UNIT, {"causal": True}),
    "GAUAlphaForMaskedLM": ("gau-alpha", test_gau_alpha.SIZES, {"normalization": "softmax"}),
    **{
        name: ("mossformer2", test_mossformer2.SIZES | sizes, dict[str, Any]())
        for name, sizes in test_mossformer2.NETS.items()
    },
}
DAMAGE: dict[str, tuple[Callable[[dict[str, Any], str], object], str]] = {
    "missing": (lambda state, name: state.pop(name), "is missing"),
    "extra": (lambda state, name: state.update({f"{name}.more": np.zeros(3, np.float32)}), "is not a tensor of"),
    "misshapen": (lambda state, name: state.update({name: np.zeros((2, 3, 5), np.float32)}), "must have shape"),
    "not finite": (lambda state, name: state.update({name: state[name] * np.nan}), "not finite"),
    "whole numbers": (lambda state, name: state.update({name: state[name].astype(np.int64)}), "floating-point"),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_kind_of_damage_to_a_file_is_an_error(tmp_path: Path, name: str) -> None:
    family, sizes, options = MODELS[name]
    whole = drawn(family, name, sizes)
    tensor = next(tensor for tensor in reversed(whole) if tensor.endswith("bias"))
    path = tmp_path / "m.safetensors"
    for damage, told in DAMAGE.values():
        state = dict(whole)
        damage(state, tensor)
        save_file(state, path)
        with pytest.raises(ParameterError, match=told) as caught:
            flashir.convert(path, **options)
        assert tensor in caught.value.message and str(path) in caught.value.message
    save_file(whole, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ParameterError, match="its tensors take"):
        flashir.convert(path, **options)
