"""Every page serves a narrow screen, and people who use a screen reader or see low contrast badly."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flashir.cli.bench_page import page as bench_page
from tests.bench.test_record import FAILED, MEASURED, record
from tests.cli.conftest import TINY, Cli
from tests.web.test_browser import CHROMIUM, HERE, flash, pytestmark, server

__all__ = ["flash", "pytestmark", "server"]

PAGES = ("model", "bench", "export")


@pytest.fixture(scope="module")
def pages(server: tuple[Path, str], flash: Path) -> dict[str, str]:
    """The address of each kind of page."""
    folder, url = server
    Cli().ok("show", *TINY, "--html", folder / "model.html")
    (folder / "bench.html").write_text(bench_page(record(MEASURED, FAILED)), encoding="utf-8")
    return {"model": f"{url}/model.html", "bench": f"{url}/bench.html", "export": f"{url}/{flash.name}/"}


def looked_at(url: str, scheme: str, width: int) -> dict[str, Any]:
    environment = {**os.environ, "CHROMIUM": str(CHROMIUM)}
    command = ["node", HERE / "access.mjs", url, scheme, str(width)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_and_names_what_it_has(
    pages: dict[str, str], name: str, width: int, scheme: str
) -> None:
    found = looked_at(pages[name], scheme, width)
    assert found["told"] == []
    assert found["page"] <= found["window"] == width
    assert found["outside"] == [], "controls that cannot be reached"
    assert found["unnamed"] == [], "elements that a screen reader cannot name"
    assert found["faint"] == [], "texts of low contrast"
    assert found["language"] == "en"
    assert found["landmarks"].count("main") == 1 and "banner" in found["landmarks"]
    assert found["headings"][0] == 1 and found["headings"].count(1) == 1
