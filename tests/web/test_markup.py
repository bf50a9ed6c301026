"""What a screen reader and a narrow screen need is in the markup of every page; `test_access.py` asks a browser."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from flashir.cli.bench_page import page as bench_page
from tests.bench.test_record import FAILED, MEASURED, record
from tests.cli.conftest import TINY, Cli

FIELDS = ("input", "select", "textarea")
EMPTY = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
NAMED = ("aria-label", "aria-labelledby", "title")


class Markup(HTMLParser):
    """The elements of a page: the attributes of each, its text, and the elements around it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        words = list[str]()
        self.elements.append((tag, dict(attrs), words, [name for name, _ in self._open]))
        if tag not in EMPTY:
            self._open.append((tag, words))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), [], [name for name, _ in self._open]))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, words in self._open:
            words.append(data.strip())

    def named(self, *tags: str) -> list[tuple[str, dict[str, str | None], list[str], list[str]]]:
        return [element for element in self.elements if element[0] in tags]


def unnamed(page: Markup) -> list[str]:
    """The controls and pictures without a name."""
    labelled = {attrs.get("for") for _, attrs, words, _ in page.named("label") if any(words)}
    found = []
    for tag, attrs, words, around in page.named(*FIELDS, "button", "a", "img", "svg", "canvas"):
        named = any(attrs.get(name) for name in NAMED) or (tag == "img" and "alt" in attrs) or any(words)
        if tag in FIELDS:
            named = any(attrs.get(name) for name in NAMED) or attrs.get("id") in labelled or "label" in around
        if not named and attrs.get("aria-hidden") != "true" and attrs.get("type") != "hidden":
            found.append(f"{tag} {attrs}")
    return found


def of_model(folder: Path) -> str:
    Cli().ok("show", *TINY, "--html", folder / "model.html")
    return (folder / "model.html").read_text(encoding="utf-8")


def of_export(folder: Path) -> str:
    Cli().ok("export", *TINY, "--for", "web", "-o", folder / "out")
    return (folder / "out" / "index.html").read_text(encoding="utf-8")


def of_bench(folder: Path) -> str:
    return bench_page(record(MEASURED, FAILED))


@pytest.mark.parametrize("written", [of_model, of_export, of_bench])
def test_a_page_names_what_it_has(tmp_path: Path, written: Callable[[Path], str]) -> None:
    page = Markup(written(tmp_path))
    assert [attrs.get("lang") for _, attrs, _, _ in page.named("html")] == ["en"]
    assert "width=device-width" in str(
        [attrs for _, attrs, _, _ in page.named("meta") if attrs.get("name") == "viewport"]
    )
    assert any(words for _, _, words, _ in page.named("title"))
    assert len(page.named("main")) == len(page.named("h1")) == 1
    levels = [int(tag[1]) for tag, *_ in page.named("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    assert unnamed(page) == []


def test_a_screen_reader_is_told_text_that_is_written_states_and_problems(tmp_path: Path) -> None:
    page = Markup(of_export(tmp_path))
    assert [attrs.get("aria-live") for _, attrs, _, _ in page.named("section")] == ["polite"]
    assert {"status", "alert"} <= {attrs.get("role") for _, attrs, _, _ in page.elements}


def test_a_control_without_a_name_is_found() -> None:
    page = Markup('<label for="a">A</label><input id="a"><input id="b"><button></button><img src="x">')
    assert [name.split()[0] for name in unnamed(page)] == ["input", "button", "img"]
