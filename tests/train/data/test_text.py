"""Documents: everything that is wrong is said at once, and any text comes back from its pieces."""

from __future__ import annotations

import hashlib
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashir.errors import InputError
from flashir.train.data import Document, documents, words
from flashir.train.data.text import LISTED, pieces
from tests.train.data.support import prose, texts, write


def document(text: str, folder: str) -> Document:
    (Path(folder) / "a.txt").write_bytes(text.encode())
    return documents([folder])[0]


@given(texts(), st.integers(1, 9))
def test_pieces_are_the_text(text: str, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = list(pieces(document(text, folder), size))
    assert "".join(found) == text
    assert all(found)


@given(texts() | prose(), st.integers(1, 40))
def test_no_piece_is_longer_than_two_reads(text: str, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = list(pieces(document(text, folder), size))
    assert all(len(piece.encode()) < 2 * size + 4 for piece in found)


@given(prose())
def test_a_word_is_cut_only_where_there_is_no_other_place(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = list(pieces(document(text, folder), size=30))
    for before, after in pairwise(found):
        inside = [at for at in range(1, len(before)) if before[at] in " \n" and not before[at - 1].isspace()]
        assert (after[0] in " \n" and not before[-1].isspace()) or not inside


@given(texts() | prose(), st.integers(1, 9))
def test_words_are_those_of_the_whole_text(text: str, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert words(document(text, folder), size) == len(text.split())


def test_folders_are_searched_and_sorted_and_a_file_counts_once(tmp_path: Path) -> None:
    write(tmp_path, b="two", a="one")
    write(tmp_path / "deep" / "er", c="three")
    (tmp_path / "notes.md").write_text("no text of this corpus")
    found = documents([tmp_path / "b.txt", tmp_path, tmp_path / "deep" / ".." / "a.txt"])
    assert [each.path.name for each in found] == ["b.txt", "a.txt", "c.txt"]
    assert [each.size for each in found] == [3, 3, 5]
    assert found[1].digest == hashlib.sha256(b"one").hexdigest()
    assert [each.path.name for each in documents([tmp_path / "notes.md"])] == ["notes.md"]


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, good="text", empty="", zero=b"text\0text", latin="été".encode("latin-1"), cut="été".encode()[:-1])
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError) as caught:
        documents([tmp_path, tmp_path / "absent.txt", tmp_path / "none"])
    assert sorted(caught.value.problems) == sorted(
        [
            f"{tmp_path / 'absent.txt'} does not exist",
            f"{tmp_path / 'none'} has no .txt file",
            f"{tmp_path / 'empty.txt'} is empty",
            f"{tmp_path / 'zero.txt'} is binary: byte 4 is zero",
            f"{tmp_path / 'latin.txt'} is not UTF-8 text: see byte 0",
            f"{tmp_path / 'cut.txt'} is not UTF-8 text: it ends within a character",
        ]
    )


def test_the_place_of_a_wrong_byte_is_that_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashir.train.data.text.BLOCK", 2)
    write(tmp_path, a=b"xy\xc3\xa9z\xc3z")
    with pytest.raises(InputError, match="see byte 5"):
        documents([tmp_path])
    write(tmp_path, a=b"xyz\0")
    with pytest.raises(InputError, match="byte 3 is zero"):
        documents([tmp_path])


def test_no_more_than_a_page_of_problems_is_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        documents([tmp_path / f"{number}.txt" for number in range(LISTED + 7)])
    assert caught.value.problems[LISTED:] == ("and 7 more",)


def test_no_path_at_all_is_an_error() -> None:
    with pytest.raises(InputError, match="there are no texts"):
        documents([])


@pytest.mark.parametrize("content", [b"another", b"\xff\xff\xff\xff", None], ids=["another", "binary", "gone"])
def test_a_file_that_changes_after_it_was_checked_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    found = document("one text", str(tmp_path))
    if content is None:
        found.path.unlink()
    else:
        found.path.write_bytes(content)
    with pytest.raises(InputError, match="has changed"):
        list(pieces(found))


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    documents([write(tmp_path, a="one", b="three")], lambda *each: told.append(each))
    assert told == [("checking", 3, 8), ("checking", 8, 8)]
