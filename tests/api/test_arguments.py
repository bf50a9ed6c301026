"""What a public function is given is held against its annotations, all of it at once, before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import flashir
from flashir.arguments import typed
from flashir.errors import ArgumentError, FlashirError
from flashir.ir import Graph

FUNCTIONS = [name for name in flashir.__all__ if inspect.isfunction(getattr(flashir, name))]


@typed
def door(
    model: Graph | None = None,
    count: int | None = None,
    share: float = 0.0,
    flag: bool = False,
    name: str = "",
    place: Path | None = None,
    either: str | Path = "",
    given: dict[str, int] | None = None,
    whatever: Any = None,
) -> tuple[Any, ...]:
    return model, count, share, flag, name, place, either, given, whatever


@typed
def listed(numbers: Iterable[int], words: Sequence[str] = ()) -> tuple[Any, ...]:
    return numbers, words


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_has_a_door(name: str) -> None:
    """One that passes settings on cannot know their names; what is missing it knows."""
    function = getattr(flashir, name)
    parameters = inspect.signature(function).parameters.values()
    passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
    needed = {p.name: None for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    given, said = ({}, "missing") if passes_on else ({**needed, "nosuch": 1}, "there is no argument 'nosuch'")
    with pytest.raises(ArgumentError, match=f"{name}: .*{said}") as refused:
        function(**given)
    assert isinstance(refused.value, FlashirError) and isinstance(refused.value, TypeError)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "flash"}, "model must be a graph, as flashir.model and flashir.load give it, got 'flash'"),
        ({"count": 1.5}, "count must be a whole number, got 1.5"),
        ({"count": True}, "got True"),
        ({"count": np.bool_(True)}, "count must be"),
        ({"count": "3"}, "got '3'"),
        ({"share": "x"}, "share must be a number, got 'x'"),
        ({"share": 1j}, "got complex 1j"),
        ({"flag": 1}, "flag must be true or false, got 1"),
        ({"name": b"x"}, "name must be a string, got b'x'"),
        ({"name": None}, "got None"),
        ({"place": 3}, "place must be a path, got"),
        ({"place": "a\0b"}, "place must be a path"),
        ({"place": "a\ud800b"}, "place must be a path"),
        ({"place": ""}, "place must be a path"),
        ({"given": [1]}, "given must be"),
        ({"count": object()}, "got object <object"),
        ({"count": "x" * 1000}, r"got 'x{59} \.\.$"),
    ],
)
def test_another_type_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        door(**given)


@pytest.mark.parametrize("numbers", [5, "12", [1.5], [[1]], [True], np.array(3), np.array([[1]]), np.array([np.nan])])
def test_a_list_of_numbers_holds_nothing_else(numbers: Any) -> None:
    with pytest.raises(ArgumentError, match="numbers must be a list of whole numbers, got"):
        listed(numbers)


def test_lists_of_plain_items_become_plain() -> None:
    assert listed(np.array([1, 2]), ["a"]) == ((1, 2), ("a",))
    assert listed(iter([3])) == ((3,), ())


def test_all_problems_at_once() -> None:
    with pytest.raises(ArgumentError, match="door: 3 problems") as refused:
        door(3, "x", "y")  # type: ignore[arg-type]
    assert len(refused.value.problems) == 3


def test_what_fits_becomes_plain() -> None:
    got = door(None, np.int32(3), np.float32(0.5), np.bool_(True), "n", "p", Path("q"), {"a": 1}, object)  # type: ignore[arg-type]
    assert got == (None, 3, 0.5, True, "n", Path("p"), Path("q"), {"a": 1}, object)
    assert [type(each) for each in got[1:4]] == [int, float, bool]


def test_a_value_that_cannot_be_shown_is_refused_all_the_same() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(ArgumentError, match="a value without a repr"):
        door(count=Silent())  # type: ignore[arg-type]


def test_fields_are_checked_and_plain_too() -> None:
    with pytest.raises(ArgumentError, match="Sampling: 2 problems") as refused:
        flashir.Sampling(temperature="hot", top_k=[3])  # type: ignore[arg-type]
    assert refused.value.problems == (
        "temperature must be a number, got 'hot'",
        "top_k must be a whole number, got [3]",
    )
    assert type(flashir.Sampling(top_k=np.int64(3)).top_k) is int  # type: ignore[arg-type]


def test_what_the_machine_refuses_is_an_error_of_flashir() -> None:
    @typed
    def full(error: Any) -> None:
        raise error

    with pytest.raises(FlashirError, match=r"^x: cannot use it: File name too long"):
        full(OSError(36, "File name too long", "x"))
    with pytest.raises(FlashirError, match="not enough memory"):
        full(MemoryError())
    with pytest.raises(BrokenPipeError):
        full(BrokenPipeError())


def test_arguments_of_a_decoder_and_of_a_run() -> None:
    model = flashir.model("flash", d_model=8, depth=1, key_dim=4, vocab=7, chunk=4, cumsum="native")
    made, run = flashir.decoder(model), flashir.compile(model)
    for prompts, said in ((3, "a list"), ("ab", "a list"), ([["a"]], "whole numbers"), ([[1.5]], "whole numbers")):
        with pytest.raises(FlashirError, match=said):
            made.start(prompts)  # type: ignore[arg-type]
    state, _ = made.start([[1]])
    for ids, given in ((object(), state), ([[1], [2, 3]], state), ([1], "state"), (None, state)):
        with pytest.raises(FlashirError):
            made.extend(given, ids)  # type: ignore[arg-type]
    for ids in (None, "x", object(), [[1], [2, 3]], np.ma.masked_array([[1, 2]], [[False, True]])):
        with pytest.raises(FlashirError):
            run(ids)


@pytest.mark.parametrize("value", [np.array([1, 2]), [1], {}, object(), b"x"])
def test_a_setting_of_no_kind_is_refused(value: Any) -> None:
    with pytest.raises(FlashirError, match="tied cannot be"):
        flashir.model("flash", size="tiny", tied=value)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda: flashir.TensorType("f32", (1,)), "element type must be a DType"),
        (lambda: flashir.TensorType(flashir.DType.F32, 3), "shape must be a tuple"),
        (lambda: flashir.TensorType(flashir.DType.F32, (1.5,)), "size must be a whole number"),
        (lambda: flashir.TensorType(flashir.DType.F32, (True,)), "size must be a whole number"),
        (lambda: flashir.Builder(3), "Builder: name must be a string"),
        (lambda: flashir.Builder().input(None, "f32[2]"), "Builder.input: name must be a string"),
        (lambda: flashir.Builder().input("x", 3), "type_ must be"),
        (lambda: flashir.Builder().finish("x"), "Builder.finish: outputs must be each Value"),
        (lambda: flashir.Builder().insert(3, ()), "the name of an op must be a string"),
        (lambda: flashir.Builder().insert("relu", 3), "a list of operands"),
        (lambda: flashir.Builder().insert("relu", (1,), "x"), "a mapping of attributes"),
        (lambda: flashir.Builder().insert("relu", ("x",)), "operand 0 of relu must be a value of this builder"),
    ],
)
def test_what_builds_graphs_refuses_other_types(use: Any, said: str) -> None:
    with pytest.raises(FlashirError, match=said):
        use()


def test_one_of_some_words_is_a_string() -> None:
    @typed
    def chosen(word: Literal["a", "b"] = "a") -> str:
        return word

    assert chosen("c") == "c"
    with pytest.raises(ArgumentError, match="word must be a string, got ndarray"):
        chosen(np.array([1, 2]))


@pytest.mark.parametrize("verb", [flashir.compile, flashir.export, flashir.decoder], ids=lambda verb: verb.__name__)
@pytest.mark.parametrize("name", ["batch", "seq_len", "policy", "dtype", "chunk", "cumsum"])
@pytest.mark.parametrize("value", [np.array([]), [1], {}, b"x", object(), float("nan")], ids=lambda v: type(v).__name__)
def test_settings_of_a_plan_are_refused_by_every_verb_that_plans(
    verb: Any, name: str, value: Any, tmp_path: Path
) -> None:
    model = flashir.model("flash", size="tiny", chunk=16)
    to = {"out": tmp_path} if verb is flashir.export else {}
    with pytest.raises(FlashirError, match=name):
        verb(model, params=flashir.init(model), rechunk=True, **to, **{name: value})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["training", "measured", "portable", "nosuch"])
def test_arguments_of_plan_alone_are_not_choices(name: str) -> None:
    with pytest.raises(FlashirError, match=f"there is no argument or choice '{name}'"):
        flashir.compile(flashir.model("flash", size="tiny", chunk=16), **{name: True})
