"""ONNX Runtime GenAI, the package as it is, runs what `export --for genai` writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import SettingError, TargetError
from flashir.generation.generate import restored
from flashir.models.parameters import unit
from flashir_onnx.genai import layout, slots
from tests.hosts.support import END, MODELS, ROOM, SMALL, TURNS, greedy, model, prompt


def export(out: Path, name: str, **more: Any) -> Path:
    graph = model(name)
    flashir.export(graph, out, params=unit(graph, 1), host="genai", ends=[END], max_len=ROOM, **more)
    return out


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("genai") / "flash", "flash")


def generator(folder: Path, rows: int = 1) -> Any:
    genai = pytest.importorskip("onnxruntime_genai")
    loaded = genai.Model(str(folder))
    params = genai.GeneratorParams(loaded)
    params.set_search_options(max_length=ROOM, batch_size=rows)
    return genai.Generator(loaded, params)


def continued(made: Any, tokens: int, rows: int = 1) -> list[list[int]]:
    """The next tokens of each row, or fewer at the end of a text."""
    found: list[list[int]] = [[] for _ in range(rows)]
    while len(found[0]) < tokens and not made.is_done():
        made.generate_next_token()
        for row, token in zip(found, made.get_next_tokens(), strict=True):
            row.append(int(token))
    return found


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "flash")) for name in MODELS])
def test_greedy_tokens_are_those_of_generate_over_several_turns(name: str, tmp_path: Path) -> None:
    folder = export(tmp_path, name)
    made, wanted = generator(folder), greedy(restored(folder))
    for turn, length in enumerate(TURNS):
        if turn:
            made.get_logits()  # reads the last token, which an append would drop
        made.append_tokens(np.array(prompt(length, turn), np.int32))
        (found,) = continued(made, len(wanted[turn]))
        assert found == wanted[turn][: len(found)] and len(found) > 1, turn
        if len(found) < len(wanted[turn]):
            assert found[-1] == END
            return


def test_rows_of_a_batch_are_padded_on_the_right(flash: Path) -> None:
    made, rows = generator(flash, 2), [prompt(30), prompt(77)]
    ids = np.full((2, 77), -1, np.int32)
    for row, padded in zip(rows, ids, strict=True):
        padded[: len(row)] = row
    made.append_tokens(ids)
    wanted = np.stack([*flashir.generate(restored(flash), rows, tokens=20)], axis=1).tolist()
    for found, row in zip(continued(made, 20, 2), wanted, strict=True):
        end = row.index(END) + 1 if END in row else len(row)
        assert found[:end] == row[: len(found)][:end]


def test_a_prompt_longer_than_a_piece(flash: Path) -> None:
    made, text = generator(flash), prompt(300)
    made.append_tokens(np.array(text, np.int32))
    wanted = [int(row[0]) for row in flashir.generate(restored(flash), [text], tokens=9, ends=[END])]
    assert continued(made, 9) == [wanted]


def test_the_config_says_what_the_model_holds(flash: Path, tmp_path: Path) -> None:
    config = json.loads((flash / "genai_config.json").read_text())
    assert config["model"]["context_length"] == config["search"]["max_length"] == ROOM
    assert (config["model"]["eos_token_id"], config["model"]["vocab_size"]) == (END, SMALL["vocab"])
    flashir.export(model("flash"), tmp_path, host="genai", ends=[3, 5])
    several = json.loads((tmp_path / "genai_config.json").read_text())["model"]
    assert (several["eos_token_id"], several["context_length"]) == ([3, 5], 1 << 17)


def test_states_have_the_ranks_of_the_package() -> None:
    types = {spec.name: spec.type for spec in flashir.extending(model("flash")).state}
    assert [(slot.kind, len(layout(types)[name].shape)) for name, slot in slots(types).items()] == 2 * [
        ("key", 4), ("value", 4), ("recurrent_state", 4), ("conv_state", 3)
    ]  # fmt: skip


def test_what_does_not_fit_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shifted = flashir.model("flash", **SMALL, chunk=16, token_shift=True)
    mixed = flashir.loads(
        """model @m(%ids: i32[B, T]) -> f32[B, T, 8] {
          %x = embed(%ids) {vocab = 8, dim = 8}
          %y = flash(%x) {key_dim = 4, chunk = 4, causal = true, scope = "layers.0"}
          %z = mhsa(%y) {heads = 2, causal = true, scope = "layers.1"}
          %l = unembed(%z)
          return %l
        }"""
    )
    for graph, said in ((shifted, "layer 0 has the states .*more than the package holds"), (mixed, "different shapes")):
        with pytest.raises(TargetError, match=said):
            flashir.export(graph, out, host="genai", ends=[END], max_len=ROOM)
    with pytest.raises(SettingError, match="needs a token that ends texts"):
        flashir.export(model("flash"), out, host="genai")
    with pytest.raises(SettingError, match="there is no host 'x', only genai"):
        flashir.export(model("flash"), out, host="x")
    with pytest.raises(TargetError, match="writes for no host"):
        flashir.export(model("flash"), out, "jax:cpu", host="genai")
    assert not out.exists()
