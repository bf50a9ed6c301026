"""The schema of the files in an archive of `torch.export`, restricted to what exports of flashir contain.

Objects have only the listed fields, names are identifiers, and devices are the CPU. So nothing else reaches the loader.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

_LONG = 1 << 16
Name = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", max_length=1000)]
Dotted = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_+.-]*\Z", max_length=1000)]
Target = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.]+\Z", max_length=200)]
Text = Annotated[str, Meta(max_length=_LONG)]
Int = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Size = Annotated[int, Meta(ge=0, le=2**53)]
DType = Literal[4, 5, 6, 7, 8, 12, 13]  # i32 i64 f16 f32 f64 bool bf16, as in the loader
ITEM_BYTES = {4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
Float = float | Literal["Infinity", "-Infinity", "NaN"]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An object with these fields and no others."""


class Device(Part, frozen=True):
    """The CPU."""

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
    """The metadata of a tensor."""

    dtype: DType
    sizes: list[SymInt]
    requires_grad: bool
    device: Device
    strides: list[SymInt]
    storage_offset: SymInt
    layout: Literal[7]  # strided


class Tensor(Part, frozen=True):
    """A tensor by name."""

    name: Name


class Number(Part, frozen=True):
    """A number, or a size by name."""

    as_name: Name | None = None
    as_int: Int | None = None


class GraphArgument(Part, frozen=True):
    """The body of a loop."""

    name: Name
    graph: Graph


class Argument(Part, frozen=True):
    """An argument or result of an operator. Exactly one of these fields is set."""

    as_none: bool | None = None
    as_tensor: Tensor | None = None
    as_tensors: list[Tensor] | None = None
    as_int: Int | None = None
    as_ints: list[Int] | None = None
    as_float: Float | None = None
    as_string: Text | None = None
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
    """Metadata of the traced code. It stays text, except for names that are looked up."""

    stack_trace: Text = ""
    nn_module_stack: Text = ""
    torch_fn: Text = ""
    source_fn_stack: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.,;]*\Z", max_length=_LONG)] = ""
    from_node: Text = ""
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
    """The calls in order, and the metadata of the values."""

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
    """An input of either kind."""

    user_input: User | None = None
    parameter: Parameter | None = None


class OutputSpec(Part, frozen=True):
    """A result."""

    user_output: User


class Signature(Part, frozen=True):
    """The inputs and results of a program."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class CallSignature(Part, frozen=True):
    """How the arguments of the program are nested."""

    inputs: Annotated[list[Argument], Meta(max_length=0)]
    outputs: Annotated[list[Argument], Meta(max_length=0)]
    in_spec: Text
    out_spec: Text
    forward_arg_names: list[Name] | None = None


class Call(Part, frozen=True):
    """A module of the original program."""

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
    """The range of a size."""

    min_val: Int | None
    max_val: Int | None


class Version(Part, frozen=True):
    """The version of the format."""

    major: Int
    minor: Int


class Program(Part, frozen=True):
    """The content of `models/model.json`."""

    graph_module: Module
    opset_version: dict[Name, Int]
    range_constraints: dict[Annotated[str, Meta(pattern=r"^s[0-9]{1,9}\Z")], Range]
    schema_version: Version
    verifiers: list[Literal["TRAINING", "ATEN"]]
    torch_version: Annotated[str, Meta(max_length=100)]
    guards_code: Annotated[list[str], Meta(max_length=5000)]


class Tree(Part, frozen=True):
    """The nesting of arguments: tuples, and an empty dictionary."""

    type: Literal["builtins.tuple", "builtins.dict"] | None
    context: Literal["null", "[]"] | None
    children_spec: list[Tree]


class Payload(Part, frozen=True):
    """A tensor of an archive: the file of its bytes, and its metadata."""

    path_name: Annotated[str, Meta(pattern=r"^(weight|tensor)_[0-9]{1,9}\Z")]
    is_param: bool
    use_pickle: bool
    tensor_meta: TensorMeta | None


class Payloads(Part, frozen=True):
    """The content of a `.._config.json`."""

    config: dict[Dotted, Payload]


class Nothings(Part, frozen=True):
    """A `.._config.json` without tensors."""

    config: Nothing


class NamedCall(msgspec.Struct, frozen=True):
    """A call with only its operator."""

    target: str


class NamedGraph(msgspec.Struct, frozen=True):
    """A graph with only the operators of its calls."""

    nodes: list[NamedCall]


class NamedModule(msgspec.Struct, frozen=True):
    """A module with only its calls."""

    graph: NamedGraph


class NamedProgram(msgspec.Struct, frozen=True):
    """A program with only its calls, to report forbidden operators first."""

    graph_module: NamedModule
