"""The page of `flashir export --web`: it runs an exported decoder in a browser with onnxruntime-web."""

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
from flashir.exporting.folder import RECORD, record
from flashir.files.atomic import atomic_write, sha256, writing
from flashir.generation.generate import longest
from flashir.reference.inputs import vocabulary
from flashir.version import __version__

if TYPE_CHECKING:
    from flashir.cli.source import Source
    from flashir.exporting.exported import Exported
    from flashir.train.data import Tokenizer

HERE = Path(__file__).parent
FACTS_BYTES = 1 << 16  # at most so many bytes of a page are neither of its files nor of the tokenizer
PAGE = "index.html"
GRAPHS = ("prefill.onnx", "step.onnx")
"""The graphs that the page runs."""

WORKER = ("sampler.js", "tokenizer.js", "decoder.js", "files.js", "worker.js")
"""The scripts of the worker, which are joined in this order."""


@dataclass(frozen=True)
class WebPage:
    """The page of a model. Problems are reported before the model is exported.

    Args:
        title: MODEL without its folder.
        tokenizer: the tokenizer of the model.
        source: a folder with onnxruntime-web, which is copied beside the page; None to load it from its host.
        ends: the end tokens.
    """

    title: str
    tokenizer: Tokenizer
    source: Path | None
    ends: frozenset[int] = frozenset()

    @staticmethod
    def of(model: Source, source: Path | None) -> WebPage:
        """The page of a model before its export.

        Raises:
            InputError: the model takes no tokens, has no tokenizer, or has one that the page cannot read; or
                onnxruntime-web is not in `source`.
        """
        tokenizer = reader_of(model, None)
        check(tokenizer)
        if source is not None:
            runtime.check(source)
        return WebPage(Path(model.word).name, tokenizer, source, ends_of(model, tokenizer))

    def write(self, folder: Path, export: Callable[[], Exported], max_len: int | None) -> tuple[Exported, list[Path]]:
        """Export a model and write the page into its folder. If either fails, neither is written.

        The page has the digests of the files beside it and refuses others. Its space on disk is reserved before the
        export, so that a full disk does not leave a model without its page.

        Args:
            folder: the folder of the model.
            export: exports the model, as `flashir.export` does with `decode`.
            max_len: the `max_len` of the export.

        Returns:
            the result of `export`, and the files that were written: the page, the copied runtime, and their record.

        Raises:
            ArtefactError: a file cannot be read or written. Errors of `export` pass through.
        """
        page, exported = folder / PAGE, []
        place = runtime.published() if self.source is None else runtime.beside(self.source)

        def commit(unfinished: Path) -> None:
            exported.append(export())
            with writing(page), unfinished.open("r+b") as file:
                file.write(self._page(exported[0], place, max_len))
                file.truncate()
                os.fsync(file.fileno())

        def write() -> None:
            atomic_write(page, lambda file: file.write(bytes(self._room())), commit)

        copied = []
        if self.source is None:
            write()
        else:
            copied = runtime.copied(self.source, folder, write)
        files = [page, *copied]
        digests = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
        atomic_write(folder / RECORD, lambda file: file.write(record(digests)))
        return exported[0], [*files, folder / RECORD]

    def _room(self) -> int:
        """An upper bound of the bytes of the page."""
        parts = ("page.html", "web.css", *WORKER, "page.js")
        texts = [*map(_text, parts), theme(), _embedded(json.loads(self.tokenizer.text))]
        return len("".join(texts).encode()) + FACTS_BYTES

    def _page(self, exported: Exported, onnxruntime: Runtime, max_len: int | None) -> bytes:
        plan = exported.plan
        chips = {
            "parameters": console.many(plan.parameters),
            "chunk": str(plan.chunk or "-"),
            "tokens": "bytes" if self.tokenizer.is_bytes else f"{self.tokenizer.vocab:,}",
            "runtime": onnxruntime.name,
        }
        files = [file for file in exported.files if file.name in GRAPHS or file.suffix == ".data"]
        model = {
            "files": {file.name: {"sha256": sha256(file), "bytes": file.stat().st_size} for file in files},
            "tokenizer": json.loads(self.tokenizer.text),
            "ends": sorted(self.ends),
            "vocab": vocabulary(plan.graph, plan.graph.inputs[0]),
            "limit": longest(plan.graph, max_len),
            "runtime": onnxruntime.as_dict(),
        }
        text = Template(_text("page.html")).substitute(
            title=escape(self.title),
            version=escape(__version__),
            origin=escape(onnxruntime.origin),
            style=theme() + _text("web.css"),
            chips="".join(f"<span><b>{escape(name)}</b> {escape(value)}</span>" for name, value in chips.items()),
            model=_embedded(model),
            worker="".join(map(_text, WORKER)),
            script=_text("page.js"),
        )
        return text.encode()


def _embedded(value: object) -> str:
    """JSON that is safe inside an HTML element."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c").replace("&", "\\u0026")


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
