"""The site: what the theme leaves without a name has one, and its pages fit narrow screens."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from tests.web.test_access import looked_at
from tests.web.test_browser import pytestmark as needs_a_browser

pytest.importorskip("material", reason="the site is not installed: pip install -e '.[docs]'")

ROOT = Path(__file__).parents[2]
SHOWN = ("index.html", "results/consumers.html", "reference/api.html", "reference/command-line.html", "404.html")
"""A page of prose, one of wide tables, one of code, one of long lines, and one of the theme's own."""


def test_icons_are_decoration_and_what_opens_menu_and_search_has_a_name() -> None:
    spec = spec_from_file_location("site_hooks", ROOT / "docs" / "site.py")
    assert spec is not None and spec.loader is not None
    hooks = module_from_spec(spec)
    spec.loader.exec_module(hooks)
    icon = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><path/></svg>'
    named = hooks.named(f'<label class="md-header__button md-icon" for="__drawer">{icon}</label>')
    assert 'aria-label="Menu"' in named and 'tabindex="0"' in named and 'role="button"' in named
    assert '<svg aria-hidden="true"' in named


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.grid
@pytest.mark.skipif(any(mark.args[0] for mark in needs_a_browser if mark.name == "skipif"), reason="no browser")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", SHOWN)
def test_a_page_fits_a_narrow_window_and_can_be_read(site: Path, name: str, scheme: str) -> None:
    found = looked_at((site / name).as_uri(), scheme, 400)
    assert found["page"] <= found["window"] == 400
    assert found["unnamed"] == [] and found["faint"] == [] and found["told"] == []
