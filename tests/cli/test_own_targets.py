"""flashir targets --add and --remove: records of devices in the user's configuration folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flashir.machine.targets import record_files, target
from tests.cli.conftest import TINY, Cli

(SHIPPED,) = record_files()["torch:l4"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The configuration folder of a user."""
    monkeypatch.setenv("FLASHIR_CONFIG", str(tmp_path / "config"))
    record_files.cache_clear()
    yield tmp_path / "config"
    record_files.cache_clear()


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A record that is no shipped one, in a file of any name."""
    path = tmp_path / "card.toml"
    path.write_text(SHIPPED.read_text().replace('"torch:l4"', '"torch:l4-at-40w"'))
    return path


def test_a_record_is_added_listed_planned_for_and_removed(cli: Cli, card: Path, folder: Path) -> None:
    assert "added torch:l4-at-40w" in cli.ok("targets", "--add", card)
    assert [file.name for file in folder.rglob("*.toml")] == ["torch-l4-at-40w.toml"]
    assert "torch:l4-at-40w" in cli.ok("targets") and "added by you" in cli.ok("targets")
    plan = cli.json("plan", *TINY, "--target", "torch:l4-at-40wx4", "--batch", 4, "--seq-len", 64)
    assert plan["target"] == "torch:l4-at-40wx4"
    card.write_text(card.read_text().replace("300000000000", "200000000000"))
    cli.ok("targets", "--add", card)  # again, with another number
    assert target("torch:l4-at-40w").bandwidth == 2e11
    assert cli.json("targets", "--remove", "torch:l4-at-40w")["removed"] == "torch:l4-at-40w"
    assert not [*folder.rglob("*.toml")] and "torch:l4-at-40w" not in cli.ok("targets")


def test_a_wrong_record_is_one_error_with_every_problem_and_is_not_stored(cli: Cli, card: Path, folder: Path) -> None:
    text = card.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("memory")]
    card.write_text("\n".join(lines).replace("300000000000", "-3"))
    said = cli.fails("targets", "--add", card)
    assert "memory is missing" in said and "bandwidth must be a number from" in said and "card.toml" in said
    for wanted, content in (
        ("there is no backend 'torhc'; did you mean 'torch'", text.replace("torch:l4", "torhc:l4")),
        ("there is a record of torch:l4 already", SHIPPED.read_text()),
        ("there is a record of torch:cuda already", text.replace("torch:l4-at-40w", "torch:cuda")),
        ("name must be that of one device, 'torch:l4'", text.replace("torch:l4-at-40w", "torch:l4x8")),
        ("a target must look like", text.replace("torch:l4-at-40w", "../torch")),
        ("not TOML", "name ="),
    ):
        card.write_text(content)
        assert wanted in cli.fails("targets", "--add", card)
    assert "cannot be read" in cli.fails("targets", "--add", card.with_name("absent.toml"))
    assert not folder.exists()


def test_only_what_was_added_is_removed(cli: Cli, card: Path) -> None:
    assert "you have added no record of 'torch:l4'" in cli.fails("targets", "--remove", "torch:l4")
    cli.ok("targets", "--add", card)
    assert "did you mean 'torch:l4-at-40w'" in cli.fails("targets", "--remove", "torch:l4-at-40")
    assert "--add runs nothing, so it takes no --remove" in cli.fails("targets", "--add", card, "--remove", "x")
    assert "NAME" in cli.fails("targets", "onnx:cpu", "--add", card)
