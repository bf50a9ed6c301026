"""Modules: the names of their parameters, their layers, their code, and what names cannot do to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import fx

import flashir
from flashir import interpret
from flashir.errors import ParameterError, TargetError
from flashir.ir import Builder, Graph, TensorType, Value
from flashir.ir.dims import symbol
from flashir.ir.graph import Node
from flashir.ir.parameter_names import parameters
from flashir_torch import lower, module
from flashir_torch.names import check_path, identifier
from tests.backends.torch.support import Array, flash, lowered, net, relative_error, session, tokens, unit


def names(model: Graph) -> list[str]:
    return sorted(parameters(model))


@pytest.mark.parametrize("name", ["flash", "flash-quad", "transformer++"])
def test_the_state_of_a_module_has_the_names_of_the_contract(name: str) -> None:
    model = flashir.model(name, size="tiny", **({"chunk": 64} if name == "flash" else {}))
    made = lower(model)
    assert sorted(made.state_dict()) == names(model)
    assert sorted(each for each, _ in made.named_parameters()) == names(model)
    for key, spec in parameters(model).items():
        assert made.state_dict()[key].shape == spec.shape


def test_a_state_goes_from_module_to_module() -> None:
    model = flash()
    one, other = net(model), net(model, unit(model, seed=1))
    ids = torch.tensor(tokens(model, 1, 9)[0])
    assert not torch.equal(one(ids), other(ids))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(ids), other(ids))


def test_parameters_are_copies() -> None:
    model = flash()
    params = unit(model)
    made = net(model, params)
    with torch.no_grad():
        made.get_parameter("embed.weight").zero_()
    assert params["embed.weight"].any()


def test_tied_weights_are_one_parameter() -> None:
    made = net(flash())
    assert sum(name.startswith(("embed", "unembed")) for name, _ in made.named_parameters(remove_duplicate=False)) == 1


def mixed() -> Graph:
    """One gau after every three flash layers, twice, after a layer that stands alone."""
    b = Builder("mixed")
    x = b.embed(b.input("ids", "i32[B, T]"), vocab=11, dim=16)
    x = b.flash(x, key_dim=8, chunk=4, cumsum="scan")

    def body(b: Any, h: Any) -> Any:
        for _ in range(3):
            h = b.flash(h, key_dim=8, chunk=4, cumsum="native")
        return b.gau(h, key_dim=8, max_len=32)

    return b.finish(b.unembed(b.repeat(x, times=2, body=body)))


def test_each_layer_of_a_repeat_is_a_module_with_its_own_parameters() -> None:
    model = mixed()
    made = net(model)
    layers = [name for name, each in made.named_modules() if isinstance(each, fx.GraphModule) and "body" not in name]
    assert layers == ["", *(f"layers.{i}" for i in range(1, 9))]
    for name in layers[1:]:
        own = {f"{name}.{key}" for key in made.get_submodule(name).state_dict()}
        assert own == {key for key in names(model) if key.startswith(f"{name}.")}
    assert sorted(made.state_dict()) == names(model)
    ids = tokens(model, 2, 9)
    error = relative_error(session(model, unit(model))(ids), interpret(model, unit(model), *ids)[0])
    assert error < 1e-4


def test_layers_can_be_checkpointed() -> None:
    """A layer by itself is what training recipes wrap."""
    from torch.utils.checkpoint import checkpoint

    model = flash(cumsum="matmul")
    made, ids = net(model), torch.tensor(tokens(model, 1, 9)[0])
    made(ids).sum().backward()
    wanted = {name: each.grad for name, each in made.named_parameters()}
    made.zero_grad()
    for layer in made.get_submodule("layers").children():
        forward = layer.forward
        layer.forward = lambda *args, run=forward: checkpoint(run, *args, use_reentrant=False)
    made(ids).sum().backward()
    for name, each in made.named_parameters():
        torch.testing.assert_close(each.grad, wanted[name])


def test_a_layer_that_comes_twice_is_no_module() -> None:
    """Its parameters stand between those of another, so it is written out in its place."""
    b = Builder("woven")
    x = b.input("x", "f32[B, T, 4]")

    def body(b: Any, h: Any) -> Any:
        h = b.scale_norm(b.scale_norm(h, scope="layers.{2*i}"), scope="layers.{2*i + 1}")
        h = b.mul(h, b.param(name="late.scale", shape=(4,), scope="layers.{2*i}"))
        return b.mul(h, b.param(name="shared.scale", shape=(4,), scope=""))

    model = b.finish(b.repeat(x, times=2, body=body))
    made = net(model)
    assert sorted(made.state_dict()) == names(model)
    assert [name for name, each in made.named_modules() if isinstance(each, fx.GraphModule)] == [
        "",
        "layers.1",
        "layers.3",
    ]
    inputs = [np.random.default_rng(0).standard_normal((2, 3, 4))]
    assert relative_error(session(model, unit(model))(inputs), interpret(model, unit(model), *inputs)[0]) < 1e-5


def test_inputs_that_disagree_are_refused() -> None:
    model = flash(segments=True)
    with pytest.raises(RuntimeError, match="shape"):
        net(model)(torch.zeros(1, 5, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long))


HOSTILE = ("self", "torch", "import", "class", "print", "0.1", "a.b", "inf", "device", "__import__", "None")


def test_hostile_names_of_values_are_only_names() -> None:
    b = Builder("hostile")
    values: list[Value] = [b.input(name, "f32[B, 3]") for name in HOSTILE]
    total = values[0]
    for value in values[1:]:
        (total,) = b.insert("add", (total, value), names=[f"{value.name}_0"])
    check(b.finish(total))


def test_what_no_text_can_name_is_harmless_too() -> None:
    """The parser and the verifier refuse these; graphs made by hand may hold them."""
    evil = 'x"); raise SystemExit("owned") #'
    type_ = TensorType(flashir.DType.F32, (symbol("B"), 3))
    x, y = Value(evil, type_), Value(f"{evil}\n", type_)
    graph = Graph("evil", (x,), (Node("relu", (x,), (y,)),), (y,))
    made = module(graph, {})
    assert "SystemExit(" not in made.code
    assert torch.equal(made(-torch.ones(2, 3)), torch.zeros(2, 3))


def check(graph: Graph) -> None:
    inputs: list[Array] = [np.full((2, 3), i, np.float32) for i in range(len(graph.inputs))]
    assert np.array_equal(session(graph, {})(inputs), interpret(graph, {}, *inputs)[0])


@pytest.mark.parametrize("name", HOSTILE)
def test_identifiers(name: str) -> None:
    made = identifier(name)
    assert made.isidentifier()
    assert made not in HOSTILE or made == name == "__import__"


@pytest.mark.parametrize("scope", ["forward", "training", "_modules.a", "graph", "a..b", "code"])
def test_parameters_that_no_module_can_have(scope: str) -> None:
    b = Builder("taken")
    graph = b.finish(b.layer_norm(b.input("x", "f32[1, 2, 4]"), scope=scope))
    with pytest.raises(ParameterError, match=r"not a valid name for a parameter|every module has its own"):
        net(graph)


@pytest.mark.parametrize("name", ['a");import os;("', "a b", "", "a.", "a'", "a\nb", "a[0]"])
def test_names_that_are_no_names(name: str) -> None:
    with pytest.raises(ParameterError, match="not a valid name for a parameter"):
        check_path(name)


def test_names_that_are_no_identifiers_but_harmless() -> None:
    b = Builder("dashes")
    graph = b.finish(b.layer_norm(b.input("x", "f32[1, 2, 4]"), scope="my-block.1+2"))
    assert set(net(graph).state_dict()) == {"my-block.1+2.scale", "my-block.1+2.bias"}


def test_missing_and_misshapen_parameters_are_named() -> None:
    model = flash()
    params = unit(model)
    del params["pos.scale"]
    with pytest.raises(ParameterError, match=r"pos.scale is missing: wanted shape \(\)"):
        net(model, params)
    with pytest.raises(ParameterError, match=r"pos.scale must have shape \(\), got \(1,\)"):
        net(model, {**params, "pos.scale": np.ones(1)})


def test_a_size_that_no_input_tells_is_named() -> None:
    b = Builder("lost")
    graph = b.finish(b.iota(length=symbol("N")))
    with pytest.raises(TargetError, match="no input has an axis of size N"):
        module(lowered(graph), {})
