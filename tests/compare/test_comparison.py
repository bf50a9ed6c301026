"""Systems trained alike: equal parameters, the same rows, one table; killed, resumed, extended, diverged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from flashir.cli import systems
from flashir.compare.comparison import compare
from flashir.compare.picture import draw
from flashir.compare.summary import summaries, table
from flashir.compare.task_data import TaskData
from flashir.compare.tasks import task_named
from flashir.compare.trial import Row, Trial, trials
from flashir.errors import ArtefactError, SettingError
from flashir.ir import Graph
from flashir.ir.parameter_count import parameter_count
from flashir.train.recipe import Recipe
from tests.train.test_loop import Told

CURVES = {"train": [[10, 3.0], [20, 2.0]], "validation": [[20, 1.0]], "waiting": 0.001, "tokens_per_second": 1e4}
ROW = {
    "name": "flash", "parameters": 2_000_000, "depth": 4, "chunk": 64, "learning_rate": 1e-3, "seed": 0,
    "last_loss": 2.0, "validation_loss": 1.0, "accuracy": {"0": 0.5, "1": 0.25}, **CURVES,
}  # fmt: skip
NAMES = list(systems.SYSTEMS)
FAILED = {name: ROW[name] for name in ("name", "parameters", "depth", "chunk", "learning_rate", "seed")}


@pytest.mark.parametrize(("depth", "width", "vocab"), [(2, 16, 80), (4, 64, 256)])
def test_all_systems_have_as_many_parameters(depth: int, width: int, vocab: int) -> None:
    settings = {"vocab": vocab, "chunk": 64, "key_dim": 64, "max_len": 256}
    counts = {name: parameter_count(graph) for name, graph in systems.shaped(NAMES, depth, width, settings).items()}
    assert all(abs(count - counts["flash"]) < 0.02 * counts["flash"] for count in counts.values()), counts


def test_widths_that_the_heads_do_not_divide_are_left_out() -> None:
    settings = {"vocab": 80, "chunk": 16, "key_dim": 12, "heads": 3}
    models = systems.shaped(["transformer++", "flash-quad"], 2, 48, settings)
    budget = parameter_count(systems.shaped(["flash"], 2, 48, settings)["flash"])
    assert abs(parameter_count(models["transformer++"]) - budget) < 0.02 * budget
    assert all(node.attrs["heads"] == 3 for graph in models.values() for node in graph.walk() if "heads" in node.attrs)


def test_systems_are_what_their_names_say() -> None:
    models = systems.shaped(NAMES, 2, 64, {"vocab": 256, "chunk": 64, "key_dim": 64, "max_len": 256})
    assert all(node.attrs["chunk"] == 64 for node in models["flash"].walk() if node.op == "flash")
    parts = [next(n for n in models[f"flash {part}-only"].walk() if n.op == "flash") for part in ("local", "global")]
    assert [(node.attrs["use_local"], node.attrs["use_global"]) for node in parts] == [(True, False), (False, True)]


def test_a_setting_is_for_the_systems_that_have_it() -> None:
    models = systems.shaped(["flash", "transformer++"], 2, 64, {"vocab": 80, "lin_norm": "chunk", "chunk": 16})
    (block,) = (node for node in models["flash"].walk() if node.op == "flash")
    assert block.attrs["lin_norm"] == "chunk" and parameter_count(models["transformer++"]) > 0
    with pytest.raises(SettingError, match="no system has the setting lin_nrm=chunk"):
        systems.shaped(["flash"], 2, 64, {"lin_nrm": "chunk"})
    with pytest.raises(SettingError, match="lin_norm"):
        systems.shaped(["flash"], 2, 64, {"lin_norm": "chunky"})
    with pytest.raises(SettingError, match=r"unknown system 'flsh'.*did you mean 'flash'"):
        systems.chosen(["flsh"])


def test_each_system_is_summarised_at_the_rate_that_trained_best() -> None:
    worse = {**ROW, "learning_rate": 1e-2, "last_loss": 2.5, "validation_loss": 0.5}
    second = {**ROW, "seed": 1, "validation_loss": 2.0, "accuracy": {"0": 1.0, "1": 0.75}}
    (found,) = summaries([ROW, worse, second])
    assert (found["learning_rate"], found["seeds"], found["validation_loss"]) == (1e-3, 2, 1.5)
    assert found["accuracy"] == {"0": [0.5, 1.0], "1": [0.25, 0.75]} and found["failed"] == []


def test_rates_are_compared_on_the_seeds_that_all_have() -> None:
    lucky, unlucky = {**ROW, "learning_rate": 1e-2, "last_loss": 1.9}, {**ROW, "seed": 1, "last_loss": 1.0}
    (found,) = summaries([ROW, unlucky, lucky])
    assert (found["learning_rate"], found["seeds"]) == (1e-2, 1)


def test_a_rate_that_diverges_leaves_the_others_and_a_system_that_always_does_has_the_reason() -> None:
    lost = {**FAILED, "learning_rate": 1.0, "failed": "the loss explodes"}
    (one,) = summaries([lost, ROW])
    assert one["learning_rate"] == 1e-3 and one["failed"] == ["rate 1, seed 0: the loss explodes"]
    assert "| 0.001 (diverged at 1) |" in table([lost, ROW])
    shown = table([ROW, {**lost, "name": "performer"}])
    assert "diverged: rate 1, seed 0: the loss explodes" in shown and "| 0.50 | 0.25 |" in shown
    assert len({line.count("|") for line in shown.splitlines()}) == 1


def test_parameters_are_compared_with_those_of_flash() -> None:
    shown = table([ROW, {**ROW, "name": "performer", "parameters": 2_020_000}])
    assert "| 2,000,000 |" in shown and "| 2,020,000 (+1.0%) |" in shown


def test_perplexity_is_compared_with_that_of_transformer_plus_plus() -> None:
    text = {**{key: value for key, value in ROW.items() if key != "accuracy"}, "by_position": [{"to": 16, "loss": 1.0}]}
    shown = table([text, {**text, "name": "transformer++", "chunk": None, "validation_loss": 1.1}])
    flash, other = shown.splitlines()[2:]
    assert "| 2.718 | 2.718 to 2.718 | -9.5% |" in flash and "| +0.0% |" in other and "| - |" in other
    assert "against" not in table([text])


def test_the_picture_is_svg_with_text_and_always_the_same() -> None:
    pytest.importorskip("matplotlib")
    rows = [ROW, {**ROW, "name": "<other>"}, {**FAILED, "name": "lost", "failed": "nan"}]
    texts = {element.text for element in ElementTree.fromstring(draw(rows)).iter() if element.text}
    assert {"flash", "<other>", "nats a token", "chunks back"} <= texts and "lost" not in texts
    assert draw(rows) == draw(rows)


@pytest.fixture(scope="module")
def two() -> dict[str, Graph]:
    settings = {"vocab": 80, "chunk": 16, "key_dim": 16, "cumsum": "scan"}
    return systems.shaped(["flash", "flash local-only"], 2, 32, settings)


@pytest.mark.slow
def test_a_comparison_is_resumed_and_extended(tmp_path: Path, two: dict[str, Graph]) -> None:
    pytest.importorskip("torch")
    data = TaskData(task_named("recall", 96, 16, 80, 4))
    recipe = Recipe(seq_len=96, tokens=384, rows=4, steps=4, save_every=2, validate_every=2, keep=1)
    told: list[Told] = []

    class Watch:
        def begins(self, trial: Trial) -> Told:
            told.append(Told())
            return told[-1]

        def ended(self, row: Row) -> None:
            assert row["name"] in two

    def run(rates: dict[str, tuple[float, ...]], seeds: int, settings: dict[str, Any]) -> dict[str, Any]:
        each = trials(two, recipe, rates, seeds, tmp_path)
        return compare(each, data, settings, tmp_path, Watch())

    explodes = {"flash": (1e-3, 1e6), "flash local-only": (1e-3,)}
    first = run(explodes, 1, {"task": "recall"})
    assert [row.get("failed", "") != "" for row in first["runs"]] == [False, True, False]
    assert [each["learning_rate"] for each in first["systems"]] == [1e-3, 1e-3]
    assert {path.name for path in tmp_path.glob("comparison.*")} == {f"comparison.{s}" for s in ("json", "md", "svg")}
    assert json.loads((tmp_path / "comparison.json").read_text())["runs"] == first["runs"]
    ran = len(told)
    (tmp_path / "flash" / "0.001-seed-0" / "result.json").unlink()
    again = run(explodes, 2, {"task": "recall"})
    assert not told[ran].lines, "the run was complete, its result was not written"
    timeless = ("name", "seed", "validation_loss", "train", "accuracy")
    before = [{name: row.get(name) for name in timeless} for row in first["runs"]]
    assert before == [{name: row.get(name) for name in timeless} for row in again["runs"][:3]]
    assert again["systems"][1]["seeds"] == 2
    fewer = run({"flash": (1e-3,), "flash local-only": ()}, 1, {"task": "recall"})
    assert len(fewer["runs"]) == len(again["runs"]), "runs that are in the folder stay in the comparison"
    with pytest.raises(ArtefactError, match="another comparison"):
        run(explodes, 1, {"task": "copy"})
    (tmp_path / "settings.json").unlink()
    with pytest.raises(ArtefactError, match="holds no comparison"):
        run(explodes, 1, {"task": "copy"})
