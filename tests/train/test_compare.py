"""Systems trained alike: as many parameters, the same rows in the same order, curves beside each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from flashir.errors import ArtefactError, TrainingError
from flashir.experiments.compare import SYSTEMS, Shape, compare, models
from flashir.experiments.plot_losses import draw, table
from flashir.ir.parameter_count import parameter_count
from flashir.train.recipe import Recipe
from tests.train.test_loop import Told

ROW = {
    "name": "flash", "parameters": 2_000_000, "depth": 4, "chunk": 64, "validation_loss": 1.0, "tokens_per_second": 1e4,
    "roofline": 0.5, "waiting": 0.001, "train": [[10, 3.0], [20, 2.0]], "validation": [[20, 1.0]],
}  # fmt: skip


def test_all_systems_have_as_many_parameters() -> None:
    shape = Shape(d_model=128, depth=4, chunk=64)
    found = models(list(SYSTEMS), shape, Recipe(tokens=1024, rows=1))
    counts = {name: parameter_count(graph) for name, graph in found.items()}
    assert max(counts.values()) < 1.05 * min(counts.values()), counts
    flash = found["flash"]
    assert all(node.attrs["chunk"] == 64 for node in flash.walk() if node.op == "flash")
    parts = [next(n for n in found[f"flash {part}-only"].walk() if n.op == "flash") for part in ("local", "global")]
    assert [(node.attrs["use_local"], node.attrs["use_global"]) for node in parts] == [(True, False), (False, True)]


def test_a_table_compares_with_transformer_plus_plus() -> None:
    shown = table([ROW, {**ROW, "name": "transformer++", "chunk": None, "validation_loss": 1.1}])
    flash, other = shown.splitlines()[2:]
    assert "| 2.718 | -9.5% |" in flash and "| +0.0% |" in other and "| 2.0000 |" in flash and "| - |" in other
    assert "against" not in table([ROW])


@pytest.mark.slow
def test_the_plot_is_svg_with_text_and_always_the_same() -> None:
    pytest.importorskip("matplotlib")
    made = draw([ROW, {**ROW, "name": "<other>"}])
    texts = {element.text for element in ElementTree.fromstring(made).iter() if element.text}
    assert {"flash", "<other>", "nats a token"} <= texts
    assert made == draw([ROW, {**ROW, "name": "<other>"}])


@pytest.mark.slow
def test_a_comparison_is_gone_on_with(tmp_path: Path, text: Path) -> None:
    pytest.importorskip("torch")
    recipe = Recipe(data=(str(text),), tokens=128, seq_len=32, steps=4, keep=1, validation_tokens=64).settled(rows=2)
    shape, names = Shape(32, 2, 16, chunk=16), ["flash", "transformer++"]
    told: list[Told] = []

    def progress() -> Told:
        told.append(Told())
        return told[-1]

    results = compare(names, shape, recipe, tmp_path / "out", progress)
    made = json.loads(results.read_text())
    assert [row["name"] for row in made["systems"]] == names
    assert all([tokens for tokens, _ in row["train"]] == [128, 256, 384, 512] for row in made["systems"])
    assert {path.name for path in (tmp_path / "out").glob("comparison.*")} == {
        f"comparison.{s}" for s in ("json", "md", "svg")
    }
    again = json.loads(compare(names, shape, recipe, tmp_path / "out", progress).read_text())
    assert again["systems"] == made["systems"]
    assert [len(each.lines) for each in told] == [4, 4, 0, 0]
    with pytest.raises(ArtefactError, match="another comparison"):
        compare(names, shape, replace(recipe, seed=1), tmp_path / "out", progress)


@pytest.mark.parametrize(
    ("given", "rows"), [(("--batch", "2"), 2), ((), 4), (("--batch", "6"), 2), (("--rows", "1"), 1)]
)
def test_rows_that_nobody_named_divide_the_batch(
    given: tuple[str, ...], rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flashir.experiments import compare

    seen: list[Recipe] = []

    def stop(names: object, shape: object, recipe: Recipe, *_: object) -> None:
        seen.append(recipe)
        raise TrainingError("enough")

    monkeypatch.setattr(compare, "compare", stop)
    monkeypatch.setattr("sys.argv", ["compare", "--data", str(tmp_path), *given])
    with pytest.raises(SystemExit):
        compare.main()
    assert seen[0].rows == rows
