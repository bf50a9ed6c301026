"""Texts and corpora that the tests of the data make up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from flashir.train.data import Corpus, Tokenizer
from flashir.train.data.corpus import Span

WORDS = "the chunk divides local from global attention, scales both and sizes the bias; l'été où ça 東京 7 42 don't"


def texts() -> st.SearchStrategy[str]:
    """Any text that a file can hold."""
    return st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)


def prose() -> st.SearchStrategy[str]:
    """Short words, any white space between them, before and after."""
    white = st.text(" \n\t\r\u00a0", min_size=1, max_size=4)
    return st.lists(st.sampled_from(WORDS.split()) | white, min_size=1, max_size=60).map("".join)


def write(folder: Path, **contents: str | bytes) -> Path:
    """A folder with a text file for each name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def numbered(lengths: Sequence[int]) -> Corpus:
    """Documents of those lengths in which every token of the corpus is another: 0, 1, 2 and so on."""
    ends = np.cumsum(lengths)
    parts = [np.arange(end - length, end, dtype=np.uint16) for end, length in zip(ends, lengths)]
    return Corpus(Tokenizer.bytes(), tuple(Span(part, f"{number:064x}") for number, part in enumerate(parts)))


def lengths() -> st.SearchStrategy[list[int]]:
    """How long the documents of a corpus may be."""
    return st.lists(st.integers(1, 12), min_size=1, max_size=8)
