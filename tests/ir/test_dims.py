"""Sizes are polynomials: they obey the laws of arithmetic, whatever their symbols stand for."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashir import FlashirError
from flashir.ir import Dim, ceildiv, divides, evaluate, parse_size, substitute, symbol, symbols
from flashir.ir.dims import RESERVED, Size
from flashir.ir.types import DTYPE_NAMES
from tests.strategies import bindings, sizes


@given(sizes(), sizes(), bindings())
def test_sums_differences_and_products_are_those_of_the_values(a: Size, b: Size, values: dict[str, int]) -> None:
    x, y = evaluate(a, values), evaluate(b, values)
    assert evaluate(a + b, values) == x + y
    assert evaluate(a - b, values) == x - y
    assert evaluate(a * b, values) == x * y
    assert evaluate(-a, values) == -x


@given(sizes(), sizes(), sizes())
def test_equal_polynomials_compare_equal(a: Size, b: Size, c: Size) -> None:
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert (a * b) * c == a * (b * c)
    assert a * (b + c) == a * b + a * c
    assert a - a == 0
    assert a + 0 == a
    assert a * 1 == a
    assert a * 0 == 0
    assert hash(a + b) == hash(b + a)


@given(sizes(), st.integers(1, 9), bindings())
def test_ceildiv_rounds_up(a: Size, divisor: int, values: dict[str, int]) -> None:
    assert evaluate(ceildiv(a, divisor), values) == ceil(evaluate(a, values) / divisor)


@given(sizes(), sizes(), st.integers(1, 9))
def test_whole_multiples_come_out_of_ceildiv(a: Size, b: Size, divisor: int) -> None:
    assert ceildiv(a * divisor, divisor) == a
    assert ceildiv(a * divisor + b, divisor) == a + ceildiv(b, divisor)


@given(sizes(), st.integers(1, 9), bindings())
def test_what_divides_leaves_no_rest(a: Size, divisor: int, values: dict[str, int]) -> None:
    assert divides(divisor, a * divisor)
    if divides(divisor, a):
        assert evaluate(a, values) % divisor == 0


@given(sizes(), sizes(), bindings())
def test_substitution_is_evaluation_of_the_part(a: Size, b: Size, values: dict[str, int]) -> None:
    replaced = substitute(a, {"T": b})
    assert evaluate(replaced, values) == evaluate(a, {**values, "T": evaluate(b, values)})
    assert substitute(a, values) == evaluate(a, values)


@given(sizes())
def test_the_text_of_a_size_reads_back(a: Size) -> None:
    assert parse_size(str(a)) == a


@given(sizes(), bindings())
def test_a_size_needs_its_symbols_and_no_others(a: Size, values: dict[str, int]) -> None:
    needed = {name: values[name] for name in symbols(a)}
    assert evaluate(a, needed) == evaluate(a, values)
    for name in needed:
        with pytest.raises(FlashirError, match=f"the size {name} has no value"):
            evaluate(a, {other: value for other, value in needed.items() if other != name})


def test_constants_are_plain_numbers() -> None:
    t = symbol("T")
    assert t - t + 3 == 3
    assert isinstance(t - t + 3, int)
    assert isinstance(t + 3, Dim)


def test_terms_print_from_the_highest_degree_down() -> None:
    b, t = symbol("B"), symbol("T")
    assert str(3 + 2 * t + t * b * t - b) == "B*T*T + -1*B + 2*T + 3"
    assert str(256 * ceildiv(t + 1, 256)) == "256*ceildiv(T + 1, 256)"


@pytest.mark.parametrize("name", ["", "2T", "a b", "T\n", "é", *sorted(RESERVED)])
def test_a_symbol_must_be_a_word_that_means_nothing_else(name: str) -> None:
    with pytest.raises(FlashirError, match="must be an identifier"):
        symbol(name)


def test_names_of_element_types_mean_something_else() -> None:
    assert DTYPE_NAMES <= RESERVED


@pytest.mark.parametrize("divisor", [0, -1])
def test_a_divisor_must_be_positive(divisor: int) -> None:
    with pytest.raises(FlashirError, match=f"positive divisor, got {divisor}"):
        ceildiv(symbol("T"), divisor)


def test_sizes_do_not_grow_without_bound() -> None:
    factor = "(A + B + C + D + E + F + G + H)"
    with pytest.raises(FlashirError, match="too long a polynomial"):
        parse_size("*".join([factor] * 40))
    with pytest.raises(FlashirError, match="too large a number"):
        symbol("T") * 2**64
    with pytest.raises(FlashirError, match="too long"):
        parse_size("*".join(["T"] * 1000))
