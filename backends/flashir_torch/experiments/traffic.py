"""The bytes that one layer moves in a training step on a GPU, counted from generated code, without a GPU.

    python -m flashir_torch.experiments.traffic
    python -m flashir_torch.experiments.traffic --model transformer++ --seq-len 1024 --batch 32 --json

The layer is traced, with the sum and the norm before it, and Inductor plans its kernels for an H100. Each pass counts
what it reads and writes, each tensor once. Matrix products are left out, for their traffic overlaps with their
arithmetic. Saved are the tensors that the backward pass reads, besides parameters.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any
from unittest.mock import MagicMock

import torch
from torch import Tensor, fx, nn
from torch._functorch.aot_autograd import aot_module
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._guards import TracingContext, tracing
from torch._inductor.virtualized import V
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import flashir
from flashir.backends.lowering import Lowering
from flashir.experiments.command import count, guarded
from flashir.models.parameters import init
from flashir_torch.emit import module
from flashir_torch.experiments.pretended_card import pretend, recorded
from flashir_torch.joints import add_pieces, open_layers
from flashir_torch.training import trained_graph

TARGET = "torch:h100"
PRODUCTS = frozenset(("mm", "addmm", "bmm", "baddbmm"))
MEGA = 1e6


@dataclass(frozen=True)
class Pass:
    """One kernel, or the kernels of one operator."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Traffic:
    """What a layer moves forward and backward, and what it saves between."""

    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]
    saved: int

    @property
    def bytes(self) -> int:
        """Of all passes."""
        return sum(memory_pass.bytes for memory_pass in (*self.forward, *self.backward))


def layer_traffic(name: str, batch: int, seq_len: int, **settings: Any) -> Traffic:
    """The traffic of a layer of a base model in bfloat16. From here on PyTorch believes in a card: see `pretend`."""
    model = flashir.model(name, size="base", depth=2, **settings)
    plan = flashir.plan(model, TARGET, batch=batch, seq_len=seq_len, training=True, dtype="bfloat16")
    net = module(trained_graph(Lowering.of(TARGET).run(plan.graph)), init(plan.graph)).train()
    open_layers(net)
    add_pieces(net)
    traced = _traced(net, torch.empty((batch, seq_len), dtype=torch.int64))
    pretend()
    forward = tuple(memory_pass for part in traced for memory_pass in _passes(part.forward, is_backward=False))
    backward = tuple(memory_pass for part in traced for memory_pass in _passes(part.backward, is_backward=True))
    return Traffic(forward, backward, sum(part.saved for part in traced))


@dataclass(frozen=True)
class Traced:
    """One direction of a part of a layer: its graph, and its operands without content."""

    graph: fx.GraphModule
    operands: tuple[Any, ...]


@dataclass(frozen=True)
class Part:
    """A compiled module: both directions, and the bytes that it saves."""

    forward: Traced
    backward: Traced
    saved: int


def _traced(net: fx.GraphModule, ids: Tensor) -> list[Part]:
    """Forward and backward of the last layer and of the piece before it, as `torch.compile` would make them."""
    calls = [node.target for node in net.graph.nodes if node.op == "call_module"]
    last = calls.index("layers.1")
    parts = [net.get_submodule(name) for name in calls[last - 1 : last + 1]]
    seen: dict[nn.Module, tuple[Any, ...]] = {}
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        hooks = [part.register_forward_pre_hook(seen.__setitem__) for part in parts]
        net(fake.from_tensor(ids))
        for hook in hooks:
            hook.remove()
        return [_directions(part, seen[part]) for part in parts]


def _directions(part: nn.Module, operands: tuple[Any, ...]) -> Part:
    from torch._inductor.decomposition import select_decomp_table

    traced: dict[str, Traced] = {}

    def keep(direction: str) -> Callable[..., Any]:
        def compiler(graph: fx.GraphModule, operands: Sequence[Any]) -> fx.GraphModule:
            traced[direction] = Traced(graph, tuple(operands))
            return graph

        return compiler

    compiled = aot_module(
        part,
        fw_compiler=keep("forward"),
        bw_compiler=keep("backward"),
        partition_fn=_partition,
        decompositions=select_decomp_table(),
    )
    leaves = [x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in operands]
    results = compiled(*leaves)
    results = [results] if isinstance(results, Tensor) else results
    torch.autograd.backward([x.sum() for x in results])
    saved = _saved(traced["forward"].graph, len(list(part.parameters())), len(results))
    return Part(traced["forward"], traced["backward"], saved)


