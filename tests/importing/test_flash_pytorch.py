"""FLASHTransformer, FLASH and GAU of FLASH-pytorch, as models of flashir."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir.reference.compare import relative_error
from tests.cover import grid
from tests.importing.support import FLASH, OPTIONS, UNIT, VOCAB, drawn, flash_transformer, structure

FAMILY = "flash-pytorch"
TARGETS = ("onnx:cpu", "torch:cpu", "jax:cpu")


def agree(name: str, state: dict[str, Any], options: dict[str, Any], targets: tuple[str, ...], limit: float) -> None:
    """The imported model on those targets, against the numpy reference."""
    made = flashir.convert(state, **options)
    kind = structure(FAMILY, name)
    forward = kind.reference(state, dict(made.options))
    runs = [flashir.compile(made.model, target=target, params=made.params) for target in targets]
    for length in kind.lengths(dict(made.options)):
        inputs = kind.inputs(dict(made.options), 2, length, np.random.default_rng(length))
        for run in runs:
            assert relative_error(run(*inputs), forward(*inputs)) <= limit


@grid(causal=(True, False), laplace=(True, False), norm=("scale_norm", "layer_norm"))
def test_a_transformer_is_what_it_was(causal: bool, laplace: bool, norm: str) -> None:
    options = {
        "causal": causal,
        "group_size": 5,
        "laplace_attn_fn": laplace,
        "shift_tokens": laplace == causal,
        "reduce_group_non_causal_attn": norm == "scale_norm",
    }
    state = flash_transformer(norm=norm, expanded=17 if laplace else 32)
    agree("FLASHTransformer", state, options, ("onnx:cpu",), 2e-5)


@pytest.mark.slow_where(target="jax:cpu")
@pytest.mark.parametrize("target", TARGETS[1:])
def test_a_transformer_is_what_it_was_on_every_backend(target: str) -> None:
    agree("FLASHTransformer", flash_transformer(), {**OPTIONS, "causal": False}, (target,), 2e-5)


@pytest.mark.parametrize("rope", [0, 6])
@pytest.mark.parametrize("causal", [True, False])
def test_a_layer_by_itself_is_what_it_was(causal: bool, rope: int) -> None:
    state = drawn(FAMILY, "FLASH", {**FLASH, "rope_dims": rope, "query_key_dim": 7})
    agree("FLASH", state, {**OPTIONS, "causal": causal, "shift_tokens": not causal}, ("onnx:cpu",), 2e-5)


@grid(causal=(True, False), laplace=(True, False), residual=(True, False))
def test_a_gau_by_itself_is_what_it_was(causal: bool, laplace: bool, residual: bool) -> None:
    state = drawn(FAMILY, "GAU", UNIT | {"norm": "layer_norm" if laplace else "scale_norm"})
    options = {"causal": causal, "laplace_attn_fn": laplace, "add_residual": residual}
    agree("GAU", state, options, ("onnx:cpu",), 2e-5)


def test_steps_go_on_as_the_whole_does() -> None:
    """Across the borders of groups, the head with its bias."""
    made = flashir.convert(flash_transformer(), **OPTIONS)
    decoder = flashir.decoder(made.model, target="onnx:cpu", params=made.params)
    ids = [1, 2, 3]
    greedy = flashir.generate(decoder, [ids], tokens=20, sampling=flashir.Sampling(0.0))
    told = [int(tokens[0]) for tokens in greedy]
    for token in told:
        logits = flashir.interpret(made.model, made.params, np.array([ids]))[0]
        assert int(logits[0, -1].argmax()) == token
        ids.append(token)
    assert max(told) < VOCAB
