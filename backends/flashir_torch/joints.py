"""Joints: the sum at the end of a layer and the norm at the start of the next, compiled as one pass over both.

`torch.compile` fuses within what it compiles, and layers are compiled one by one. So their outermost parts are moved
into the main graph, and what lies there between two products is compiled in pieces of its own:

    h = layer_0(h); h = layer_1(h)  ->  y = inner_0(norm(h)); h, x = joint_1(y, bias_0, h); y = inner_1(x); ..

Positions and the last norm become pieces in the same way. Parameters stay in their layers, under their names.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from itertools import count

import torch
from torch import fx, nn
from torch.nn import functional

from flashir_torch.loop import scan
from flashir_torch.remat import layers

LEAST = 3
"""The fewest operations of a piece."""

APART = frozenset((functional.embedding, functional.linear, operator.matmul, torch.bmm, scan, "transpose"))
"""What ends a piece: products with their views, loops, and lookups, whose eager gradients are sums in one order."""

OF_SIZES = frozenset((operator.add, operator.sub, operator.mul, operator.floordiv, torch.sym_max))


def open_layers(module: fx.GraphModule) -> None:
    """Move the norms that layers begin with, and the sums that they end with, into the main graph."""
    inner = {id(layer) for layer in layers(module)}
    for call in list(module.graph.nodes):
        layer = module.get_submodule(call.target) if call.op == "call_module" else None
        if isinstance(layer, fx.GraphModule) and id(layer) in inner:
            _move_norm(module.graph, call, layer.graph)
            _move_sum(module.graph, call, layer.graph)
            layer.graph.lint()
            layer.recompile()
    module.graph.lint()
    module.recompile()


def _move_norm(main: fx.Graph, call: fx.Node, layer: fx.Graph) -> None:
    """`layer(h, ..)` -> `layer(.., norm(h))`; h stays an operand if it has other readers."""
    inputs = [node for node in layer.nodes if node.op == "placeholder"]
    norm = next((user for user in inputs[0].users if user.target is functional.layer_norm), None)
    if norm is None:
        return
    with main.inserting_before(call):
        operands = [_outside(main, call, layer, norm.args[place]) for place in (0, 2, 3)]
        if None in operands:
            return
        x, scale, bias = operands
        moved = main.call_function(functional.layer_norm, (x, norm.args[1], scale, bias), norm.kwargs)
    with layer.inserting_after(inputs[-1]):
        normed = layer.placeholder("normed")
    norm.replace_all_uses_with(normed)
    call.args = (*call.args, moved)
    _erase_unread(layer)
    if not inputs[0].users:
        layer.erase_node(inputs[0])
        call.args = call.args[1:]


def _move_sum(main: fx.Graph, call: fx.Node, layer: fx.Graph) -> None:
    """`return linear(x, w, b) + h` -> `return linear(x, w)`, and h too if it is no operand."""
    output = next(iter(reversed(layer.nodes)))
    total = output.args[0]
    y, h = total.args if isinstance(total, fx.Node) and total.target is operator.add else (None, None)
    if not (isinstance(y, fx.Node) and isinstance(h, fx.Node) and y.target is functional.linear and len(y.users) == 1):
        return
    readers = list(call.users)
    with main.inserting_before(call.next):
        result, residual = call, _outside(main, call, layer, h)
        if residual is None:
            result, residual = (main.call_function(operator.getitem, (call, place)) for place in (0, 1))
        bias = _outside(main, call, layer, y.args[2]) if y.args[2:] else None
        product = result if bias is None else main.call_function(operator.add, (result, bias))
        moved = main.call_function(operator.add, (product, residual))
    for reader in readers:
        reader.replace_input_with(call, moved)
    output.args = ((y, h) if result is not call else y,)
    if bias is not None:
        y.args = y.args[:2]
    _erase_unread(layer)


def _outside(main: fx.Graph, call: fx.Node, layer: fx.Graph, value: object) -> fx.Node | None:
    """An operand of a layer, a parameter, or the cast of one, in the main graph; None for what the layer computes."""
    if not isinstance(value, fx.Node):
        return None
    if value.op == "placeholder":
        operand = call.args[[node for node in layer.nodes if node.op == "placeholder"].index(value)]
        return operand if isinstance(operand, fx.Node) else None
    if value.op == "get_attr":
        return main.get_attr(f"{call.target}.{value.target}")
    cast = _outside(main, call, layer, value.args[0]) if value.target == "to" else None
    return None if cast is None else main.call_method("to", (cast, *value.args[1:]))


def _erase_unread(graph: fx.Graph) -> None:
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


def add_pieces(module: fx.GraphModule) -> list[fx.GraphModule]:
    """Move the main graph's work between layers, products and lookups into modules. Returns them in order."""
    runs, pieces = [list[fx.Node]()], list[fx.GraphModule]()
    for node in module.graph.nodes:
        if node.op in ("call_module", "output") or node.target in APART:
            runs.append([])
        elif node.op in ("call_function", "call_method") and not _stays(node):
            runs[-1].append(node)
    for run in runs:
        if len(run) >= LEAST:
            pieces.append(_add_piece(module, run, f"piece_{len(pieces)}"))
    module.graph.lint()
    module.recompile()
    return pieces


def _stays(node: fx.Node) -> bool:
    """Whether a node is a size, a device, or one of several results of a layer: nothing that a GPU computes."""
    if node.target is operator.getitem:
        return node.all_input_nodes[0].op == "call_module"
    return node.target in ("size", getattr) or (node.target in OF_SIZES and all(map(_stays, node.all_input_nodes)))


def _add_piece(module: fx.GraphModule, run: list[fx.Node], name: str) -> fx.GraphModule:
    """Replace nodes by the call of a module. Names within are counted, so that equal pieces have equal code."""
    inside, numbers = set(run), count()
    inputs = tuple(dict.fromkeys(source for node in run for source in _sources(node, inside)))
    results = [node for node in run if any(user not in inside for user in node.users)]
    graph = fx.Graph()
    copies = {node: graph.placeholder(f"x{place}") for place, node in enumerate(inputs)}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:
            args, kwargs = fx.map_arg((node.args, node.kwargs), copy)
            copies[node] = graph.create_node(node.op, node.target, args, kwargs, name=f"y{next(numbers)}")
        return copies[node]

    copied = tuple(map(copy, results))
    graph.output(copied if len(copied) > 1 else copied[0])
    piece = fx.GraphModule(nn.Module(), graph, class_name="Piece")
    module.add_submodule(name, piece)
    with module.graph.inserting_before(run[-1].next):
        call = module.graph.call_module(name, inputs)
        for place, node in enumerate(results):
            result = module.graph.call_function(operator.getitem, (call, place)) if len(results) > 1 else call
            node.replace_all_uses_with(result)
    for node in reversed(run):
        module.graph.erase_node(node)
    return piece


def _sources(node: fx.Node, inside: set[fx.Node]) -> Iterator[fx.Node]:
    """The operands of a node from outside. A device is asked inside, from its tensor."""
    for operand in node.all_input_nodes:
        if operand.target is getattr:
            yield from _sources(operand, inside)
        elif operand not in inside:
            yield operand
