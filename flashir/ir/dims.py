"""Known and symbolic sizes: `T`, `2*T + 1`, `256*ceildiv(T, 256)`.

A symbolic size is a polynomial with integer coefficients over atoms; an atom is a symbol or a `ceildiv`.
Polynomials have a canonical form, so equal sizes compare equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from operator import index
from typing import Any, Union

from flashir.errors import IRError
from flashir.ir.limits import LONGEST_NAME, MOST_ATOMS

Size = Union[int, "Dim"]
_IDENTIFIER = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{LONGEST_NAME - 1}}}\Z")
_KEYWORDS = ("true", "false", "none", "auto", "inf", "nan", "ceildiv")
RESERVED = frozenset((*_KEYWORDS, "f64", "f32", "f16", "bf16", "i64", "i32", "bool"))
LARGEST_COEFFICIENT = 2**63


def plain(value: Any) -> Any:
    """Convert an integer of NumPy or another library to a Python int; return anything else unchanged."""
    try:
        return value if isinstance(value, bool) else index(value)
    except TypeError:
        return value


@dataclass(frozen=True, order=True)
class Symbol:
    """A named size, such as `B` or `T`."""

    name: str

    def __str__(self) -> str:
        return self.name

    @property
    def atoms(self) -> int:
        """One."""
        return 1


@dataclass(frozen=True)
class CeilDiv:
    """`ceil(numerator / denominator)`, where the division is not exact."""

    numerator: Dim
    denominator: int

    def __str__(self) -> str:
        return f"ceildiv({self.numerator}, {self.denominator})"

    @property
    def atoms(self) -> int:
        """The number of symbols and divisions, including this one."""
        return 1 + self.numerator.atoms


Atom = Symbol | CeilDiv
Monomial = tuple[Atom, ...]


@dataclass(frozen=True)
class Dim:
    """A symbolic size: a sum of `coefficient * monomial`, sorted. Make one with `symbol`, `ceildiv` and `+ - *`."""

    terms: tuple[tuple[Monomial, int], ...]

    @cached_property
    def _text(self) -> str:
        return " + ".join(_term_text(monomial, coefficient) for monomial, coefficient in self.terms)

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__

    def __hash__(self) -> int:
        """Of the text, which is made once; equal sizes have equal texts."""
        return hash(self._text)

    @cached_property
    def divisor(self) -> int:
        """The greatest number that divides the size for all values of its symbols."""
        return gcd(*(coefficient for _, coefficient in self.terms))

    @cached_property
    def atoms(self) -> int:
        """The number of symbols and divisions, including those inside divisions."""
        return sum(atom.atoms for monomial, _ in self.terms for atom in monomial)

    def __add__(self, other: Size) -> Size:
        return _polynomial((*self.terms, *_terms(other)))

    def __mul__(self, other: Size) -> Size:
        others = _terms(other)
        if len(self.terms) * len(others) > MOST_ATOMS * 16:  # leaves room for terms that combine
            raise _too_long(len(self.terms) * len(others), "terms")
        return _polynomial(tuple((tuple(sorted(m + n, key=str)), c * k) for m, c in self.terms for n, k in others))

    def __neg__(self) -> Size:
        return self * -1

    def __sub__(self, other: Size) -> Size:
        return self + other * -1

    def __rsub__(self, other: Size) -> Size:
        return other + self * -1

    __radd__, __rmul__ = __add__, __mul__


def symbol(name: str) -> Dim:
    """The symbolic size `name`. Raises IRError if it is not an identifier or is a keyword."""
    if not _IDENTIFIER.match(name) or name in RESERVED:
        raise IRError(
            f"a symbolic size must be an identifier of at most {LONGEST_NAME} characters and not a keyword, "
            f"got {name!r}"
        )
    return Dim((((Symbol(name),), 1),))


def symbol_of(size: Size) -> str | None:
    """The name of a size that is a single symbol; None for any other size."""
    match size:
        case Dim(terms=(((Symbol(name=name),), 1),)):
            return name
    return None


def ceildiv(numerator: Size, denominator: int) -> Size:
    """`ceil(numerator / denominator)`, with multiples of the denominator moved out of the division."""
    if denominator < 1:
        raise IRError(f"ceildiv needs a positive divisor, got {denominator}")
    if denominator == 1:
        return numerator
    whole = _polynomial(tuple((m, c // denominator) for m, c in _terms(numerator)))
    rest = _polynomial(tuple((m, c % denominator) for m, c in _terms(numerator)))
    if isinstance(rest, int):
        return whole + -(-rest // denominator)
    return whole + Dim((((CeilDiv(rest, denominator),), 1),))


def divides(divisor: int, size: Size) -> bool:
    """Whether `size` is a multiple of `divisor` for all values of its symbols."""
    return all(coefficient % divisor == 0 for _, coefficient in _terms(size))


def symbols(size: Size) -> frozenset[str]:
    """The names that occur in a size."""
    names: set[str] = set()
    for monomial, _ in _terms(size):
        for atom in monomial:
            names |= {atom.name} if isinstance(atom, Symbol) else symbols(atom.numerator)
    return frozenset(names)


def evaluate(size: Size, bindings: Mapping[str, int]) -> int:
    """The size as a number. Raises IRError if a symbol is not bound."""
    if isinstance(size, int):
        return size
    total = 0
    for monomial, coefficient in size.terms:
        product = coefficient
        for atom in monomial:
            product *= _evaluate_atom(atom, bindings)
        total += product
    return total


def substitute(size: Size, bindings: Mapping[str, Size]) -> Size:
    """The size with symbols replaced by other sizes."""
    total: Size = 0
    for monomial, coefficient in _terms(size):
        product: Size = coefficient
        for atom in monomial:
            if isinstance(atom, Symbol):
                product = product * bindings.get(atom.name, symbol(atom.name))
            else:
                product = product * ceildiv(substitute(atom.numerator, bindings), atom.denominator)
        total = total + product
    return total


def _evaluate_atom(atom: Atom, bindings: Mapping[str, int]) -> int:
    if isinstance(atom, CeilDiv):
        return -(-evaluate(atom.numerator, bindings) // atom.denominator)
    if atom.name not in bindings:
        raise IRError(f"the size {atom.name} has no value", hint=f"give {atom.name} a value")
    return bindings[atom.name]


def _terms(size: Size) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(size, Dim):
        return size.terms
    return (((), size),) if size else ()


def _polynomial(terms: tuple[tuple[Monomial, int], ...]) -> Size:
    """Combine equal monomials, drop zeros, and sort by degree, then by name."""
    sums: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        sums[monomial] = sums.get(monomial, 0) + coefficient
    nonzero = {m: c for m, c in sums.items() if c}
    if not any(nonzero):
        return nonzero.get((), 0)
    atoms, largest = sum(atom.atoms for m in nonzero for atom in m), max(map(abs, nonzero.values()))
    if atoms > MOST_ATOMS:
        raise _too_long(atoms, "symbols and divisions")
    if largest > LARGEST_COEFFICIENT:
        raise IRError(f"a size has too large a number in it: {largest}, at most {LARGEST_COEFFICIENT} is possible")
    return Dim(tuple(sorted(nonzero.items(), key=lambda item: (-len(item[0]), [str(a) for a in item[0]]))))


def _too_long(count: int, what: str) -> IRError:
    return IRError(f"a size is too long a polynomial: it has {count} {what}, at most {MOST_ATOMS} are possible")


def _term_text(monomial: Monomial, coefficient: int) -> str:
    factors = [str(atom) for atom in monomial]
    if coefficient != 1 or not factors:
        factors.insert(0, str(coefficient))
    return "*".join(factors)
