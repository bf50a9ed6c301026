"""Errors say what, where and how to mend it; all of it at once."""

from __future__ import annotations

import pytest

from flashir import FlashirError, errors
from flashir.errors import suggest


def test_one_problem_is_one_sentence() -> None:
    assert str(FlashirError("it broke")) == "it broke"
    assert str(FlashirError("it broke", where="model.fir:1:2", hint="mend it")) == "model.fir:1:2: it broke\nmend it"


def test_several_problems_are_a_list() -> None:
    error = FlashirError(["one", "two"], where="here")
    assert error.problems == ("one", "two")
    assert str(error) == "here: 2 problems\n  - one\n  - two"


def test_every_kind_has_a_code_of_its_own() -> None:
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, FlashirError)]
    assert len({each.code for each in kinds}) == len(kinds) >= 7
    assert all(each.__doc__ for each in kinds)


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("fash", ["flash", "gau"], "; did you mean 'flash'?"),
        ("xyz", ["flash", "gau"], "; known: flash, gau"),
        ("", [], "; known: "),
    ],
)
def test_the_nearest_name_is_suggested_or_all_that_is_known(name: str, known: list[str], hint: str) -> None:
    assert suggest(name, known) == hint
