"""Values of a wrong type or range are told of in our own words, whatever msgspec says."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from flashir.errors import InputError
from flashir.files.foreign import parse_json
from flashir.files.mismatch import mismatch


class Colour(Enum):
    RED = "red"


class Table(msgspec.Struct, forbid_unknown_fields=True):
    count: int
    names: list[str] = []
    colour: Colour = Colour.RED


CASES: list[tuple[Any, Any, str]] = [
    (3, str, "wanted text, got a whole number"),
    ("x", int | None, "wanted a whole number or nothing, got text"),
    (0, Annotated[int, Meta(ge=1)], "wanted a whole number from 1 on"),
    (0.5, Annotated[float, Meta(lt=0.5)], "wanted a number below 0.5"),
    ("x", Annotated[str, Meta(pattern="^y$")], "wanted text that matches '^y$'"),
    ("", Annotated[str, Meta(min_length=1)], "wanted text of length at least 1"),
    ([1], Annotated[list[int], Meta(min_length=2)], "wanted a list of length at least 2"),
    ({}, Table, "count is missing"),
    ({"count": 1, "more": 2}, Table, "there is no field more"),
    ({"count": 1, "names": ["a", None]}, Table, "names[1]: wanted text, got nothing"),
    ({"count": 1, "colour": "blue"}, Table, "colour: 'blue' is not an allowed value"),
    ("c", Literal["a", "b"], "'c' is not an allowed value"),
    ([], Table, "wanted a table, got a list"),
    (True, float, "wanted a number, got true or false"),
]


@pytest.mark.parametrize(("value", "shape", "said"), CASES, ids=[said for *_, said in CASES])
def test_what_was_wanted_and_what_came(value: Any, shape: Any, said: str) -> None:
    with pytest.raises(msgspec.ValidationError) as raised:
        msgspec.convert(value, shape)
    assert mismatch(raised.value) == said
    with pytest.raises(InputError) as told:
        parse_json(msgspec.json.encode(value), Path("f.json"), InputError, shape, problem="no list of colours")
    assert told.value.message == f"f.json: no list of colours: {said}"