def _partition(joint: fx.GraphModule, operands: Any, **settings: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
    """What runs forward and what backward, after Inductor's passes over both."""
    from torch._inductor.fx_passes.joint_graph import joint_graph_passes

    joint_graph_passes(joint)
    return min_cut_rematerialization_partition(joint, operands, **settings)


def _passes(traced: Traced, *, is_backward: bool) -> tuple[Pass, ...]:
    """The passes that Inductor would generate, and those of our own operators."""
    from torch._inductor.fx_passes.post_grad import post_grad_passes, view_to_reshape
    from torch._inductor.graph import GraphLowering

    for node in traced.graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda:0")}
    traced.graph.recompile()
    with FakeTensorMode() as fake:
        operands = [_on_card(x) if isinstance(x, Tensor) else x for x in traced.operands]
        graph = make_fx(traced.graph)(*operands)
    with V.set_fake_mode(fake), V.set_debug_handler(MagicMock()), tracing(TracingContext(fake)):
        view_to_reshape(graph)  # type: ignore[no-untyped-call]
        post_grad_passes(graph, is_inference=False)
        lowering = GraphLowering(graph, example_inputs=operands, is_inference=False, is_backward=is_backward)
        with V.set_graph_handler(lowering):
            lowering.run(*operands)
            lowering._update_scheduler()
            fused = [Pass(_name(node), _moved(node, lowering)) for node in lowering.scheduler.nodes if _counts(node)]
    return tuple(memory_pass for memory_pass in (*fused, *_operators(graph)) if memory_pass.bytes)


def _on_card(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda:0")


def _counts(node: Any) -> bool:
    """Whether a scheduled node is neither a matrix product nor one of our own operators."""
    operator = getattr(node.node, "op_overload", None)
    if operator is not None:
        return bool(operator.namespace != "flashir" and operator._opname not in PRODUCTS)
    return not node.is_extern()


def _name(node: Any) -> str:
    """The operators of a scheduled node, each once, in order."""
    parts = [part.node for part in node.get_nodes() if part.node is not None]
    names = [origin.name for part in parts for origin in sorted(part.origins, key=lambda x: x.name)]
    return " ".join(dict.fromkeys(names)) or str(node.get_name())


def _moved(node: Any, lowering: Any) -> int:
    """The bytes of a scheduled node: of each buffer that stays, what its indices reach, at most the whole."""
    inside = {id(part) for part in node.get_nodes()}
    total = 0
    for dependencies in (node.read_writes.reads, node.read_writes.writes):
        reached = Counter[str]()
        for dependency in dependencies:
            reached[dependency.name] += dependency.numbytes_hint()
        for name, size in reached.items():
            buffer = lowering.scheduler.name_to_buf.get(name)
            if buffer is not None and dependencies is node.read_writes.writes:
                users = [user.node for user in buffer.users]
                if users and all(any(id(n) in inside for n in getattr(u, "get_nodes", list)()) for u in users):
                    continue
            total += min(size, _size(name, lowering))
    return total


def _size(name: str, lowering: Any) -> int:
    buffer = lowering.name_to_buffer.get(name) or lowering.graph_inputs.get(name)
    if buffer is None:
        return 0
    try:
        numbers = [int(size) for size in buffer.get_size()]
    except (NotImplementedError, TypeError):
        return 0
    return prod(numbers) * int(buffer.get_dtype().itemsize)


def _operators(graph: fx.GraphModule) -> list[Pass]:
    """Our own operators: the tensors of each kernel that they launch."""
    passes = []
    for node in graph.graph.nodes:
        if getattr(node.target, "namespace", "") == "flashir":
            operands = fx.map_arg((node.args, node.kwargs), lambda value: _without_content(value.meta["val"]))
            with recorded() as launches, _Passes() as others:
                OPDEFS[node.target.name()]._init_fn(*operands[0], **operands[1])
            passes += [Pass(launch.name, launch.bytes) for launch in launches] + others.passes
    return passes


class _Passes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects what PyTorch's own operators read and write: not views, nor memory without content."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.passes: list[Pass] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._opname
        is_view = any(returned.alias_info is not None for returned in func._schema.returns)
        if not is_view and "empty" not in name:
            read = () if "zeros" in name else args
            tensors = [x for x in (*read, result) if isinstance(x, Tensor)]
            self.passes.append(Pass(name, sum(x.numel() * x.element_size() for x in tensors)))
        return result


def _without_content(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value


def _saved(forward: fx.GraphModule, parameters: int, results: int) -> int:
    """The bytes that the forward graph returns after its results, without parameters, its first operands."""
    nodes = list(forward.graph.nodes)
    outputs, own = dict.fromkeys(nodes[-1].args[0][results:]), set(nodes[:parameters])
    tensors = [tensor.meta["val"] for tensor in outputs if isinstance(tensor, fx.Node) and tensor not in own]
    return sum(x.numel() * x.element_size() for x in tensors if isinstance(x, Tensor))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="flash", help="a model of the zoo")
    parser.add_argument("--batch", type=count, default=4)
    parser.add_argument("--seq-len", type=count, default=8192)
    parser.add_argument("--chunk", type=count, help="default: the planned one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    chunk = {} if args.chunk is None else {"chunk": args.chunk, "cumsum": "scan"}
    layer = layer_traffic(args.model, args.batch, args.seq_len, **chunk)
    if args.json:
        print(json.dumps({**asdict(layer), "bytes": layer.bytes}))
        return
    for direction, passes in (("forward", layer.forward), ("backward", layer.backward)):
        print(f"{direction}, {sum(memory_pass.bytes for memory_pass in passes) / MEGA:.0f} MB")
        for memory_pass in passes:
            print(f"  {memory_pass.bytes / MEGA:8.1f} MB  {memory_pass.name[:100]}")
    print(f"{layer.bytes / MEGA:.0f} MB in all; {layer.saved / MEGA:.0f} MB saved for the backward pass")


if __name__ == "__main__":
    guarded(main)
