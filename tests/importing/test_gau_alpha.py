"""GAUAlphaForMaskedLM of GAU-alpha, as a model of flashir."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import flashir
from flashir.errors import ParameterError, SettingError
from flashir.reference.compare import relative_error
from tests.cover import grid
from tests.importing.support import drawn, structure

FAMILY, NAME = "gau-alpha", "GAUAlphaForMaskedLM"
SIZES: dict[str, Any] = {
    "vocab_size": 11, "type_vocab_size": 2, "hidden_size": 16, "intermediate_size": 24, "attention_key_size": 6,
    "num_hidden_layers": 2, "use_bias": True,
}  # fmt: skip


@grid(together=1, normalization=("softmax", "squared_relu", "softmax_plus"), scale=(True, False))
def test_a_model_is_what_it_was(normalization: str, scale: bool) -> None:
    state = drawn(FAMILY, NAME, SIZES | {"use_bias": scale})
    made = flashir.convert(state, normalization=normalization, attention_scale=scale)
    kind, settings = structure(FAMILY, NAME), dict(made.options)
    run = flashir.compile(made.model, target="onnx:cpu", params=made.params)
    for length in kind.lengths(settings):
        (ids,) = kind.inputs(settings, 2, length, np.random.default_rng(length))
        assert relative_error(run(ids), kind.reference(state, settings)(ids)) <= 2e-5


def test_padding_is_seen_by_nothing() -> None:
    state = drawn(FAMILY, NAME, SIZES)
    made = flashir.convert(state, normalization="softmax_plus", pad_token_id=3)
    text = np.array([[1, 2, 5, 4, 10]])
    padded = np.array([[1, 2, 5, 4, 10, 3, 3, 3], [3, 1, 3, 2, 2, 2, 2, 2]])
    alone, together = (flashir.interpret(made.model, made.params, ids)[0] for ids in (text, padded))
    np.testing.assert_allclose(together[:1, :5], alone, atol=1e-12)
    wanted = structure(FAMILY, NAME).reference(state, dict(made.options))(padded)
    real = padded != 3
    np.testing.assert_allclose(together[real], wanted[real], rtol=1e-6)


def test_its_config_says_the_options(tmp_path: Path) -> None:
    save_file(drawn(FAMILY, NAME, SIZES), tmp_path / "model.safetensors")
    with pytest.raises(SettingError, match="shapes do not determine normalization"):
        flashir.convert(tmp_path)
    said = {"normalization": "squared_relu", "attention_scale": False, "hidden_act": "swish", "pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(said))
    made = flashir.convert(tmp_path)
    assert said.items() <= made.options.items()
    (tmp_path / "config.json").write_text(json.dumps({**said, "hidden_act": "gelu", "pad_token_id": 99}))
    with pytest.raises(ParameterError) as caught:
        flashir.convert(tmp_path)
    assert "hidden_act must be swish, got 'gelu'" in caught.value.message
    assert "pad_token_id must be less than 11, got 99" in caught.value.message
