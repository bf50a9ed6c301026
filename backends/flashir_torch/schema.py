"""The shape of what `torch.export` writes into an archive, as far as exports of flashir have it.

An object has the fields that are listed and no others, a name is an identifier, a device is the processor: what the
loader could do beside that has no place to stand.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_LONG = 1 << 16
Name = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", max_length=1000)]
Dotted = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_+.-]*\Z", max_length=1000)]
Target = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.]+\Z", max_length=200)]
Told = Annotated[str, Meta(max_length=_LONG)]
Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Size = Annotated[int, Meta(ge=0, le=2**53)]
DType = Literal[4, 5, 6, 7, 8, 12, 13]  # i32 i64 f16 f32 f64 bool bf16, as in the loader
ITEM_BYTES = {4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
Float = float | Literal["Infinity", "-Infinity", "NaN"]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object with these fields and no others."""


class Device(Part, frozen=True):
    """The processor."""

    type: Literal["cpu"]
    index: None = None


class Hint(Part, frozen=True):
    """The value that a size had when the program was traced."""

    as_int: Int


class Expression(Part, frozen=True):
    """A size as an expression, and its value in the example."""

    expr_str: str
    hint: Hint | None = None


class SymInt(Part, frozen=True):
    """A size: an expression or a number."""

    as_expr: Expression | None = None
    as_int: Size | None = None


class TensorMeta(Part, frozen=True):
    """What a tensor is."""

    dtype: DType
    sizes: list[SymInt]
    requires_grad: bool
    device: Device
    strides: list[SymInt]
    storage_offset: SymInt
    layout: Literal[7]  # strided


class Tensor(Part, frozen=True):
    """A tensor, by its name."""

    name: Name


class Number(Part, frozen=True):
    """A number, or a size by its name."""

    as_name: Name | None = None
    as_int: Int | None = None


class GraphArgument(Part, frozen=True):
    """The body of a loop."""

    name: Name
    graph: Graph


class Argument(Part, frozen=True):
    """What goes into or comes out of an operator: one of these fields is set."""

    as_none: bool | None = None
    as_tensor: Tensor | None = None
    as_tensors: list[Tensor] | None = None
    as_int: Int | None = None
    as_ints: list[Int] | None = None
    as_float: Float | None = None
    as_string: Told | None = None
    as_sym_int: Number | None = None
    as_sym_ints: list[Number] | None = None
    as_scalar_type: DType | None = None
    as_memory_format: Literal[1, 4] | None = None  # contiguous, as it is
    as_layout: Literal[7] | None = None
    as_device: Device | None = None
    as_bool: bool | None = None
    as_graph: GraphArgument | None = None


class NamedArgument(Part, frozen=True):
    """An argument of an operator."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]*\Z", max_length=100)]
    arg: Argument
    kind: Literal[0, 1, 2] | None = None


class Metadata(Part, frozen=True):
    """What is remembered of the code that was traced. It is kept as text, but for names that are looked up."""

    stack_trace: Told = ""
    nn_module_stack: Told = ""
    torch_fn: Told = ""
    source_fn_stack: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.,;]*\Z", max_length=_LONG)] = ""
    from_node: Told = ""
    custom: Annotated[str, Meta(pattern=r'^[A-Za-z0-9_ {}":,]*\Z', max_length=_LONG)] = ""


class Node(Part, frozen=True):
    """A call of an operator."""

    target: Target
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: Metadata
    is_hop_single_tensor_return: bool | None = None
    name: Name | None = None


class Nothing(Part, frozen=True):
    """An empty object."""


class Graph(Part, frozen=True):
    """Calls in order, and what is known of the values."""

    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[Node]
    tensor_values: dict[Name, TensorMeta]
    sym_int_values: dict[Name, SymInt]
    sym_bool_values: Nothing = Nothing()
    is_single_tensor_return: bool = False
    custom_obj_values: Nothing = Nothing()
    sym_float_values: Nothing = Nothing()


class Parameter(Part, frozen=True):
    """An input that is a parameter."""

    arg: Tensor
    parameter_name: Dotted


class User(Part, frozen=True):
    """An input or result of the program."""

    arg: Argument


class InputSpec(Part, frozen=True):
    """One of both."""

    user_input: User | None = None
    parameter: Parameter | None = None


class OutputSpec(Part, frozen=True):
    """A result."""

    user_output: User


class Signature(Part, frozen=True):
    """What goes in and comes out."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class CallSignature(Part, frozen=True):
    """How the arguments of the program are nested."""

    inputs: Annotated[list[Argument], Meta(max_length=0)]
    outputs: Annotated[list[Argument], Meta(max_length=0)]
    in_spec: Told
    out_spec: Told
    forward_arg_names: list[Name] | None = None


class Call(Part, frozen=True):
    """A module of the original."""

    fqn: Dotted
    signature: CallSignature | None = None


class Module(Part, frozen=True):
    """The program and its signature."""

    graph: Graph
    signature: Signature
    module_call_graph: list[Call]
    metadata: Nothing = Nothing()
    treespec_namedtuple_fields: Nothing = Nothing()


class Range(Part, frozen=True):
    """What a size may be."""

    min_val: Int | None
    max_val: Int | None


class Version(Part, frozen=True):
    """Of the format."""

    major: Int
    minor: Int


class Program(Part, frozen=True):
    """All of `models/model.json`."""

    graph_module: Module
    opset_version: dict[Name, Int]
    range_constraints: dict[Annotated[str, Meta(pattern=r"^s[0-9]{1,9}\Z")], Range]
    schema_version: Version
    verifiers: list[Literal["TRAINING", "ATEN"]]
    torch_version: Annotated[str, Meta(max_length=100)]
    guards_code: Annotated[list[str], Meta(max_length=5000)]


class Tree(Part, frozen=True):
    """How arguments are nested: tuples, and a dictionary of none."""

    type: Literal["builtins.tuple", "builtins.dict"] | None
    context: Literal["null", "[]"] | None
    children_spec: list[Tree]


class Payload(Part, frozen=True):
    """A tensor of an archive: where its bytes are, and what they are."""

    path_name: Annotated[str, Meta(pattern=r"^(weight|tensor)_[0-9]{1,9}\Z")]
    is_param: bool
    use_pickle: bool
    tensor_meta: TensorMeta | None


class Payloads(Part, frozen=True):
    """All of a `.._config.json`."""

    config: dict[Dotted, Payload]


class Nothings(Part, frozen=True):
    """A `.._config.json` of no tensors."""

    config: Nothing


class NamedCall(msgspec.Struct, frozen=True):
    """A call by its operator alone, whatever else is said of it."""

    target: str


class NamedGraph(msgspec.Struct, frozen=True):
    """Calls by their operators."""

    nodes: list[NamedCall]


class NamedModule(msgspec.Struct, frozen=True):
    """A module by its calls."""

    graph: NamedGraph


class NamedProgram(msgspec.Struct, frozen=True):
    """A program by its calls: to say first what it would do."""

    graph_module: NamedModule
