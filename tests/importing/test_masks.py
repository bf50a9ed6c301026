"""Imported models that take a padding mask: nothing sees padding, and a text is what the package makes of it alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import InputError, SettingError
from flashir.reference.compare import relative_error
from tests.importing.support import FLASH, OPTIONS, UNIT, drawn, flash_transformer
from tests.importing.test_gau_alpha import SIZES
from tests.importing.test_packages import experiment, need

BOTH_WAYS = {**OPTIONS, "causal": False}
ALPHA = drawn("gau-alpha", "GAUAlphaForMaskedLM", SIZES)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "FLASHTransformer": (flash_transformer(), BOTH_WAYS),
    "FLASHTransformer, causal": (flash_transformer(), {**OPTIONS, "shift_tokens": False}),
    "FLASH": (drawn("flash-pytorch", "FLASH", FLASH), {**BOTH_WAYS, "reduce_group_non_causal_attn": False}),
    "GAU": (drawn("flash-pytorch", "GAU", UNIT), {"causal": False, "laplace_attn_fn": True}),
    "GAU-alpha, squared relu": (ALPHA, {"normalization": "squared_relu"}),
    "GAU-alpha, softmax plus": (ALPHA, {"normalization": "softmax_plus", "pad_token_id": 3}),
}
LENGTHS = (12, 5, 1)
MASK = np.arange(12) < np.array(LENGTHS)[:, None]


@pytest.mark.parametrize("name", MODELS)
def test_a_text_with_padding_is_what_it_is_alone(name: str) -> None:
    """Padded with anything; an import is compared with the package, or its reference, text by text before that."""
    state, options = MODELS[name]
    plain, masked = (flashir.convert(state, **options, mask=mask) for mask in (False, True))
    assert "verified in float64" in masked.notes[-1]
    random = np.random.default_rng(0)
    features = random.standard_normal((3, 12, 16)).astype(np.float32)
    x = random.integers(4, 11, (3, 12)) if plain.model.inputs[0].type.rank == 2 else features
    run = flashir.compile(masked.model, "onnx:cpu", masked.params)
    found, (wanted,) = run(x, mask=MASK), flashir.interpret(masked.model, masked.params, x, MASK)
    for row, length in enumerate(LENGTHS):
        (alone,) = flashir.interpret(plain.model, plain.params, x[row : row + 1, :length])
        assert relative_error(wanted[row, :length], alone[0]) <= 1e-12
        assert relative_error(found[row, :length], alone[0]) <= 2e-5
    other = x.copy()
    other[~MASK] = other[0, 0]
    np.testing.assert_array_equal(run(other, mask=MASK)[MASK], found[MASK])


def test_a_mask_is_an_option_of_models_that_can_have_one() -> None:
    with pytest.raises(SettingError, match="mask must be"):
        flashir.convert(flash_transformer(), **OPTIONS, mask="yes")
    made = flashir.convert(flash_transformer(), **OPTIONS, mask=True, verify="off")
    run = flashir.compile(made.model, "torch:cpu", made.params)
    with pytest.raises(InputError, match="mask must hold true or false"):
        run(np.zeros((1, 6), np.int64), mask=np.ones((1, 6)))
    with pytest.raises(InputError, match="the input 'mask' is missing"):
        run(np.zeros((1, 6), np.int64))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["flash-pytorch", "gau-alpha"])
def test_a_random_model_with_padding_is_what_the_package_makes_of_each_text(family: str) -> None:
    need({"flash-pytorch": "flash_pytorch", "gau-alpha": "gau_alpha"}[family])
    for seed in range(4):
        found = experiment("agreement").agreement(family, seed, ("onnx:cpu", "torch:cpu"), mask=True)
        assert max(found.values()) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_mask_of_the_package_gives_the_same_where_no_divisor_counts_padding(seed: int) -> None:
    """A causal FLASHTransformer divides by the group; what is not causal divides by the length of the padded row."""
    need("flash_pytorch")
    import torch
    from flash_pytorch import FLASHTransformer

    sizes = {"num_tokens": 11, "dim": 16, "depth": 2, "group_size": 5, "query_key_dim": 8}
    module = experiment("draw").randomised(FLASHTransformer(**sizes, causal=True, laplace_attn_fn=seed == 1), seed)
    made = flashir.convert(module, mask=True)
    ids = np.random.default_rng(seed).integers(0, 11, (3, 12))
    run = flashir.compile(made.model, "onnx:cpu", made.params)
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids), mask=torch.from_numpy(MASK)).numpy()
    assert relative_error(run(ids, mask=MASK)[MASK], wanted[MASK]) <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("normalization", ["softmax", "squared_relu", "softmax_plus"])
def test_the_attention_mask_of_gau_alpha_gives_the_same(normalization: str) -> None:
    """Wherever the padding is: it counts tokens alone. Only a row of one token sees padding by it with softmax_plus."""
    need("gau_alpha")
    import gau_alpha
    import torch

    sizes = {"vocab_size": 11, "hidden_size": 16, "intermediate_size": 24, "attention_key_size": 6}
    config = gau_alpha.GAUAlphaConfig(**sizes, num_hidden_layers=2, use_bias=True, normalization=normalization)
    module = experiment("draw").randomised(gau_alpha.GAUAlphaForMaskedLM(config), 0)
    made = flashir.convert(module, mask=True)
    random = np.random.default_rng(0)
    ids, mask = random.integers(0, 11, (3, 12)), random.random((3, 12)) < 0.6
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    run = flashir.compile(made.model, "onnx:cpu", made.params)
    assert relative_error(run(ids, mask=mask)[mask], wanted[mask]) <= 2e-5
