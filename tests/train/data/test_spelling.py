"""Text while it is generated: whole characters, the same text as all tokens at once, and strings that end it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from flashir.errors import SettingError
from flashir.train.data import Tokenizer
from flashir.train.data.spelling import UNKNOWN, Spelling, Stops
from tests.train.data.support import WORDS, texts
from tests.train.data.test_tokenizer import TRAINED

BOTH = pytest.mark.parametrize("tokenizer", [Tokenizer.bytes(), TRAINED], ids=["bytes", "trained"])


def spelled(tokenizer: Tokenizer, tokens: Iterable[int]) -> list[str]:
    """What is told with each token, and at the end."""
    spelling = Spelling(tokenizer)
    return [*(spelling.add(int(token)) for token in tokens), spelling.end()]


@BOTH
@given(texts())
def test_a_character_comes_whole(tokenizer: Tokenizer, text: str) -> None:
    found = spelled(tokenizer, tokenizer.encode(text))
    assert "".join(found) == text and found[-1] == ""


@BOTH
@given(st.lists(st.integers(0, 256) | st.sampled_from([0xE2, 0x82, 0xAC, 0xF0, 0x9F])))
def test_any_tokens_say_what_they_say_together(tokenizer: Tokenizer, tokens: list[int]) -> None:
    assert "".join(spelled(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_a_character_is_told_with_its_last_byte() -> None:
    assert spelled(Tokenizer.bytes(), "é€".encode()) == ["", "é", "", "", "€", ""]
    assert spelled(Tokenizer.bytes(), [0xE2, 0x82]) == ["", "", UNKNOWN]
    assert spelled(Tokenizer.bytes(), [0xE2, 0x41, 0xFF]) == ["", f"{UNKNOWN}A", UNKNOWN, ""]


@BOTH
def test_the_library_agrees_on_what_ids_spell(tokenizer: Tokenizer) -> None:
    library = tokenizers.Tokenizer.from_str(tokenizer.text)
    assert tokenizer.spelled is not None and len(tokenizer.spelled) == tokenizer.vocab
    for token, spelling in enumerate(tokenizer.spelled):
        assert library.decode([token], skip_special_tokens=False) == spelling.decode(errors="replace")


def test_a_special_token_of_others_is_spelled_as_it_is_written() -> None:
    library = tokenizers.Tokenizer.from_str(TRAINED.text)
    library.add_special_tokens(["<|the end|>"])
    tokenizer = Tokenizer(library.to_str())
    assert spelled(tokenizer, [tokenizer.vocab - 1])[0] == "<|the end|>"


@BOTH
def test_a_token_that_the_tokenizer_does_not_have_is_told_as_such(tokenizer: Tokenizer) -> None:
    assert spelled(tokenizer, [tokenizer.vocab, 256 + 80, -1])[0] == UNKNOWN
    assert spelled(Tokenizer.bytes(), [0xE2, 300, 0x41]) == ["", UNKNOWN * 2, "A", ""]


def words(decoder: str) -> Tokenizer:
    """Tokenizers of others, whose tokens say different things beside each other."""
    models, decoders = tokenizers.models, tokenizers.decoders
    if decoder == "WordPiece":
        names = ["[UNK]", "un", "##able", "##s", "foo", "bar"]
        made = tokenizers.Tokenizer(models.WordPiece({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
        made.decoder = decoders.WordPiece(cleanup=False)
    elif decoder == "Metaspace":
        made = tokenizers.Tokenizer(
            models.Unigram([(name, -1.0) for name in ("▁un", "able", "▁", "s", "▁foo", "b")], 0)
        )
        made.decoder = decoders.Metaspace()
    elif decoder == "ByteFallback":
        names = ["<0xE2>", "<0x82>", "<0xAC>", "a", "é", "<0xFF>"]
        made = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    else:
        made = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate("abcdef")}, unk_token="a"))
    return Tokenizer(made.to_str())


@pytest.mark.parametrize("decoder", ["WordPiece", "Metaspace", "None"])
@given(st.lists(st.integers(0, 5), max_size=12))
def test_tokens_that_are_no_bytes_are_read_with_the_one_before(decoder: str, tokens: list[int]) -> None:
    tokenizer = words(decoder)
    assert tokenizer.spelled is None
    assert "".join(spelled(tokenizer, tokens)) == tokenizer.decode(tokens)


def test_bytes_of_others_wait_for_a_whole_character_but_not_for_ever() -> None:
    tokenizer = words("ByteFallback")
    assert spelled(tokenizer, [3, 0, 1, 2, 4]) == ["a", "", "", "€", "é", ""]
    assert "".join(spelled(tokenizer, [5] * 50)) == UNKNOWN * 50
    assert "".join(spelled(tokenizer, [5] * 50)[:20])


def ended(strings: list[str], pieces: Iterable[str]) -> tuple[str, bool]:
    """What is told of pieces, and whether a string ended them."""
    stops, told = Stops(strings), ""
    for piece in pieces:
        told += stops.add(piece)
        if stops.met:
            return told, True
    return told + stops.end(), False


def test_a_string_may_lie_across_pieces() -> None:
    assert ended(["\n\n"], ["one\n", "\ntwo"]) == ("one", True)
    assert ended(["end"], ["e", "n", "e", "nd", "x"]) == ("en", True)
    assert ended(["aab"], ["aa", "ab"]) == ("a", True)
    assert ended(["end"], ["the e", "n"]) == ("the en", False)
    assert ended([], ["one", "two"]) == ("onetwo", False)


def test_the_string_that_is_whole_first_ends_the_text() -> None:
    assert ended(["abc", "b"], ["abc"]) == ("a", True)
    assert ended(["c", "abc"], ["xabc"]) == ("x", True)


@given(
    text=st.text("ab", max_size=12),
    strings=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(0, 12), max_size=5),
)
def test_where_pieces_end_makes_no_difference(text: str, strings: list[str], cuts: list[int]) -> None:
    borders = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:stop] for start, stop in itertools.pairwise(borders)]
    ends = (end for end in range(len(text) + 1) for each in strings if text[:end].endswith(each))
    end = next(ends, None)
    longest = max((len(each) for each in strings if end is not None and text[:end].endswith(each)), default=0)
    wanted = (text, False) if end is None else (text[: end - longest], True)
    assert ended(strings, pieces) == wanted


@given(st.lists(st.sampled_from(WORDS.split()), min_size=1))
def test_nothing_is_held_that_cannot_begin_a_string(pieces: list[str]) -> None:
    stops = Stops(["\0"])
    assert [stops.add(piece) for piece in pieces] == pieces


def test_an_empty_string_is_refused() -> None:
    with pytest.raises(SettingError, match="cannot be empty"):
        Stops(["a", ""])
