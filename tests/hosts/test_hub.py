"""transformers loads the folder that `export --for hub` writes, and generates the same tokens."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import ArtefactError, SettingError
from flashir.models.parameters import load_params, unit
from tests.backends.support import at_hand
from tests.hosts.support import MODELS, ROOM, SMALL, greedy, model, prompt

pytestmark = pytest.mark.skipif(not at_hand("torch"), reason="torch is not installed")


def export(out: Path, name: str, **more: Any) -> flashir.Exported:
    graph = model(name)
    return flashir.export(graph, out, params=unit(graph, 1), host="hub", max_len=ROOM, **more)


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("hub") / "flash", "flash").path.parent


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model as a user of transformers loads it, without a network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder.parent / "modules"))
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(str(folder), trust_remote_code=True)


def generated(net: Any, ids: list[int], tokens: int, **more: Any) -> list[int]:
    torch = pytest.importorskip("torch")
    return net.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, **more)[0, len(ids) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_generate(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export(tmp_path / "model", name).path.parent
    net, graph = loaded(folder, monkeypatch), model(name)
    decoder = flashir.decoder(graph, "torch:cpu", unit(graph, 1), max_len=ROOM)
    for ids in (prompt(1), prompt(300)):
        wanted = [int(row[0]) for row in flashir.generate(decoder, [ids], tokens=24)]
        assert generated(net, ids, 24) == wanted
    text = list[int]()
    for turn, wanted in enumerate(greedy(decoder)):
        text += prompt((20, 1, 45)[turn], turn)
        assert generated(net, text, 24, use_cache=turn != 1) == wanted
        text += wanted


@pytest.mark.slow
def test_rows_are_padded_on_the_left(flash: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    net, graph, rows = loaded(flash, monkeypatch), model("flash"), [prompt(30), prompt(77)]
    ids, mask = torch.zeros(2, 77, dtype=torch.long), torch.zeros(2, 77, dtype=torch.long)
    for row, padded, real in zip(rows, ids, mask, strict=True):
        padded[-len(row) :], real[-len(row) :] = torch.tensor(row), 1
    decoder = flashir.decoder(graph, "torch:cpu", unit(graph, 1))
    wanted = np.stack([*flashir.generate(decoder, rows, tokens=20)], axis=1).tolist()
    found = net.generate(ids, attention_mask=mask, max_new_tokens=20, do_sample=False)
    assert found[:, 77:].tolist() == wanted


@pytest.mark.slow
def test_it_is_trained_as_other_models_of_transformers(flash: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    net, ids = loaded(flash, monkeypatch), torch.tensor([prompt(40)])
    net(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_the_folder_has_what_the_hub_reads(flash: Path, tmp_path: Path) -> None:
    config = json.loads((flash / "config.json").read_text())
    assert config["model_type"] == "flashir" and config["auto_map"]["AutoModelForCausalLM"].startswith(
        "modeling_flashir."
    )
    assert flashir.loads(config["ir"]) == model("flash")
    params = load_params(flash / "model.safetensors")
    assert {name: array.tolist() for name, array in params.items()} == {
        name: array.tolist() for name, array in unit(model("flash"), 1).items()
    }
    card = (flash / "README.md").read_text()
    assert "Not recorded. The parameters are the exported weights." in card
    assert card.startswith("---\nlibrary_name: transformers") and "float64 interpreter" in card
    assert len((flash / "modeling_flashir.py").read_text().splitlines()) < 100
    made = export(tmp_path / "other", "flash", ends=[7])
    assert json.loads((tmp_path / "other" / "generation_config.json").read_text())["eos_token_id"] == 7
    assert {file.name for file in made.files} == {file.name for file in (tmp_path / "other").iterdir()}


def test_labels_and_training_are_told(tmp_path: Path) -> None:
    graph = flashir.model("flash", **SMALL, chunk=16, predict="tags", labels=2)
    flashir.export(graph, tmp_path, host="hub", labels=("noun", "verb"), training=("data: emma.txt",))
    config, card = json.loads((tmp_path / "config.json").read_text()), (tmp_path / "README.md").read_text()
    assert "AutoModelForTokenClassification" in config["auto_map"] and "- data: emma.txt" in card
    assert "pipeline_tag: token-classification" in card and "noun, verb" in card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "edited", "said"),
    [
        ("vocab_size", 9, "vocab_size is 9, ir has a vocabulary of"),
        ("ir", lambda ir: ir.replace("times = 2", "times = 3"), "differ in .*layers.2"),
        ("ir", lambda ir: ir.replace("times = 2", "times = 1"), "differ in .*layers.1"),
        ("ir", lambda ir: ir.replace("chunk = ", "chunk = 1"), "ignore_mismatched_sizes"),
        ("ir", lambda _: "hello", "unexpected 'hello'"),
        ("max_len", "x", "max_len must be a whole number"),
    ],
)
def test_a_config_that_was_edited_is_refused(
    flash: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, edited: Any, said: str
) -> None:
    folder = Path(copytree(flash, tmp_path / "edited"))
    config = json.loads((folder / "config.json").read_text())
    config[name] = edited(config[name]) if callable(edited) else edited
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Exception, match=said):
        generated(loaded(folder, monkeypatch), [1], 1)


def test_what_is_refused_writes_nothing(flash: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="the folder is not empty"):
        export(flash, "flash", force=False)
    out = tmp_path / "out"
    for more in ({"portable": True}, {"split": True}, {"quantize": "int8"}, {"length": 9}, {"target": "onnx:cpu"}):
        with pytest.raises(SettingError, match="does nothing"):
            export(out, "flash", **more)
    with pytest.raises(SettingError, match="not causal"):
        flashir.export(flashir.model("flash", size="tiny", task="mlm"), out, host="hub")
    with pytest.raises(SettingError, match="max_len must say how many"):
        flashir.export(model("transformer++"), out, host="hub")
    assert not out.exists()
