"""Documents end with a token, where there is one; special tokens are read where that is asked for, and only there."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from flashir.backends.training import NO_LABEL
from flashir.errors import InputError, SettingError
from flashir.models.end_tokens import USUAL, Reading, token_ids
from flashir.train.data import Corpus, Tokenizer, documents, prepare
from flashir.train.data.packing import pack, rows_of
from flashir.train.data.text import pieces
from tests.train.data.support import WORDS, prose, write
from tests.train.data.test_shards import Counting, content
from tests.train.data.test_tokenizer import TRAINED, train

END = "<|endoftext|>"
CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")


def gpt2(*special: str) -> tokenizers.Tokenizer:
    """A byte-level BPE as GPT-2 has it; its special tokens come first."""
    level = tokenizers.pre_tokenizers.ByteLevel
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer, made.decoder = level(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    alphabet = level.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([f"{WORDS} " * 20], trainer)
    return made


def saved(folder: Path, *special: str, **beside: object) -> Path:
    """Its file, and configuration files beside it."""
    gpt2(*special).save(str(folder / "tokenizer.json"))
    for name, said in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(said))
    return folder / "tokenizer.json"


class TestWhichToken:
    @pytest.mark.parametrize(
        ("special", "ends"),
        [
            ((), ()),
            (("<pad>", "<unk>"), ()),
            ((END,), (END,)),
            (("<s>", "</s>"), ("</s>",)),
            (("<|im_start|>", "<|im_end|>", END), (END, "<|im_end|>")),
            (("[CLS]", "[SEP]"), ("[SEP]",)),
            (("[SEP]", "</s>"), ("</s>",)),
        ],
    )
    def test_it_is_a_special_token_of_a_usual_name(
        self, tmp_path: Path, special: tuple[str, ...], ends: tuple[str, ...]
    ) -> None:
        assert Tokenizer.read(saved(tmp_path, *special)).ends == ends

    @pytest.mark.parametrize("name", USUAL)
    def test_every_usual_name_is_one(self, tmp_path: Path, name: str) -> None:
        assert Tokenizer.read(saved(tmp_path, "<pad>", name)).ends == (name,)

    def test_a_token_of_that_name_that_texts_have_is_none(self, tmp_path: Path) -> None:
        made = gpt2()
        made.add_tokens(["</s>"])
        made.save(str(tmp_path / "t.json"))
        assert Tokenizer.read(tmp_path / "t.json").ends == ()

    @pytest.mark.parametrize("file", ["tokenizer_config", "special_tokens_map"])
    @pytest.mark.parametrize("said", ["<stop>", {"content": "<stop>", "lstrip": False}])
    def test_a_configuration_beside_it_says_more_than_names(self, tmp_path: Path, file: str, said: object) -> None:
        path = saved(tmp_path, END, "<stop>", **{file: {"eos_token": said}})
        assert Tokenizer.read(path).ends == ("<stop>",)

    @pytest.mark.parametrize("tokens", [1, [1], [1, 0]])
    def test_generation_may_end_at_several(self, tmp_path: Path, tokens: object) -> None:
        path = saved(tmp_path, END, "<stop>", generation_config={"eos_token_id": tokens})
        assert Tokenizer.read(path).ends == (("<stop>", END) if tokens == [1, 0] else ("<stop>",))

    @pytest.mark.parametrize(
        ("file", "said", "problem"),
        [
            ("tokenizer_config", {"eos_token": "<none>"}, "eos_token is '<none>', which the tokenizer next to it"),
            ("tokenizer_config", {"eos_token": 3}, "eos_token is 3, which the tokenizer"),
            ("tokenizer_config", {"eos_token": {"content": ["x"]}}, "which the tokenizer"),
            ("special_tokens_map", [], "wanted a table"),
            ("generation_config", {"eos_token_id": [0, 4000]}, "eos_token_id is 4000, which"),
            ("generation_config", {"eos_token_id": "0"}, "eos_token_id is '0', which"),
        ],
    )
    def test_a_configuration_of_another_tokenizer_is_an_error_that_names_it(
        self, tmp_path: Path, file: str, said: object, problem: str
    ) -> None:
        tokenizer = Tokenizer.read(saved(tmp_path, END, **{file: said}))
        with pytest.raises(InputError, match=problem) as caught:
            assert tokenizer.ends
        assert caught.value.where == str(tmp_path / f"{file}.json") and caught.value.hint

    @pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000, b'{"eos_token": NaN}', b'""'])
    def test_a_damaged_configuration_is_an_error_that_names_it(self, tmp_path: Path, content: bytes) -> None:
        path = saved(tmp_path, END)
        (tmp_path / CONFIGS[0]).write_bytes(content)
        with pytest.raises(InputError, match=r"tokenizer_config\.json: "):
            assert Tokenizer.read(path).ends

    def test_a_configuration_without_one_says_nothing(self, tmp_path: Path) -> None:
        path = saved(tmp_path, END, tokenizer_config={"eos_token": None, "model_max_length": 1e30})
        assert Tokenizer.read(path).ends == (END,)

    def test_own_tokenizers_have_none_unless_one_is_wanted(self) -> None:
        assert Tokenizer.bytes().ends == TRAINED.ends == ()
        assert Tokenizer.bytes(END).ends == (END,)


class TestOwn:
    def test_bytes_with_an_end(self, tmp_path: Path) -> None:
        made = Tokenizer.bytes(END)
        assert (made.is_bytes, made.vocab, made.mask, made.token(END), made.needs("lm")) == (True, 258, 257, 256, 257)
        assert made.encode(f"é{END}").tolist() == list(f"é{END}".encode())
        reading = made.reads(Reading(END, special_tokens=True))
        assert reading.encode(f"{END}é{END}{END}b").tolist() == [256, 0xC3, 0xA9, 256, 256, 98]
        assert reading.decode([256, 98, 257]) == f"{END}b<mask>"
        library = tokenizers.Tokenizer.from_str(made.text)
        assert library.encode(f"{END}é{END}{END}b").ids == [256, 0xC3, 0xA9, 256, 256, 98]
        made.save(tmp_path / "t.json")
        assert Tokenizer.read(tmp_path / "t.json") == made and Tokenizer.read(tmp_path / "t.json").is_bytes

    def test_a_trained_one_with_an_end(self) -> None:
        text = f"{WORDS} " * 20
        with tempfile.TemporaryDirectory() as folder:
            found = documents([write(Path(folder), a=text)])
            made = Tokenizer.trained(found, 300, END)
            with pytest.raises(SettingError, match="at least 258, all bytes, the end and the mask"):
                Tokenizer.trained(found, 257, END)
            with pytest.raises(InputError, match=r"use a vocabulary of \d+"):
                Tokenizer.trained(found, 30000, END)
        assert (made.vocab, made.mask, made.token(END), made.ends) == (300, 299, 298, (END,))
        assert made.encode(f"the{END}").tolist() == train(text, 299).encode(f"the{END}").tolist()
        assert made.reads(Reading(None, special_tokens=True)).encode(f"the{END}").tolist()[-1] == 298
        assert made.decode([298]) == END

    @pytest.mark.parametrize("name", ["", "a", "é", "<mask>", "two\nlines", "\0\0"])
    def test_an_end_cannot_be_what_texts_have(self, name: str) -> None:
        with pytest.raises(SettingError, match="an end token must have a printable name"):
            Tokenizer.bytes(name)

    def test_without_an_end_nothing_has_changed(self) -> None:
        assert Tokenizer.bytes().digest == "ad76005b3673880dc31669296c76671b7b248ea852d2a162db1ad3c560ed1e38"
        assert Tokenizer.bytes().dtype == np.uint8


class TestReading:
    def test_special_tokens_are_read_only_where_that_is_asked_for(self, tmp_path: Path) -> None:
        plain = Tokenizer.read(saved(tmp_path, END))
        assert plain.encode(f"rich{END}").tolist()[-1] != 0
        wanted = gpt2(END).encode(f"rich{END}Emma").ids
        reading = plain.reads(Reading(END, special_tokens=True))
        assert reading.encode(f"rich{END}Emma").tolist() == wanted and 0 in wanted
        assert plain.encode(f"rich{END}").tolist()[-1] != 0

    def test_a_token_that_is_none_is_an_error_that_says_which_there_are(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer.read(saved(tmp_path, END, "<pad>"))
        with pytest.raises(InputError, match=r"no token '<eos>'\n.*<\|endoftext\|>, <pad>") as caught:
            tokenizer.reads(Reading("<eos>"))
        assert caught.value.where == str(tmp_path / "tokenizer.json")
        with pytest.raises(InputError, match="it has no special tokens"):
            Tokenizer.bytes().reads(Reading(END))

    def test_how_texts_are_read_is_a_part_of_the_digest(self) -> None:
        made = Tokenizer.bytes(END)
        ways = [Reading(), Reading(END), Reading(None, special_tokens=True), Reading(END, special_tokens=True)]
        assert len({made.reads(way).digest for way in ways}) == 4

    @given(
        st.lists(st.sampled_from([END, "<|im end|>", " ", "\n", "word", "é", "<|endof", "<"]), max_size=40),
        st.integers(1, 30),
    )
    def test_no_special_token_is_cut(self, parts: list[str], size: int) -> None:
        text = "x" + "".join(parts)
        special = [END, "<|im end|>"]
        with tempfile.TemporaryDirectory() as folder:
            (document,) = documents([write(Path(folder), a=text)])
            found = list(pieces(document, size, special))
        assert "".join(found) == text and all(found)
        for name in special:
            assert sum(piece.count(name) for piece in found) == text.count(name)

    @given(prose())
    def test_the_tokens_of_pieces_are_those_of_the_text(self, text: str) -> None:
        made = gpt2()
        made.add_special_tokens([tokenizers.AddedToken(END, rstrip=True, lstrip=True, special=True)])
        tokenizer = Tokenizer(made.to_str(), Reading(None, special_tokens=True))
        text = text.replace("\u00a0", END)
        with tempfile.TemporaryDirectory() as folder:
            (document,) = documents([write(Path(folder), a=text)])
            parts = list(pieces(document, 30, tokenizer.unbroken))
        whole = all(after[0].isspace() or after.startswith(END) for after in parts[1:])
        if whole:
            assert np.concatenate(tokenizer.encode_each(parts)).tolist() == tokenizer.encode(text).tolist()


class TestCorpus:
    @pytest.fixture
    def ends(self) -> Tokenizer:
        return Tokenizer.bytes(END).reads(Reading(END))

    def test_every_document_ends_with_it(self, tmp_path: Path, ends: Tokenizer) -> None:
        for _ in range(2):
            corpus = prepare([write(tmp_path, a="one", b=f"two{END}")], ends, tmp_path / "cache")
            assert content(corpus) == [f"one{END}", f"two{END}{END}"]
        assert corpus.read(0, 5).tolist() == [*b"one", 256, ord("t")]

    def test_an_end_that_is_there_is_not_put_twice(self, tmp_path: Path, ends: Tokenizer) -> None:
        reading = ends.reads(Reading(END, special_tokens=True))
        corpus = prepare([write(tmp_path, a=f"one{END}", b=END, c="x")], reading, tmp_path / "cache")
        assert [span.tokens.tolist() for span in corpus.spans] == [[*b"one", 256], [256], [ord("x"), 256]]

    def test_a_document_without_tokens_gets_none(self, tmp_path: Path) -> None:
        made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "one": 1}, unk_token="?"))
        made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        made.add_special_tokens([END])
        words = Tokenizer(made.to_str(), Reading(END))
        corpus = prepare([write(tmp_path, a=" \n", b="one")], words, tmp_path / "cache")
        assert [span.tokens.tolist() for span in corpus.spans] == [[1, 2]]

    def test_each_way_has_shards_of_its_own(self, tmp_path: Path) -> None:
        write(tmp_path, a=f"one{END}")
        made = Tokenizer.bytes(END)
        ways = [Reading(), Reading(END), Reading(None, special_tokens=True), Reading(END, special_tokens=True)]
        for _ in range(2):
            found = [prepare([tmp_path], made.reads(way), tmp_path / "cache") for way in ways]
            assert [len(corpus) for corpus in found] == [16, 17, 4, 4]
        assert len({corpus.digest for corpus in found}) == 4
        assert len(list((tmp_path / "cache").glob("*.ids"))) == 4

    def test_shards_without_are_found_again(self, tmp_path: Path) -> None:
        write(tmp_path, a="one")
        prepare([tmp_path], Tokenizer.bytes(), tmp_path / "cache")
        assert [path.stem for path in (tmp_path / "cache").glob("*.ids")] == ["f24ddb831ccec223e991267694b0bb6b"]
        Counting.count = 0
        prepare([tmp_path], Counting(Tokenizer.bytes().text), tmp_path / "cache")
        assert Counting.count == 0


class TestRows:
    def rows(self, folder: Path, reading: Reading, length: int, **texts: str) -> tuple[Corpus, list[list[int]], ...]:
        corpus = prepare([write(folder, **texts)], Tokenizer.bytes(END).reads(reading), folder / "cache")
        rows = pack(corpus, np.arange(rows_of(corpus, length)), length)
        return corpus, rows.ids.tolist(), rows.following.tolist(), rows.segment_ids.tolist()

    def test_the_end_is_wanted_and_nothing_after_it(self, tmp_path: Path) -> None:
        _, ids, following, segments = self.rows(tmp_path, Reading(END), 8, a="ab", b="cd")
        assert ids == [[97, 98, 256, 99, 100, 256, 0, 0]]
        assert following == [[98, 256, NO_LABEL, 100, 256, NO_LABEL, NO_LABEL, NO_LABEL]]
        assert segments == [[0, 0, 0, 1, 1, 1, 2, 2]]

    def test_documents_end_within_a_file_where_its_ends_are_read(self, tmp_path: Path) -> None:
        text = f"ab{END}cd{END}e"
        one = self.rows(tmp_path / "one", Reading(END, special_tokens=True), 4, a=text)
        several = self.rows(tmp_path / "several", Reading(END), 4, a="ab", b="cd", c="e")
        assert one[1:] == several[1:]
        assert one[1] == [[97, 98, 256, 99], [100, 256, 101, 256]]

    def test_padding_that_is_the_end_by_its_number_is_padding(self, tmp_path: Path) -> None:
        tokenizer = Tokenizer(gpt2(END).to_str()).reads(Reading(END, special_tokens=True))
        assert tokenizer.document_end == 0
        corpus = prepare([write(tmp_path, a="ab")], tokenizer, tmp_path / "cache")
        rows = pack(corpus, np.arange(1), 8)
        count = len(corpus)
        assert rows.segment_ids.tolist() == [[0] * count + [1] * (8 - count)]
        assert rows.real.sum() == count


def test_names_that_are_no_text_have_no_ids() -> None:
    unigram = {"model": {"vocab": [[["a"], 0.0], ["b", 0.0], [], 3]}, "added_tokens": [{"content": {}, "id": 1}, {}]}
    assert token_ids(unigram) == {"b": 1}
