"""decoder.onnx: one graph for any number of tokens, as a host without flashir sees it, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import flashir
from flashir.errors import SettingError
from flashir.generation.generate import decoder, generate, restored
from flashir.models.parameters import unit
from flashir_onnx.artefact import DECODER_FILE
from flashir_onnx.seal import Reader
from tests.decode.support import CHUNK, LENGTH, ROOM, SMALL, ZOO, extended, model, tokens, worst

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 1]]
LIMITED = "transformer++"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of each model, written once."""

    @cache
    def folder(name: str, **form: bool) -> Path:
        out, graph = tmp_path_factory.mktemp(name), model(name)
        flashir.export(graph, out, params=unit(graph), decode=True, max_len=ROOM, **form)
        return out

    return folder


def session(folder: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(folder / DECODER_FILE, options)


def zeros(host: ort.InferenceSession, rows: int) -> dict[str, Any]:
    """The states before the first token."""
    return {each.name: np.zeros([rows, *each.shape[1:]], np.float32) for each in host.get_inputs()[2:]}


def test_names_types_and_shapes(written: Callable[[str], Path]) -> None:
    host = session(written("flash"))
    ids, places, *states = [(each.name, each.type, each.shape) for each in host.get_inputs()]
    assert ids == ("input_ids", "tensor(int64)", ["batch", "sequence"])
    assert places == ("position_ids", "tensor(int64)", ["batch", "sequence"])
    logits, *after = [(each.name, each.type, each.shape) for each in host.get_outputs()]
    assert logits == ("logits", "tensor(float)", ["batch", 1, 11])
    assert after == [(f"next.{name}", *rest) for name, *rest in states]
    described = json.loads(Reader().metadata(written("flash") / DECODER_FILE)["flashir.state"])
    assert [(each["input"], each["shape"]) for each in described] == [(name, shape) for name, _, shape in states]


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("name", [*ZOO][:1] + [pytest.param(each, marks=pytest.mark.slow) for each in [*ZOO][1:]])
def test_every_state_may_be_written_where_it_stands(written: Callable[..., Path], name: str, portable: bool) -> None:
    """Bound to the memory of its input, each output is what it is in memory of its own."""
    host, graph, ids = session(written(name, portable=portable)), model(name), tokens(3, LENGTH)
    names = [*zeros(host, 3)]
    here = [ort.OrtValue.ortvalue_from_numpy(state) for state in zeros(host, 3).values()]
    binding = host.io_binding()
    for each, value in zip(names, here, strict=True):
        binding.bind_ortvalue_input(each, value)
        binding.bind_ortvalue_output(f"next.{each}", value)

    def in_place(arrays: Any, states: Any) -> tuple[Any, Any]:
        for name, array in zip(("input_ids", "position_ids"), arrays, strict=True):
            binding.bind_cpu_input(name, np.ascontiguousarray(array, np.int64))
        binding.bind_output("logits")
        host.run_with_iobinding(binding)
        return binding.get_outputs()[-1].numpy().copy(), ()

    (wanted,) = flashir.interpret(graph, unit(graph), ids)
    assert worst(wanted, extended(in_place, ids, 0, CHUNK + 2)) < 1e-4


def test_what_is_read_back_goes_on_as_the_model_does(written: Callable[[str], Path]) -> None:
    made = decoder(model("flash"), "onnx:cpu", unit(model("flash")), max_len=ROOM)
    back = restored(written("flash"))
    assert [row.tolist() for row in generate(back, PROMPTS, tokens=9)] == [
        row.tolist() for row in generate(made, PROMPTS, tokens=9)
    ]
    assert (back.limit, back.model) == (made.limit, made.model)
    assert restored(written(LIMITED)).limit == ROOM


@pytest.mark.parametrize(
    ("ids", "places", "rows", "said"),
    [
        ([[1, -1]], [[0, 1]], 1, "ids_are_0_or_more"),
        ([[1, 11]], [[0, 1]], 1, "out of data bounds"),
        ([[1, 2]], [[ROOM - 1, ROOM]], 1, f"positions_are_below_{ROOM}"),
        ([[1], [2]], [[0], [0]], 1, "as_many_rows_as_states"),
        ([[1]], [[0]], 3, "as_many_rows_as_states"),
        ([[1, 2]], [[0]], 1, "as_many_rows_as_states"),
        ([[], []], [[], []], 2, "tokens_are_1_or_more"),
        ([[1]], [[-2]], 1, "first_positions_are_-1_or_more"),
    ],
)
def test_calls_that_would_go_wrong_fail(
    written: Callable[[str], Path], ids: Any, places: Any, rows: int, said: str
) -> None:
    host = session(written(LIMITED))
    given = {"input_ids": np.array(ids, np.int64), "position_ids": np.array(places, np.int64)}
    with pytest.raises(Exception, match=said):
        host.run(None, given | zeros(host, rows))


@pytest.mark.parametrize("name", [*ZOO][:1] + [pytest.param(each, marks=pytest.mark.slow) for each in [*ZOO][1:]])
def test_each_state_must_be_one_of_this_model_and_batch(written: Callable[[str], Path], name: str) -> None:
    """Of other rows than the first, of another type or shape, or missing."""
    host = session(written(name))
    given = {"input_ids": np.array([[1, 2]]), "position_ids": np.array([[0, 1]])} | zeros(host, 1)
    host.run(None, given)
    for state, array in zeros(host, 1).items():
        for wrong in (np.repeat(array, 2, 0), array.astype(np.float64), array[..., :-1]):
            with pytest.raises(Exception, match=r"as_many_rows|Unexpected input data type|invalid dimensions"):
                host.run(None, given | {state: wrong})
        with pytest.raises(Exception, match="missing"):
            host.run(None, {key: value for key, value in given.items() if key != state})


def test_padding_may_have_any_id_and_position(written: Callable[[str], Path]) -> None:
    host = session(written(LIMITED))
    wanted = host.run(None, {"input_ids": np.array([[3, 4]]), "position_ids": np.array([[0, 1]])} | zeros(host, 1))
    padded = {"input_ids": np.array([[3, 4, -1, 2]]), "position_ids": np.array([[0, 1, -1, 10 * ROOM]])}
    for got, value in zip(host.run(None, padded | zeros(host, 1)), wanted, strict=True):
        np.testing.assert_allclose(got[..., :ROOM, :], value[..., :ROOM, :], atol=1e-5)


def test_two_parts_refuse_lengths_that_no_prompt_has(tmp_path: Path) -> None:
    graph = model("flash")
    flashir.export(graph, tmp_path, params=unit(graph), decode=True, split=True)
    host = ort.InferenceSession(tmp_path / "prefill.onnx")
    for lengths, ids, said in (
        ([0], [[1, 2]], "lengths_are_1_to_the_width_of_ids"),
        ([3], [[1, 2]], "lengths_are_1_to_the_width_of_ids"),
        ([2], [[1, -2]], "ids_are_0_or_more"),
    ):
        with pytest.raises(Exception, match=said):
            host.run(None, {"input_ids": np.array(ids), "lengths": np.array(lengths)})
    host.run(None, {"input_ids": np.array([[1, -2]]), "lengths": np.array([1])})


def test_rows_of_two_parts_go_on_together(tmp_path: Path) -> None:
    graph = model("flash")
    flashir.export(graph, tmp_path, params=unit(graph), decode=True, split=True)
    made, back = decoder(graph, params=unit(graph)), restored(tmp_path)
    state, logits = back.extend(back.start(PROMPTS)[0], [[1, 2]] * 3)
    np.testing.assert_allclose(logits, made.extend(made.start(PROMPTS)[0], [[1, 2]] * 3)[1], atol=1e-4)
    with pytest.raises(flashir.FlashirError, match="a step reads one token of every row"):
        back.extend(state, [[1], [1, 2], [3]])


def test_a_cache_without_a_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="max_len must say how many"):
        flashir.export(flashir.model(LIMITED, **SMALL, heads=2), tmp_path / "out", decode=True)
    assert not (tmp_path / "out").exists()
