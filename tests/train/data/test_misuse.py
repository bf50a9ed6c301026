"""Files that misbehave and arguments that are wrong: one error each, which names them, before any work starts."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from flashir.errors import FlashirError, InputError, SettingError
from flashir.train.data import Corpus, Document, TextBatches, Tokenizer, documents, prepare
from flashir.train.data import text as texts
from tests.train.data.support import WORDS, write
from tests.train.data.test_tokenizer import TRAINED

posix = pytest.mark.skipif(sys.platform == "win32", reason="no such files")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return prepare([write(tmp_path, a="one two three")], Tokenizer.bytes(), tmp_path / "cache")


class TestFiles:
    @posix
    def test_whatever_has_the_name_of_a_text_is_one_or_is_told(self, tmp_path: Path) -> None:
        write(tmp_path, good="text")
        (tmp_path / "folder.txt").mkdir()
        (tmp_path / "folder.txt/around").symlink_to(tmp_path)
        (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
        (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
        os.mkfifo(tmp_path / "pipe.txt")
        with pytest.raises(InputError) as caught:
            documents([tmp_path])
        assert sorted(caught.value.problems) == [
            f"{tmp_path / 'gone.txt'} does not exist",
            f"{tmp_path / 'loop.txt'} does not exist",
            f"{tmp_path / 'pipe.txt'} is not a file",
        ]
        for name in ("gone", "loop", "pipe"):
            (tmp_path / f"{name}.txt").unlink()
        assert [each.path.name for each in documents([tmp_path])] == ["good.txt"]

    @pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a\udcffb"])
    def test_names_that_no_file_can_have(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=r"does not exist|File name too long"):
            documents([tmp_path / name])

    def test_a_folder_that_cannot_be_read_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, good="text")
        write(tmp_path / "closed", more="text")
        whole = os.scandir

        def scandir(path: Any) -> Any:
            if str(path).endswith("closed"):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return whole(path)

        monkeypatch.setattr("os.scandir", scandir)
        with pytest.raises(InputError, match="closed cannot be read: Permission denied"):
            documents([tmp_path])

    def test_a_file_that_cannot_be_read_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, good="text")

        def refuse(*_: Any) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr("os.open", refuse)
        with pytest.raises(InputError, match=r"good\.txt cannot be read: Permission denied"):
            documents([tmp_path])

    @pytest.mark.parametrize("when", ["listed", "checked"])
    def test_a_file_that_goes_away_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
        write(tmp_path, a="one", b="two")
        if when == "listed":
            found = texts.files_of

            def files(*given: Any) -> Any:
                every = found(*given)
                (tmp_path / "b.txt").unlink()
                return every

            monkeypatch.setattr(texts, "files_of", files)
            with pytest.raises(InputError, match=r"b\.txt cannot be read: No such file"):
                documents([tmp_path])
        else:
            told = documents([tmp_path], lambda what, done, total: (tmp_path / "a.txt").unlink(missing_ok=True))
            with pytest.raises(InputError, match=r"a\.txt: has changed since it was checked"):
                list(texts.pieces(told[0]))

    @posix
    def test_a_pipe_in_place_of_a_file_is_not_waited_for(self, tmp_path: Path) -> None:
        (found,) = documents([write(tmp_path, a="one")])
        found.path.unlink()
        os.mkfifo(found.path)
        with pytest.raises(InputError, match="has changed"):
            list(texts.pieces(found))

    def test_one_path_is_one(self, tmp_path: Path) -> None:
        write(tmp_path, a="one")
        assert documents(tmp_path) == documents(str(tmp_path)) == documents([tmp_path])

    @pytest.mark.parametrize("paths", [None, 5, "", [""], [None], [b"a.txt"], [5, "a.txt"]])
    def test_what_is_no_path_is_told(self, paths: Any) -> None:
        with pytest.raises(FlashirError, match=r"must be a path( or a list)?, got"):
            documents(paths)


class TestTokenizers:
    @pytest.mark.parametrize("vocab", ["x", None, 300.5, -1, 256, True])
    def test_a_vocabulary_is_a_whole_number(self, tmp_path: Path, vocab: Any) -> None:
        found = documents([write(tmp_path, a=WORDS)])
        with pytest.raises(SettingError, match="vocab must be"):
            Tokenizer.trained(found, vocab)

    @pytest.mark.parametrize("vocab", [100_000, 2**22, 2**22 + 1, 2**31, 2**40, 10**30])
    def test_a_vocabulary_is_no_larger_than_the_text(self, tmp_path: Path, vocab: int) -> None:
        found = documents([write(tmp_path, a=WORDS)])
        with pytest.raises((InputError, SettingError), match=r"use a vocabulary of \d+|vocab must be .* at most"):
            Tokenizer.trained(found, vocab)

    @pytest.mark.parametrize("tokenizer", [Tokenizer.bytes(), TRAINED], ids=["bytes", "trained"])
    @pytest.mark.parametrize("text", [None, 5, b"x", ["a"], "a\udcff"])
    def test_a_text_is_a_string(self, tokenizer: Tokenizer, text: Any) -> None:
        with pytest.raises(InputError, match=r"a text must be a string|is not UTF-8 text"):
            tokenizer.encode(text)

    @pytest.mark.parametrize("tokenizer", [Tokenizer.bytes(), TRAINED], ids=["bytes", "trained"])
    @pytest.mark.parametrize("ids", [None, 5, "x", ["a"], [1.5], [None], np.array([[1]]), [10**30], [np.nan]])
    def test_ids_are_whole_numbers(self, tokenizer: Tokenizer, ids: Any) -> None:
        with pytest.raises(InputError, match=r"token ids must be|no token"):
            tokenizer.decode(ids)

    @pytest.mark.parametrize(("task", "vocab"), [(None, 256), (["lm"], 256), ("lm", None), ("lm", "x"), ("lm", 256.5)])
    def test_a_model_has_a_task_and_a_vocabulary(self, task: Any, vocab: Any) -> None:
        with pytest.raises(SettingError, match=r"task must be a string|vocab must be"):
            Tokenizer.bytes().check(task, vocab)


class TestBatches:
    GIVEN: ClassVar[dict[str, Any]] = {
        "task": "lm",
        "rows": 2,
        "seq_len": 4,
        "seed": 0,
        "segments": False,
        "vocab": 256,
    }

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("rows", value) for value in (0, "x", None, 1.5)),
            *(("seq_len", value) for value in (0, "x", True)),
            *(("seed", value) for value in (-1, None)),
            *(("vocab", value) for value in (None, "x", 1.5)),
            *(("task", value) for value in (None, 5, ["lm"], "ml")),
            *((flag, value) for flag in ("segments", "shuffle") for value in ("x", None)),
        ],
    )
    def test_each_argument_that_is_wrong_is_named(self, corpus: Corpus, name: str, value: Any) -> None:
        with pytest.raises(SettingError, match=name):
            TextBatches(corpus, **{**self.GIVEN, name: value})

    def test_all_are_named_at_once(self, corpus: Corpus) -> None:
        for wrong in ({"rows": 0, "seq_len": 0, "seed": -1}, {"seq_len": 1.5, "segments": 2, "vocab": "x"}):
            with pytest.raises(SettingError) as caught:
                TextBatches(corpus, **{**self.GIVEN, **wrong})
            assert len(caught.value.problems) == 3

    def test_more_than_memory_holds_is_an_error(self, corpus: Corpus) -> None:
        with pytest.raises(FlashirError, match="memory"):
            TextBatches(corpus, **{**self.GIVEN, "rows": 2**40, "seq_len": 2**10}).at(0)

    def test_numbers_of_numpy_are_numbers(self, corpus: Corpus) -> None:
        given = {**self.GIVEN, "rows": np.int64(2), "vocab": np.int32(256), "segments": np.bool_(True)}
        assert TextBatches(corpus, **given).at(0).inputs[0].shape == (2, 4)

    @pytest.mark.parametrize("share", ["x", None, float("nan"), 0, 1, True])
    def test_a_share_is_a_share(self, corpus: Corpus, share: Any) -> None:
        with pytest.raises(SettingError, match=r"held-out share must|share must be a number"):
            corpus.split(share)


class TestShards:
    def test_lengths_that_were_damaged_are_found(self, tmp_path: Path) -> None:
        write(tmp_path, a="one hundred", b="two")
        prepare([tmp_path], Tokenizer.bytes(), tmp_path / "cache")
        (index,) = (tmp_path / "cache").glob("*.json")
        good = index.read_bytes()
        for bad in (b'"lengths":[10,4]', b'"lengths":[14]', b'"lengths":[11,2]', b'"lengths":[11,3,0]'):
            index.write_bytes(good.replace(b'"lengths":[11,3]', bad))
            assert index.read_bytes() != good
            corpus = prepare([tmp_path], Tokenizer.bytes(), tmp_path / "cache")
            assert [len(span.tokens) for span in corpus.spans] == [11, 3] and index.read_bytes() == good

    def test_an_index_from_before_its_lengths_had_a_digest_is_read(self, tmp_path: Path) -> None:
        write(tmp_path, a="one", b="two")
        prepare([tmp_path], Tokenizer.bytes(), tmp_path / "cache")
        (index,) = (tmp_path / "cache").glob("*.json")
        old = b'{"lengths":[3,3],"sha256":"' + index.read_bytes().split(b'"sha256":"')[1][:64] + b'"}'
        index.write_bytes(old)
        prepare([tmp_path], Tokenizer.bytes(), tmp_path / "cache")
        assert index.read_bytes() == old

    @posix
    def test_a_cache_that_is_no_folder_is_an_error(self, tmp_path: Path) -> None:
        write(tmp_path, a="one")
        with pytest.raises(FlashirError, match="cache must be a path"):
            prepare([tmp_path], Tokenizer.bytes(), 5)  # type: ignore[arg-type]


def test_a_document_that_is_longer_than_said_is_found(tmp_path: Path) -> None:
    (found,) = documents([write(tmp_path, a="one")])
    with pytest.raises(InputError, match="has changed"):
        list(texts.pieces(Document(found.path, "0" * 64, found.size)))
