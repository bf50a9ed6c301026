"""The decoder and the loop that picks tokens, further prompts, and what they refuse."""

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
    state, logits = flash.start(ids[:, :4])
    np.testing.assert_allclose(logits, wanted[:, 3], atol=1e-3)
    state, logits = flash.extend(state, ids[:, 4])
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
        flash.start(prompts)


def test_bad_extensions_are_refused(flash: Decoder) -> None:
    state, _ = flash.start(PROMPTS)
    other, _ = decoder(model("flash"), "torch:cpu").start(PROMPTS)
    for ids, given, said in (
        ([1, 2], state, "the state has 3 rows, got tokens for 2"),
        ([[1], [], [3]], state, "prompt 1 is empty"),
        (np.zeros((3, 0), int), state, "prompt 0 is empty"),
        ([[1], "ab", [3]], state, "prompt 1 must be a row of token"),
        (5, state, "ids must be rows of tokens"),
        (None, state, "ids"),
        ([1.5, 1, 1], state, "prompt 0 must be a row of tokens, got 1.5"),
        ([[1.5], [1], [1]], state, "whole numbers"),
        ([1, 2, 11], state, "outside 0 .. 10"),
        ([1, 2, 3], other, "another decoder"),
    ):
        with pytest.raises(InputError, match=said):
            flash.extend(given, ids)
    flash.extend(state, [1, 2, 3])
    with pytest.raises(InputError, match="was used before"):
        flash.extend(state, [1, 2, 3])


def test_what_is_learned_or_held_limits_the_length() -> None:
    short = flashir.model("transformer", **SMALL, heads=2, max_len=6)
    assert decoder(short, "torch:cpu", max_len=ROOM).limit == 6
    made = decoder(short, "torch:cpu", max_len=4)
    assert made.limit == 4
    with pytest.raises(InputError, match="row 1 would have 5 tokens, this decoder can hold 4"):
        made.start([[1], [1, 2, 3, 4, 5]])
    state, _ = made.start([[1, 2, 3, 4]])
    with pytest.raises(InputError, match="5 tokens"):
        made.extend(state, [1])
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
        made.start([[1], [2]])


TURNS = ([[1, 2, 3], [4], [5, 6]], [[7, 8], [9, 10, 1, 2, 3, 4, 5, 6], [1]])


@pytest.mark.slow_where(target="jax:cpu")
@in_turn(name=("flash", "transformer++", "combiner"), target=("onnx:cpu", "torch:cpu", "jax:cpu"))
def test_further_prompts_continue_the_texts_as_if_they_had_been_one(name: str, target: str) -> None:
    made = decoder(model(name), target, unit(model(name)), max_len=ROOM, piece=3)
    whole = [list[int]() for _ in TURNS[0]]
    texts = None
    for prompts in TURNS:
        texts = generate(made, prompts, tokens=5) if texts is None else texts.then(prompts, tokens=5)
        found = np.stack(list(texts), axis=1)
        for text, prompt, new in zip(whole, prompts, found.tolist(), strict=True):
            text += prompt
            assert new == greedy(name, text, 5)
            text += new


def test_texts_that_ended_apart_have_no_further_prompts_together(flash: Decoder) -> None:
    first = [int(np.stack([*generate(flash, [prompt], tokens=1)])[0, 0]) for prompt in PROMPTS]
    texts = generate(flash, PROMPTS, tokens=1, ends=first[:1])
    assert len(list(texts)) == 1 and len(set(first)) > 1
    with pytest.raises(InputError, match="ended at different places"):
        texts.then(PROMPTS)
    with pytest.raises(InputError, match="got tokens for 1"):
        generate(flash, PROMPTS, tokens=0).then([[1]])
    with pytest.raises(InputError, match="prompt 1 is empty"):
        generate(flash, PROMPTS, tokens=0).then([[1], [], [2]])


def test_long_prompts_are_read_in_pieces(flash: Decoder) -> None:
    in_pieces = decoder(model("flash"), "torch:cpu", unit(model("flash")), piece=2)
    for prompts in (PROMPTS, [[1] * 6, [2] * 6]):
        np.testing.assert_allclose(in_pieces.start(prompts)[1], flash.start(prompts)[1], atol=1e-4)
    with pytest.raises(SettingError, match="piece must be at least 1, got 0"):
        decoder(model("flash"), piece=0)


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
