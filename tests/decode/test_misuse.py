"""What is given to a decoder, to sampling and to what ends texts is checked at the door, all of it at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import FlashirError, InputError, SettingError
from flashir.generation.generate import Decoder, decoder, generate, restored
from flashir.generation.sampling import Sampling, SplitMix64
from flashir.models.parameters import unit
from flashir.train.data import Tokenizer
from flashir.train.data.spelling import Spelling, Stops
from tests.decode.support import model

HUGE = 10**400
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def short() -> Decoder:
    """Holds six tokens of a vocabulary of eleven."""
    return decoder(model("transformer++"), "torch:cpu", unit(model("transformer++")), max_len=6)


class Written:
    """Acts like a decoder: whatever it reads, it writes given tokens."""

    limit = None

    def __init__(self, *rows: list[int]) -> None:
        self.rows, self.read = rows, [list[int]() for _ in rows]

    def start(self, prompts: Any) -> tuple[Any, Any]:
        return self._logits(0)

    def extend(self, state: Any, ids: Any) -> tuple[Any, Any]:
        for row, token in zip(self.read, ids, strict=True):
            row.append(int(token))
        return self._logits(state.step)

    def _logits(self, step: int) -> tuple[Any, Any]:
        logits = np.stack([np.eye(11, dtype=np.float32)[row[step]] for row in self.rows])
        return SimpleNamespace(step=step + 1, position=np.array([1])), logits


class TestPrompts:
    @pytest.mark.parametrize(
        ("prompts", "said"),
        [
            *((given, "prompts must be a list or an array") for given in (None, 5, "ab", b"ab", {0: [1]}, {1})),
            ([], "there is no prompt"),
            (np.zeros((0, 3), int), "there is no prompt"),
            (["ab"], "prompt 0 must be a row of tokens, got 'ab'\na tokenizer makes ids of a text"),
            ([1, 2], "prompt 1 must be a row of tokens, got 2"),
            ([[[1]]], r"prompt 0 must be a row of tokens, got shape \(1, 1\)"),
            ([[1], [[1], [2, 3]]], "prompt 1 must be a row of token ids: .*several lengths"),
            (np.zeros((2, 0), int), "prompt 1 is empty\ngive each prompt at least one token"),
            *(([[given]], "prompt 0 must hold whole numbers") for given in (1.0, "a", True, None, 2**70, NAN)),
            ([[1], [1, -1, 11]], "prompt 1 has 2 token ids outside 0 .. 10, the first at 1: -1"),
            ([[11]], "prompt 0 has 1 token id outside"),
            ([np.array([2**63], np.uint64)], "prompt 0 has 1 token id outside"),
            ([[1], [1] * 7], "row 1 would have 7 tokens, this decoder can hold 6"),
        ],
    )
    def test_each_that_is_wrong_is_told(self, short: Decoder, prompts: Any, said: str) -> None:
        for read in (short.start, lambda given: generate(short, given)):
            with pytest.raises(FlashirError, match=said):
                read(prompts)

    def test_all_are_told_at_once(self, short: Decoder) -> None:
        with pytest.raises(InputError) as caught:
            short.start([[1], [], [99], "ab", [1] * 7, [-1] * 8, [[1], [2, 3]]])  # type: ignore[list-item]
        assert len(caught.value.problems) == 7
        assert "max_len" in caught.value.hint and "tokenizer" in caught.value.hint

    def test_numbers_and_prompts_are_told_at_once(self, short: Decoder) -> None:
        with pytest.raises(InputError) as caught:
            generate(short, [[], [99]], tokens=-1, seed=-1, ends=[-1])
        assert len(caught.value.problems) == 5

    def test_arrays_of_any_whole_numbers_are_rows(self, short: Decoder) -> None:
        wanted = [each.tolist() for each in generate(short, [[1, 2], [3, 4]], tokens=2)]
        for kind in (np.uint8, np.int16, np.uint64):
            assert [each.tolist() for each in generate(short, np.array([[1, 2], [3, 4]], kind), tokens=2)] == wanted


class TestNumbers:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            *(({"tokens": value}, "tokens must be") for value in (-1, None, "x", 1.5, True)),
            *(({"seed": value}, "seed must") for value in (-1, None, "x", 2**64, 1.5, True)),
            *(({"sampling": value}, "sampling must be a Sampling") for value in (5, "greedy", {})),
            *(({"ends": value}, "end") for value in (None, 5, [-1], [1.5], ["a"], [True])),
        ],
    )
    def test_of_generate(self, short: Decoder, given: dict[str, Any], said: str) -> None:
        with pytest.raises(SettingError, match=said):
            generate(short, [[1]], **given)

    @pytest.mark.parametrize(
        "given",
        [
            *({"temperature": value} for value in (None, "x", -1, NAN, INF, True, HUGE)),
            *({"top_k": value} for value in (0, -1, 1.5, "x", True)),
            *({"top_p": value} for value in (0, -1, 2, None, "x", NAN, HUGE)),
        ],
    )
    def test_of_sampling(self, given: dict[str, Any]) -> None:
        with pytest.raises(SettingError, match=f"{next(iter(given))} must"):
            Sampling(**given)

    def test_of_sampling_are_told_at_once(self) -> None:
        with pytest.raises(SettingError) as caught:
            Sampling(temperature=-1, top_k=0, top_p=2)
        assert len(caught.value.problems) == 3

    @pytest.mark.parametrize("name", ["max_len", "length"])
    @pytest.mark.parametrize("value", [0, -1, 1.5, "x", True, 10**30])
    def test_of_a_decoder(self, name: str, value: Any) -> None:
        with pytest.raises(SettingError, match=f"{name} must be"):
            decoder(model("transformer++"), "torch:cpu", **{"max_len": 6, name: value})

    @pytest.mark.parametrize(
        ("name", "value"), [("folder", None), ("folder", 5), ("folder", ""), ("target", 5), ("max_len", "x")]
    )
    def test_of_what_is_restored(self, tmp_path: Any, name: str, value: Any) -> None:
        with pytest.raises(SettingError, match=f"{name} must be"):
            restored(**{"folder": tmp_path, name: value})


class TestLogits:
    @pytest.mark.parametrize(
        "logits",
        [
            None,
            "x",
            5,
            [[1.0]],
            np.ones(3),
            np.ones((1, 1, 3)),
            np.ones((2, 0)),
            np.array([["a"]]),
            np.array([[True]]),
        ],
        ids=repr,
    )
    def test_what_is_none_is_told(self, logits: Any) -> None:
        for sampling in (Sampling(), Sampling(1.0)):
            with pytest.raises(InputError, match=r"logits must be an array of numbers \[rows, vocabulary\], got"):
                sampling.pick(logits, SplitMix64(0))

    @pytest.mark.parametrize("row", [[NAN, NAN], [NAN, 1.0], [INF, 1.0], [-INF, -INF]])
    def test_what_is_not_finite_names_its_row(self, row: list[float]) -> None:
        for sampling in (Sampling(), Sampling(1.0, top_k=1, top_p=0.5)):
            with pytest.raises(InputError, match="the logits of row 1 are not finite"):
                sampling.pick(np.array([[0.0, 1.0], row]), SplitMix64(0))

    def test_a_token_that_cannot_be_is_never_picked(self) -> None:
        logits = np.array([[-INF, 1.0, -INF]], np.float16)
        assert Sampling(5.0).pick(logits, SplitMix64(0)).tolist() == [1]

    def test_what_is_drawn_by_is_told(self) -> None:
        with pytest.raises(InputError, match="random must be a SplitMix64"):
            Sampling(1.0).pick(np.ones((1, 2)), None)  # type: ignore[arg-type]


class TestModels:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("model @m(%x: f32[T, 4]) -> f32[T, 4] { %y = silu(%x) return %y }", r"it takes \(x: f32\[T, 4\]\)"),
            ("model @m(%x: i32[B, T]) -> i32[B, T] { return %x }", "wanted a row for each token"),
        ],
    )
    def test_what_continues_no_text_is_told(self, text: str, said: str) -> None:
        with pytest.raises(SettingError, match=said):
            decoder(flashir.loads(text))

    def test_what_sees_both_ways_is_told(self) -> None:
        with pytest.raises(SettingError, match="flash is not causal: a token attends to later ones"):
            decoder(flashir.model("flash", size="tiny", task="mlm"))


class TestEnds:
    def test_strings(self) -> None:
        for strings in (None, 5, "abc", [5], ["a", None], [b"a"]):
            with pytest.raises(SettingError, match="strings"):
                Stops(strings)  # type: ignore[arg-type]
        with pytest.raises(SettingError, match="cannot be empty"):
            Stops(["a", ""])
        long = Stops(["a" * 10**6])
        assert "".join(long.add("a" * 1000) for _ in range(20)) + long.end() == "a" * 20_000

    @pytest.mark.parametrize("token", [None, "x", 1.5])
    def test_tokens_are_whole_numbers(self, token: Any) -> None:
        with pytest.raises(InputError, match="a token must be a whole number"):
            Spelling(Tokenizer.bytes()).add(token)

    def test_a_row_that_has_ended_stays_so(self) -> None:
        made = Written([1, 2, 3, 4, 5], [6, 7, 8, 2, 9])
        rows = np.stack([*generate(made, [[1], [1]], tokens=5, ends=[2, 9])], axis=1)
        assert rows.tolist() == [[1, 2, 2, 2], [6, 7, 8, 2]]
        assert made.read == [[1, 2, 2], [6, 7, 8]]

    def test_without_an_end_nothing_ends(self) -> None:
        rows = np.stack([*generate(Written([1, 2, 3]), [[1]], tokens=3)], axis=1)
        assert rows.tolist() == [[1, 2, 3]]
        assert [row.tolist() for row in generate(Written([1, 2, 3]), [[1]], tokens=3, ends=[1])] == [[1]]
