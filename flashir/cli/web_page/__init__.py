"""The page of `flashir export --web`: it runs an exported decoder in a browser, by onnxruntime-web."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from flashir.cli import console
from flashir.cli.page import theme
from flashir.cli.tokens import ends_of, reader_of
from flashir.cli.web_page import runtime
from flashir.cli.web_page.readable import check
from flashir.cli.web_page.runtime import Runtime
from flashir.files.atomic import atomic_write, sha256, writing
from flashir.generation.generate import longest
from flashir.reference.inputs import vocabulary
from flashir.version import __version__

if TYPE_CHECKING:
    from flashir.cli.source import Source
    from flashir.exporting.export import Exported
    from flashir.train.data import Tokenizer

HERE = Path(__file__).parent
SAID = 1 << 16  # bytes of a page that are neither of its files nor of the tokenizer, at most
PAGE = "index.html"
GRAPHS = ("prefill.onnx", "step.onnx")
"""What the page runs, in the one format that it knows."""

WORKER = ("sampler.js", "tokenizer.js", "decoder.js", "files.js", "worker.js")
"""What runs beside the page, as one script in this order."""


@dataclass(frozen=True)
class WebPage:
    """The page of a model. What can be wrong with it is told before the model is exported.

    Args:
        title: MODEL, without the folders that it lies in.
        tokenizer: the model's.
        source: a folder with onnxruntime-web, to be copied beside the page; None to load it from where it is published.
        ends: the tokens that end a text.
    """

    title: str
    tokenizer: Tokenizer
    source: Path | None
    ends: frozenset[int] = frozenset()

    @staticmethod
    def of(found: Source, source: Path | None) -> WebPage:
        """The page of a model that is about to be exported.

        Raises:
            InputError: the model takes no tokens, or has no tokenizer that is its own and that the page can read;
                onnxruntime-web is not in `source`.
        """
        tokenizer = reader_of(found, None)
        check(tokenizer)
        if source is not None:
            runtime.check(source)
        return WebPage(Path(found.word).name, tokenizer, source, ends_of(found, tokenizer))

    def write(self, folder: Path, export: Callable[[], Exported], max_len: int | None) -> tuple[Exported, list[Path]]:
        """Export a model, and write the page into its folder: both or, where anything fails, neither.

        The page has the digests of the files beside it, and refuses others. It has its place on disk before there is
        anything to say, so that a disk which becomes full meanwhile does not leave a model without its page.

        Args:
            folder: of the model.
            export: writes the model, as `flashir.export` does with `decode`.
            max_len: as it is exported with.

        Returns:
            what `export` returned; the page, and what was copied beside it.

        Raises:
            ArtefactError: a file cannot be read or written; and what `export` raises.
        """
        page, made = folder / PAGE, []
        place = runtime.published() if self.source is None else runtime.beside(self.source)

        def commit(unfinished: Path) -> None:
            made.append(export())
            with writing(page), unfinished.open("r+b") as file:
                file.write(self._page(made[0], place, max_len))
                file.truncate()
                os.fsync(file.fileno())

        def write() -> None:
            atomic_write(page, lambda file: file.write(bytes(self._room())), commit)

        copied = []
        if self.source is None:
            write()
        else:
            copied = runtime.copied(self.source, folder, write)
        return made[0], [page, *copied]

    def _room(self) -> int:
        """Bytes that a page takes at most."""
        parts = ("page.html", "web.css", *WORKER, "page.js")
        return len("".join([*map(_text, parts), theme(), _embedded(json.loads(self.tokenizer.text))]).encode()) + SAID

    def _page(self, made: Exported, ort: Runtime, max_len: int | None) -> bytes:
        plan = made.plan
        chips = {
            "parameters": console.many(plan.parameters),
            "chunk": str(plan.chunk or "-"),
            "tokens": "bytes" if self.tokenizer.is_bytes else f"{self.tokenizer.vocab:,}",
            "runtime": ort.name,
        }
        files = [file for file in made.files if file.name in GRAPHS or file.suffix == ".data"]
        model = {
            "files": {file.name: {"sha256": sha256(file), "bytes": file.stat().st_size} for file in files},
            "tokenizer": json.loads(self.tokenizer.text),
            "ends": sorted(self.ends),
            "vocab": vocabulary(plan.graph, plan.graph.inputs[0]),
            "limit": longest(plan.graph, max_len),
            "runtime": ort.as_dict(),
        }
        text = Template(_text("page.html")).substitute(
            title=escape(self.title),
            version=escape(__version__),
            origin=escape(ort.origin),
            style=theme() + _text("web.css"),
            chips="".join(f"<span><b>{escape(name)}</b> {escape(value)}</span>" for name, value in chips.items()),
            model=_embedded(model),
            worker="".join(map(_text, WORKER)),
            script=_text("page.js"),
        )
        return text.encode()


def _embedded(value: object) -> str:
    """JSON that may stand in an element of a page."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c").replace("&", "\\u0026")


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
