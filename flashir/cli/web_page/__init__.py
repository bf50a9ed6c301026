"""The page of `flashir export --web`: it runs an exported decoder in a browser, by onnxruntime-web."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import flashir
from flashir.cli import console
from flashir.cli.page import theme
from flashir.cli.tokens import ends_of, reader_of
from flashir.cli.web_page import runtime
from flashir.cli.web_page.readable import check
from flashir.files import atomic_write, sha256
from flashir.generation import longest
from flashir.inputs import vocabulary

if TYPE_CHECKING:
    from flashir.cli.source import Source
    from flashir.planning import Plan
    from flashir.train.data import Tokenizer

HERE = Path(__file__).parent
PAGE = "index.html"
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

    def write(self, folder: Path, plan: Plan, max_len: int | None) -> list[Path]:
        """Write the page into the folder of its model. It has the digests of the files beside it, and refuses others.

        Args:
            folder: as `flashir.export` wrote it with `decode`.
            plan: what was exported.
            max_len: as it was exported with.

        Returns:
            the page, and what was copied beside it.

        Raises:
            ArtefactError: a file cannot be read or written.
        """
        ort = runtime.published() if self.source is None else runtime.copied(self.source, folder)
        files = [folder / "prefill.onnx", folder / "step.onnx", *sorted(folder.glob("model-*.data"))]
        chips = {
            "parameters": console.many(plan.parameters),
            "chunk": str(plan.chunk or "-"),
            "tokens": "bytes" if self.tokenizer.is_bytes else f"{self.tokenizer.vocab:,}",
            "runtime": ort.name,
        }
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
            version=escape(flashir.__version__),
            origin=escape(ort.origin),
            style=theme() + _text("web.css"),
            chips="".join(f"<span><b>{escape(name)}</b> {escape(value)}</span>" for name, value in chips.items()),
            model=json.dumps(model, ensure_ascii=True).replace("<", "\\u003c").replace("&", "\\u0026"),
            worker="".join(map(_text, WORKER)),
            script=_text("page.js"),
        )
        page = folder / PAGE
        atomic_write(page, lambda file: file.write(text.encode()))
        return [page, *(folder / ort.place / name for name in runtime.FILES if self.source is not None)]


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
