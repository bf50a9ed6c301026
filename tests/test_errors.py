"""Errors say what, where and how to mend it; all of it at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashir import FlashirError, errors
from flashir.errors import command_line, option, spoken, suggest

ROOT = Path(__file__).parent.parent
PROGRAMS = re.compile(
    r"flashir/(cli/.*|experiments/.*|machine/hardware|bench/record)\.py"
    r"|backends/(.*/experiments/.*|flashir_jax/placement|flashir_torch/hub/modeling_flashir)\.py|frontends/.*/experiments/.*\.py"
)
"""Modules that are command lines themselves, write those of others, or run without flashir."""
TELLS = {"option", "spoken"}


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


def test_a_message_names_what_its_reader_can_set() -> None:
    said = (option("max_len", 9), option("decode"), option("strict", False, flag="--no-strict"), option("text", ""))
    assert said == ("max_len=9", "decode=True", "strict=False", "text")
    with command_line():
        said = (option("max_len", 9), option("decode"), option("strict", False, flag="--no-strict"), option("text", ""))
        assert said == ("--max-len 9", "--decode", "--no-strict", "--text")
        assert spoken("call it", "run it") == "run it"
    assert spoken("call it", "run it") == "call it"


def _flags(node: ast.AST) -> Iterator[str]:
    """The options of a command line that texts name, but for docstrings and what is chosen by who reads it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and getattr(child.func, "id", "") in TELLS:
            continue
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield from re.findall(r"(?<![\w-])--[a-z][a-z-]+", child.value)
        yield from _flags(child)


@pytest.mark.parametrize("folder", ["flashir", "backends", "frontends"])
def test_no_message_of_the_library_speaks_of_a_command_line(folder: str) -> None:
    files = [path for path in (ROOT / folder).rglob("*.py") if not PROGRAMS.fullmatch(str(path.relative_to(ROOT)))]
    found = {str(path.relative_to(ROOT)): [*_flags(ast.parse(path.read_text(encoding="utf-8")))] for path in files}
    assert {name: flags for name, flags in found.items() if flags} == {}
