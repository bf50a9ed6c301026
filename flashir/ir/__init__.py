"""The intermediate representation: types, graphs, the builder, text and verification."""

from flashir.ir.builder import Builder
from flashir.ir.dims import Dim, Size, ceildiv, divides, evaluate, substitute, symbol, symbols
from flashir.ir.graph import AUTO, Attr, Attrs, Auto, Graph, Node, Value
from flashir.ir.text.grammar import parse_size, parse_type
from flashir.ir.text.parser import loads
from flashir.ir.text.printer import dumps, node_text
from flashir.ir.types import DType, TensorType

__all__ = [
    "AUTO",
    "Attr",
    "Attrs",
    "Auto",
    "Builder",
    "DType",
    "Dim",
    "Graph",
    "Node",
    "Size",
    "TensorType",
    "Value",
    "ceildiv",
    "divides",
    "dumps",
    "evaluate",
    "loads",
    "node_text",
    "parse_size",
    "parse_type",
    "substitute",
    "symbol",
    "symbols",
]
