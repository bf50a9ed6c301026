"""Distributions made in a folder, as `pip install` would leave them, and a reset of what is known of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flashir import plugins
from flashir.backends import registry
from flashir.importing.importer import importer
from flashir.ir.extensions import Extensions
from flashir.machine import targets as catalogue
from flashir.ops import OPS

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a plug-in: its name, the text of its module, and the value of its entry point by group."""
    ops, modules = dict(OPS), set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys.modules["flashir.ir.op"], "EXTENSIONS", Extensions(OPS))
    monkeypatch.setattr("tests.support.PREDICTIONS", {})  # of another plug-in of that name
    forget()

    def make(name: str, text: str, **groups: str) -> Path:
        (tmp_path / f"{name}.py").write_text(text)
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        entries = [f"[flashir.{group}]\n{name} = {value}\n" for group, value in (groups or {"ops": name}).items()]
        (about / "entry_points.txt").write_text("\n".join(entries))
        return tmp_path

    yield make
    forget()
    OPS.clear()
    OPS.update(ops)
    for module in set(sys.modules) - modules:
        if str(tmp_path) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


def forget() -> None:
    """Make whatever is known of plug-ins be looked up anew."""
    for cached in (plugins.installed, plugins.plugins, plugins.foreign):
        cached.cache_clear()
    registry.backend.cache_clear()
    registry.frontend.cache_clear()
    importer.cache_clear()
    catalogue.record_files.cache_clear()
