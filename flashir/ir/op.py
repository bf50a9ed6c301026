"""One op, one record: an OpDef holds everything that the compiler knows about an op.

An op with `decompose` is composite, one without is primitive. Adding a composite op touches one file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from flashir.arguments import shown
from flashir.errors import SettingError, suggest
from flashir.ir.choices import Choice
from flashir.ir.cost import CostRule
from flashir.ir.dims import Dim, Size
from flashir.ir.extensions import Extensions
from flashir.ir.graph import AUTO, Attr, Auto, Node
from flashir.ir.limits import LARGEST_SIZE, LONGEST_NAME
from flashir.ir.op_table import OpTable
from flashir.ir.streaming import StreamingRule
from flashir.ir.traits import AXES_READ, Axes, FoldRule, GradientRule, GrowthRule, PaddingRule, RowsRule
from flashir.ir.types import DType, TensorType

REQUIRED = object()
PARAMETER_NAME = r"[A-Za-z0-9_.+-]*(\{[A-Za-z0-9_*+ -]+\}[A-Za-z0-9_.+-]*)*"
"""A name such as `proj_in.weight` or `layers.{4*i + 2}`. It is used as a key in files and as a Python attribute."""


@dataclass(frozen=True)
class AttrSpec:
    """The accepted values and the default of an attribute.

    Args:
        kind: the accepted Python types.
        default: the default value; `REQUIRED` if there is none.
        choices: the accepted values; empty for any.
        least: the smallest accepted number.
        most: the largest accepted integer; None for `LARGEST_SIZE`, or for no limit if floats are accepted.
        choice: how the compiler chooses a value; None if `auto` is not accepted.
        items: the accepted Python types of the items of a list.
        pattern: a regular expression that a string must match entirely.
        doc: one line of documentation.
    """

    kind: tuple[type, ...]
    default: Any = REQUIRED
    choices: tuple[Attr, ...] = ()
    least: float | None = None
    most: int | None = None
    choice: Choice | None = None
    items: tuple[type, ...] = ()
    pattern: str = ""
    doc: str = ""

    def problem(self, name: str, value: Attr) -> str | None:
        """What is wrong with a value, or None."""
        if isinstance(value, Auto):
            return None if self.choice else f"{name} must be {self._expected}, got auto"
        if value is None:
            return None if self.default is None else f"{name} must be {self._expected}, got none"
        if not _is_one_of(value, self.kind) or value != value:
            return f"{name} must be {self._expected}, got {value!r}"
        if isinstance(value, tuple) and not all(_is_one_of(item, self.items) for item in value):
            return f"{name} must hold {' or '.join(kind.__name__ for kind in self.items)} alone, got {value!r}"
        if isinstance(value, str) and self.pattern and len(value) > LONGEST_NAME:
            return f"{name} has {len(value)} characters, at most {LONGEST_NAME} are possible"
        if isinstance(value, str) and self.pattern and not re.fullmatch(self.pattern, value):
            return f"{name} must be a name such as 'proj_in.weight' or 'layers.{{i}}', got {value!r}"
        if self.choices and value not in self.choices:
            return f"{name} must be one of {', '.join(map(repr, self.choices))}, got {value!r}"
        if self.least is not None and isinstance(value, (int, float)) and not value >= self.least:
            return f"{name} must be at least {self.least}, got {value}"
        most = LARGEST_SIZE if self.most is None and float not in self.kind else self.most
        if most is not None and isinstance(value, int) and value > most:
            return f"{name} must be at most {most}, got {value}"
        return None

    @property
    def _expected(self) -> str:
        return " or ".join(kind.__name__ for kind in self.kind) + (" or auto" if self.choice else "")


def _is_one_of(value: Attr, kinds: tuple[type, ...]) -> bool:
    """Whether the value has one of these types. A bool is not an int."""
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def integer(
    default: Any = REQUIRED,
    least: int | None = None,
    choice: Choice | None = None,
    doc: str = "",
    *,
    most: int | None = None,
) -> AttrSpec:
    """An attribute that is a whole number."""
    return AttrSpec((int,), default, least=least, most=most, choice=choice, doc=doc)


def number(default: Any = REQUIRED, least: float | None = None, doc: str = "") -> AttrSpec:
    """An attribute that is a number."""
    return AttrSpec((float, int), default, least=least, doc=doc)


def flag(default: Any = REQUIRED, doc: str = "") -> AttrSpec:
    """An attribute that is true or false."""
    return AttrSpec((bool,), default, doc=doc)


def text(default: Any = REQUIRED, doc: str = "") -> AttrSpec:
    """An attribute that is a string."""
    return AttrSpec((str,), default, doc=doc)


def parameter_name(default: Any = REQUIRED, doc: str = "") -> AttrSpec:
    """An attribute that is the name of a parameter, or the part before it."""
    return AttrSpec((str,), default, pattern=PARAMETER_NAME, doc=doc)


def choice(*choices: str, default: Any = REQUIRED, choice: Choice | None = None, doc: str = "") -> AttrSpec:
    """An attribute that is one of several strings."""
    return AttrSpec((str,), default, choices, choice=choice, doc=doc)


def size(default: Any = REQUIRED, doc: str = "") -> AttrSpec:
    """An attribute that is a known or symbolic size."""
    return AttrSpec((int, Dim), default, least=0, doc=doc)


def listing(default: Any = REQUIRED, doc: str = "") -> AttrSpec:
    """An attribute that is a list of axes or of known sizes."""
    return AttrSpec((tuple,), default, items=(int,), doc=doc)


def sizes(default: Any = REQUIRED, doc: str = "") -> AttrSpec:
    """An attribute that is a list of known or symbolic sizes."""
    return AttrSpec((tuple,), default, items=(int, Dim), doc=doc)


def dtype(default: Any = REQUIRED, doc: str = "") -> AttrSpec:
    """An attribute that is a dtype."""
    return AttrSpec((DType,), default, doc=doc)


Scheme = Literal["fan_in", "paper"]
"""How parameters start: scaled by their fan-in, or as in the paper."""


@dataclass(frozen=True)
class ParamSpec:
    """A trainable parameter: its shape and its initial value, `mean + std * normal`, or by its fan-in.

    Args:
        shape: its shape.
        mean: the mean of the initial values.
        std: their standard deviation. In the paper it is 0.02 for every weight of every width (Codes 4, 6 and 8).
        fan_in: if not 0, the number of products with it that a result sums over, which makes the value
            `(mean + normal) / sqrt(fan_in)` instead, without `normal` if std is 0. So a matrix keeps the size of its
            input, and logits begin small, whatever the width.
        by_token: one number for each token of the vocabulary, added to the logits. Training may begin it at the log
            frequencies of the tokens.
        raised: added to the mean, but not as in the paper. A bias of scores under relu2 begins above 0 with it, because
            scores below 0 have no gradient.

    Raises IRError if it is larger than a tensor may be.
    """

    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 0.0
    fan_in: int = 0
    by_token: bool = False
    raised: float = 0.0

    def __post_init__(self) -> None:
        TensorType(DType.F32, self.shape)

    def start(self, scheme: Scheme = "fan_in") -> tuple[float, float]:
        """The mean and the standard deviation of the initial values, by fan-in or as in the paper."""
        if scheme == "paper":
            return self.mean, self.std
        if not self.fan_in:
            return self.mean + self.raised, self.std
        scale = float(self.fan_in) ** -0.5
        return self.mean * scale, scale if self.std else 0.0


@dataclass(frozen=True)
class Sample:
    """A case for the generated tests: the types of the operands as IR text, and the attributes.

    Integer operands are drawn from `0 .. high - 1`, so they are valid token ids.
    """

    operands: tuple[str | None, ...] = ()
    attrs: Mapping[str, Attr] = field(default_factory=dict)
    high: int = 5


def sample(*operands: str | None, high: int = 5, **attrs: Attr) -> Sample:
    """A test case: `sample("f32[2, 3]", "f32[3]", axis=1)`."""
    return Sample(operands, attrs, high)


Infer = Callable[..., TensorType | tuple[TensorType, ...]]


@dataclass(frozen=True)
class OpDef:
    """The record of an op.

    Args:
        name: the name in IR text.
        operands: the names of the operands; `x?` is optional, `xs*` takes all remaining ones.
        infer: types of the operands and attributes -> type or types of the results. Raises IRError.
        ref: the reference in NumPy float64. It is independent of `decompose`, so that each tests the other.
            A block also gets `p`, its parameters by local name; an op with a region gets `body`, a function.
        cost: bound types and attributes -> Cost. See `flashir.ir.cost`. None for a composite: what its decomposition
            adds up to, see `flashir.cost.node_cost`.
        samples: cases for the generated tests.
        attrs: the attributes.
        decompose: builder, operands and attributes -> the same results from simpler ops.
        params: types and attributes -> the parameters that it owns, by local name.
        scope: the prefix of those parameters: "pos", or "layers/attn" for a part of a numbered layer. May be a
            function of the attributes.
        region: for an op with a body: types of the operands and attributes -> types of the arguments of the body.
        rounds: for an op with a body: types of the operands and attributes -> the number of iterations.
        stream: how to decode token by token; needed if the result for a token depends on other tokens.
        inherit: missing attributes that follow from the nodes before this one.
        axes: what it does to the axes of its operands; required for primitives.
        gradient: which values its backward pass reads; required for primitives. The default of a composite that a
            target claims is all operands.
        growth: how its results grow with the sequence length; the default is as fast as its operands.
        fold: what a node simplifies to, given the nodes before it.
        neutral: the second operand that leaves the first unchanged, as 0 for `add`.
        commutative: whether the two operands may be exchanged.
        fuses: whether compilers fuse it with elementwise neighbours.
        inline: whether each reader recomputes it, as for a constant, so that it is never worth moving.
        moves: whether each element of the result is an element of an operand or a constant.
        clips: whether each element of the result equals that of an operand within some bounds.
        needed_if: the name of a mask among its operands. Where no element of it is true, the result is the first
            operand, and a target with branches skips the op.
        rows: for an op that looks up rows of a table: operand types and attributes -> the operand with the indices,
            and the number of rows.
        layer: for an op from x [b, t, d] to y [b, t, d] including norm and residual: the name of its class for custom
            models, such as `FLASH`.
        ignores_padding: attributes -> whether rows after the last token leave all earlier rows unchanged. Always true
            for elementwise ops.
        doc: one line of documentation.
        source: where it was published: a code, equation or section of the paper, or another paper.
        example: IR text of a model with this op, for an op with a body, which samples cannot show.
    """

    name: str
    operands: tuple[str, ...]
    infer: Infer
    ref: Callable[..., Any]
    cost: CostRule | None
    samples: tuple[Sample, ...]
    attrs: Mapping[str, AttrSpec] = field(default_factory=dict)
    decompose: Callable[..., Any] | None = None
    params: Callable[..., dict[str, ParamSpec]] | None = None
    scope: str | Callable[[Mapping[str, Attr]], str] = ""
    region: Callable[[list[TensorType], Mapping[str, Attr]], list[TensorType]] | None = None
    rounds: Callable[[list[TensorType], Mapping[str, Any]], Size] | None = None
    stream: StreamingRule | None = None
    inherit: Callable[[Mapping[str, Attr], tuple[Node, ...]], dict[str, Attr]] | None = None
    axes: Axes | None = None
    gradient: GradientRule | None = None
    growth: GrowthRule | None = None
    fold: FoldRule | None = None
    neutral: float | None = None
    commutative: bool = False
    fuses: bool = True
    inline: bool = False
    moves: bool = False
    clips: bool = False
    needed_if: str = ""
    rows: RowsRule | None = None
    ignores_padding: PaddingRule | None = None
    layer: str = ""
    doc: str = ""
    source: str = ""
    example: str = ""

    @property
    def is_primitive(self) -> bool:
        """Whether the op has no decomposition."""
        return self.decompose is None

    @property
    def choices(self) -> dict[str, Choice]:
        """The choices of the attributes that may be `auto`."""
        return {name: spec.choice for name, spec in self.attrs.items() if spec.choice is not None}

    @property
    def is_elementwise(self) -> bool:
        """Whether each element of the result depends only on the elements at the same position."""
        return self.axes is Axes.ELEMENTWISE

    def is_padding_safe(self, attrs: Mapping[str, Attr]) -> bool:
        """Whether rows after the last token leave all earlier rows unchanged."""
        return self.is_elementwise or (self.ignores_padding is not None and self.ignores_padding(attrs))

    def home(self, attrs: Mapping[str, Attr]) -> str:
        """The scope of its parameters for these attributes."""
        return self.scope(attrs) if callable(self.scope) else self.scope

    def complete(self, attrs: Mapping[str, Attr], before: tuple[Node, ...] = ()) -> dict[str, Attr]:
        """Fill in default attributes, in declared order. Raises SettingError with every problem."""
        if self.inherit is not None:
            attrs = {**attrs, **self.inherit(attrs, before)}
        problems = [f"{self.name} has no attribute {n!r}{suggest(n, self.attrs)}" for n in attrs if n not in self.attrs]
        complete: dict[str, Attr] = {}
        for name, spec in self.attrs.items():
            value = attrs.get(name, spec.default)
            if value is REQUIRED:
                problems.append(f"{self.name} needs the attribute {name!r}")
                continue
            complete[name] = value
            if value is not spec.default and (problem := spec.problem(name, value)):
                problems.append(f"{self.name}: {problem}")
        if problems:
            raise SettingError(problems)
        return complete

    @cached_property
    def arity(self) -> tuple[int, int | None]:
        """The least and greatest number of operands; None for no upper bound."""
        least = sum(not name.endswith(("?", "*")) for name in self.operands)
        return least, None if self.operands and self.operands[-1].endswith("*") else len(self.operands)


OPS: OpTable[OpDef] = OpTable()
"""Every op. The ops of plug-ins are loaded on demand; see `all_ops`."""

EXTENSIONS = Extensions(OPS)


def define_op(op: OpDef) -> OpDef:
    """Add an op to the table.

    Raises:
        SettingError: the name is taken, a primitive lacks a required trait, or a choice has no candidate, a duplicate
            or an invalid one.
    """
    EXTENSIONS.begin(op.name)
    problems = [f"the op {op.name!r} is defined twice"] if OPS.is_defined(op.name) else []
    if op.is_primitive:
        missing = [name for name in ("cost", "axes", "gradient") if getattr(op, name) is None]
        problems += [f"the primitive {op.name!r} does not say its {name}" for name in missing]
    for name, spec in op.attrs.items():
        if spec.choice is not None:
            wrong = spec.choice.problems(lambda value, n=name, s=spec: s.problem(n, value))  # type: ignore[misc]
            problems += [f"the choice {name!r} of the op {op.name!r} {problem}" for problem in wrong]
    read = () if op.axes is None else AXES_READ.get(op.axes, ())
    lacking = [name for name in read if name not in op.attrs]
    problems += [f"{op.name!r} says axes={op.axes}, and has no attribute {name!r}" for name in lacking]
    if problems:
        raise SettingError(problems, hint="see flashir.ir.traits for the traits of an op")
    if op.params is not None:
        scope = {"scope": parameter_name(None, doc="prefix of its parameters; numbered by position by default")}
        op = replace(op, attrs=MappingProxyType({**op.attrs, **scope}))
    OPS[op.name] = op
    return op


def opdef(name: str) -> OpDef:
    """The record of an op, built-in or from a plug-in. Raises SettingError if there is none."""
    if not isinstance(name, str):
        raise SettingError(f"the name of an op must be a string, got {shown(name)}")
    if name not in OPS:
        EXTENSIONS.load()
        if name not in OPS:
            faults = [fault for fault in EXTENSIONS.faults if name in fault.ops]
            unknown = [] if faults else [f"unknown op {name!r}{suggest(name, OPS)}"]
            raise SettingError(unknown + list(map(str, faults or EXTENSIONS.faults)))
    return OPS[name]


def all_ops() -> tuple[OpDef, ...]:
    """Every op, including those of plug-ins. `flashir doctor` reports plug-ins that fail."""
    EXTENSIONS.load()
    return tuple(OPS.values())


def same_type(x: TensorType, *_: TensorType, **__: Attr) -> TensorType:
    """The type of the first operand."""
    return x


__all__ = [
    "AUTO", "OPS", "AttrSpec", "OpDef", "ParamSpec", "Sample", "all_ops", "define_op", "opdef", "same_type", "sample",
]  # fmt: skip
