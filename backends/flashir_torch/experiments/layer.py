"""One FLASH layer, forward and backward: flashir against FLASH-pytorch, interleaved in one process.

    pip install --no-deps --target rival FLASH-pytorch einops rotary-embedding-torch
    PYTHONPATH=rival python -m flashir_torch.experiments.layer --seq-len 4096 --d-model 768 --chunk 256
    PYTHONPATH=rival python -m flashir_torch.experiments.layer --compiled

They have the same architecture but not the same function: FLASH-pytorch applies rotary embedding to 32 of the 128
features of a key, and uses the bias of T5; flashir follows the paper. All products have the same sizes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from flashir.bench.interleaved import Samples, interleaved
from flashir.errors import TargetError
from flashir.ir import Builder, Graph
from flashir_torch.modules import lower

RIVAL = "FLASH-pytorch"
CUMSUM = ("matmul", "scan", "native")


@dataclass(frozen=True)
class Sizes:
    """The layer [b, t, d], and the settings of the timing."""

    batch: int
    seq_len: int
    d_model: int
    chunk: int
    causal: bool
    rounds: int
    compiled: bool


@dataclass(frozen=True)
class Result:
    """The cost of one contestant.

    Args:
        forward: the time without gradients.
        step: the time of forward and backward, for the input and every parameter.
        kept: bytes saved for the backward pass, without parameters.
    """

    forward: Samples
    step: Samples
    kept: int


def measure(sizes: Sizes) -> dict[str, Result]:
    """Time every layer on this CPU, including FLASH-pytorch if it is installed."""
    torch.manual_seed(0)
    x, gradient = torch.randn(2, sizes.batch, sizes.seq_len, sizes.d_model).unbind()
    nets = dict(_contestants(sizes))
    calls = {name: _compiled(net) if sizes.compiled else net for name, net in nets.items()}
    forward = interleaved({name: _forward(call, x) for name, call in calls.items()}, sizes.rounds)
    step = interleaved({name: _step(call, x, gradient) for name, call in calls.items()}, sizes.rounds)
    return {name: Result(forward[name], step[name], kept(net, x)) for name, net in nets.items()}


def kept(net: nn.Module, x: Tensor) -> int:
    """Bytes of the storages that a forward pass saves for the backward pass, without parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = net(x.detach().requires_grad_())
    del out
    return sum(seen.values())


def layer(sizes: Sizes, cumsum: str) -> Graph:
    """A model of a single layer [B, T, d] -> [B, T, d]."""
    b = Builder("layer")
    x = b.input("x", f"f32[B, T, {sizes.d_model}]")
    return b.finish(b.flash(x, chunk=sizes.chunk, cumsum=cumsum, causal=sizes.causal))


def _contestants(sizes: Sizes) -> Iterator[tuple[str, nn.Module]]:
    for cumsum in CUMSUM if sizes.causal else CUMSUM[:1]:
        yield f"flashir {cumsum}", lower(layer(sizes, cumsum), batch=sizes.batch, seq_len=sizes.seq_len)
    if find_spec("flash_pytorch") is not None:
        yield RIVAL, _rival(sizes)


def _rival(sizes: Sizes) -> nn.Module:
    """The layer of FLASH-pytorch, as in its `FLASHTransformer`, without token shift."""
    rotary = import_module("rotary_embedding_torch").RotaryEmbedding(dim=32)
    net: Any = import_module("flash_pytorch").FLASH(
        dim=sizes.d_model, group_size=sizes.chunk, causal=sizes.causal, rotary_pos_emb=rotary
    )
    assert isinstance(net, nn.Module)
    return net


def _compiled(net: nn.Module) -> nn.Module:
    result: Any = torch.compile(net, dynamic=False)
    assert isinstance(result, nn.Module)
    return result


def _forward(net: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.inference_mode():
            net(x)

    return run


def _step(net: nn.Module, x: Tensor, gradient: Tensor) -> Callable[[], object]:
    def run() -> None:
        net.zero_grad(set_to_none=True)
        net(x.detach().requires_grad_()).backward(gradient)

    return run


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq-len", type=int, default=4096)
    parser.add_argument("--d-model", type=int, default=768)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--causal", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--compiled", action="store_true", help="use torch.compile for all")
    parser.add_argument("--json", action="store_true")
    settings = vars(parser.parse_args())
    as_json = settings.pop("json")
    results = measure(Sizes(**settings))
    if as_json:
        rows = {
            name: {"forward_ms": r.forward.median, "step_ms": r.step.median, "kept": r.kept}
            for name, r in results.items()
        }
        print(json.dumps({**settings, "layers": rows}))
        return
    if RIVAL not in results:
        raise TargetError(f"{RIVAL} is not installed", hint=f"see the head of {__name__}")
    print(", ".join(f"{name} {value}" for name, value in settings.items()))
    rival = results[RIVAL]
    for name, result in results.items():
        print(
            f"{name:14}  forward {result.forward.median:8.1f} ms ({result.forward.ratio(rival.forward):.2f})"
            f"   and backward {result.step.median:8.1f} ms ({result.step.ratio(rival.step):.2f})"
            f"   kept {result.kept / 2**20:6.0f} MiB ({result.kept / rival.kept:.2f})"
        )


if __name__ == "__main__":
    main()
