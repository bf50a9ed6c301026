"""The decoder and the loop that picks tokens, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import InputError, SettingError
from flashir.generation.generate import Decoder, decoder, generate, restored
from flashir.generation.sampling import Sampling
from flashir.models.parameters import unit
from tests.cover import in_turn
from tests.decode.support import LENGTH, ROOM, SMALL, model, tokens

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 1]]


@pytest.fixture(scope="module")
def flash() -> Decoder:
    return decoder(model("flash"), "torch:cpu", unit(model("flash")))


def greedy(name: str, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens by the whole forward, again and again."""
    graph, ids = model(name), list(prompt)
    for _ in range(count):
        logits = flashir.interpret(graph, unit(graph), np.array([ids]))[0]
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


@in_turn(name=("flash", "transformer++", "performer"), target=("onnx:cpu", "torch:cpu"))
def test_a_batch_of_prompts_is_continued_as_each_alone(name: str, target: str) -> None:
    made = decoder(model(name), target, unit(model(name)), max_len=ROOM)
    found = np.stack(list(generate(made, PROMPTS, tokens=9)), axis=1)
    assert found.tolist() == [greedy(name, prompt, 9) for prompt in PROMPTS]


def test_logits_are_those_of_the_whole(flash: Decoder) -> None:
    ids = tokens(2, LENGTH)
    wanted = flashir.interpret(model("flash"), unit(model("flash")), ids)[0]
    logits, state = flash.prefill(ids[:, :4])
    np.testing.assert_allclose(logits, wanted[:, 3], atol=1e-3)
    logits, state = flash.step(ids[:, 4], state)
    np.testing.assert_allclose(logits, wanted[:, 4], atol=1e-3)
    assert state.position.tolist() == [5, 5]


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "there is no prompt"),
        ([[1], []], "prompt 1 is empty"),
        ([[[1]]], "prompt 0 must be a row of tokens"),
        ([[1, 11]], "outside 0 .. 10"),
        ([[1, -1]], "outside 0 .. 10"),
        ([np.array([1], np.uint8), [257]], "outside 0 .. 10"),
        ([[1], [1.5]], "must hold whole numbers"),
        ([[0.5]], "whole numbers"),
    ],
)
def test_bad_prompts_are_refused(flash: Decoder, prompts: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        flash.prefill(prompts)


def test_bad_steps_are_refused(flash: Decoder) -> None:
    _, state = flash.prefill(PROMPTS)
    _, other = decoder(model("flash"), "torch:cpu").prefill(PROMPTS)
    for ids, given, said in (
        ([1, 2], state, r"3 rows takes .* got shape \(2,\)"),
        ([[1], [2], [3]], state, r"got shape \(3, 1\)"),
        ([[], [], []], state, "got shape"),
        ([1, 2, 11], state, "outside 0 .. 10"),
        ([1, 2, 3], other, "another decoder"),
    ):
        with pytest.raises(InputError, match=said):
            flash.step(ids, given)
    flash.step([1, 2, 3], state)
    with pytest.raises(InputError, match="was used before"):
        flash.step([1, 2, 3], state)


def test_what_is_learned_or_held_limits_the_length() -> None:
    short = flashir.model("transformer", **SMALL, heads=2, max_len=6)
    assert decoder(short, "torch:cpu", max_len=ROOM).limit == 6
    made = decoder(short, "torch:cpu", max_len=4)
    assert made.limit == 4
    with pytest.raises(InputError, match="row 1 would have 5 tokens, this decoder can hold 4"):
        made.prefill([[1], [1, 2, 3, 4, 5]])
    _, state = made.prefill([[1, 2, 3, 4]])
    with pytest.raises(InputError, match="5 tokens"):
        made.step([1], state)
    assert len(list(generate(made, [[1, 2]], tokens=9))) == 3


@pytest.mark.slow_where(target="jax:cpu")
@pytest.mark.parametrize("target", ["onnx:cpu", pytest.param("torch:cpu", marks=pytest.mark.slow), "jax:cpu"])
def test_an_export_of_the_model_alone_is_continued(target: str, tmp_path: Path) -> None:
    graph = model("flash")
    flashir.export(graph, tmp_path, target, params := unit(graph))
    found = np.stack([*generate(restored(tmp_path, target), PROMPTS, tokens=6)])
    assert found.tolist() == np.stack([*generate(decoder(graph, target, params), PROMPTS, tokens=6)]).tolist()


def test_what_is_kept_must_fit_the_memory() -> None:
    graph = model("transformer++")
    with pytest.raises(SettingError, match=r"the state of a sequence takes .* GiB.*\nchoose a smaller max_len"):
        decoder(graph, "torch:cpu", max_len=2**31)
    made = decoder(graph, "torch:cpu", max_len=4)
    assert made.rows is not None
    made.rows = 1
    with pytest.raises(InputError, match="there are 2 prompts, and memory for the state of 1"):
        made.prefill([[1], [2]])


def test_flash_has_no_limit(flash: Decoder) -> None:
    assert flash.limit is None


def test_a_seed_gives_the_same_tokens(flash: Decoder) -> None:
    def run(seed: int) -> list[list[int]]:
        found = generate(flash, PROMPTS, tokens=8, sampling=Sampling(2.0), seed=seed)
        return [each.tolist() for each in found]

    assert run(1) == run(1) != run(2)


def test_arguments_are_checked_by_the_call(flash: Decoder) -> None:
    assert list(generate(flash, PROMPTS, tokens=0)) == []
    with pytest.raises(SettingError, match="tokens must be at least 0, got -1"):
        generate(flash, PROMPTS, tokens=-1)
    with pytest.raises(SettingError, match=r"tokens must be a whole number, got 1\.5"):
        generate(flash, PROMPTS, tokens=1.5)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"seed must be a whole number, got 1\.5"):
        generate(flash, PROMPTS, seed=1.5)  # type: ignore[arg-type]
    for seed in (-1, 2**64):
        with pytest.raises(SettingError, match="seed must lie"):
            generate(flash, PROMPTS, seed=seed)
    with pytest.raises(SettingError, match=r"top_k must be a whole number, got 2\.5"):
        Sampling(top_k=2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="prompt 0 is empty"):
        generate(flash, [[]])
