"""Whether a model divides by the length of a sequence is read off its decomposition."""

from __future__ import annotations

from typing import Any

import pytest

import flashir
from flashir.errors import SettingError
from flashir.transforms.whole_length import divides_by_length, of_length

DIVIDING: list[tuple[str, dict[str, Any]]] = [
    ("flash-quad", {}),
    ("flash-quad", {"qk_scale": "log_length"}),
    ("flash-quad", {"qk_scale": "root_length"}),
]
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("flash-quad", {"qk_scale": "sqrt_key"}),
    ("flash", {}),
    ("transformer++", {}),
    ("transformer++", {"attention": "relu2"}),
    ("combiner", {}),
]


@pytest.mark.parametrize(("system", "settings"), DIVIDING)
def test_models_that_divide_by_the_length_decode_if_they_are_told_it(system: str, settings: dict[str, Any]) -> None:
    model = flashir.model(system, size="tiny", **settings)
    assert divides_by_length(model)
    assert not divides_by_length(of_length(model, 64))
    flashir.decoding(model, max_len=64, length=64)
    with pytest.raises(SettingError, match="divides by the sequence length"):
        flashir.decoding(model, max_len=64)


@pytest.mark.parametrize(("system", "settings"), OTHERS)
def test_other_models_cannot_be_told_it(system: str, settings: dict[str, Any]) -> None:
    assert not divides_by_length(flashir.model(system, size="tiny", **settings))


def test_a_layer_that_divides_and_cannot_be_told_the_length_says_so() -> None:
    with pytest.raises(SettingError, match="divides by the sequence length: use another attention"):
        flashir.decoding(flashir.model("transformer++", size="tiny", attention="relu2"), max_len=64, length=64)
