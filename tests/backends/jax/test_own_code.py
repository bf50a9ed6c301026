"""`flashir.jax_function`, and layers of flax.nnx and Equinox: traced, differentiated, and given what is wrong."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import flashir
from flashir import interpret
from flashir.errors import FlashirError, InputError, ParameterError, SettingError, TargetError
from flashir.execution.layers import LAYERS
from flashir.models.parameters import unit
from flashir_torch import nn as torch_layers
from tests.backends.support import LAYER_SETTINGS
from tests.cover import GRID, in_turn

SETTINGS: dict[str, Any] = {"size": "tiny", "vocab": 31, "chunk": 16, "cumsum": "matmul"}
MODEL = flashir.model("flash", **SETTINGS)
MASKED = flashir.model("flash", **SETTINGS, task="mlm", mask=True)
IDS = np.random.default_rng(0).integers(0, 31, (2, 37))


def near(found: Any, wanted: Any, tolerance: float) -> None:
    wanted = np.asarray(wanted)
    assert abs(np.asarray(found) - wanted).max() <= tolerance * max(abs(wanted).max(), 1e-30)


@pytest.mark.slow
def test_apply_computes_what_the_model_means_under_jit_too() -> None:
    _, apply = flashir.jax_function(MODEL)
    wanted = interpret(MODEL, unit(MODEL), IDS)[0]
    near(apply(unit(MODEL), IDS), wanted, 1e-4)
    near(jax.jit(apply)(unit(MODEL), IDS), wanted, 1e-4)


@pytest.mark.slow
def test_init_draws_by_a_key_or_as_flashir_does_or_gives_what_there_is() -> None:
    init, _ = flashir.jax_function(MODEL)
    for name, array in flashir.init(MODEL, 3).items():
        assert np.array_equal(init(3)[name], array)
    drawn = jax.jit(init)(jax.random.key(0))
    assert {name: x.shape for name, x in drawn.items()} == {name: x.shape for name, x in init().items()}
    assert np.array_equal(drawn["layers.0.norm.scale"], np.ones(64))
    assert 0.1 < np.std(drawn["embed.weight"]) < 0.15  # 1 / sqrt(64)
    assert jax.vmap(init)(jax.random.split(jax.random.key(0), 3))["embed.weight"].shape == (3, 31, 64)
    kept, _ = flashir.jax_function(MODEL, unit(MODEL))
    assert np.array_equal(kept(jax.random.key(0))["embed.weight"], unit(MODEL)["embed.weight"])


@pytest.mark.slow
def test_gradients_are_those_of_the_torch_module() -> None:
    init, apply = flashir.jax_function(MASKED, unit(MASKED))
    mask = np.arange(37) < np.array([[37], [20]])
    slopes = jax.jit(jax.grad(lambda params: jnp.mean(apply(params, IDS, mask=mask)[0] ** 2)))(init())
    net = flashir.torch_module(MASKED, unit(MASKED))
    net(torch.tensor(IDS), torch.tensor(mask))[0].square().mean().backward()
    for name, parameter in net.named_parameters():
        near(slopes[name], parameter.grad, 1e-4)


@pytest.mark.slow
def test_rows_are_mapped() -> None:
    _, apply = flashir.jax_function(MODEL)
    mapped = jax.vmap(lambda row: apply(unit(MODEL), row[None])[0])(IDS)
    near(mapped, apply(unit(MODEL), IDS), 1e-5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), "the input 'ids' is missing"),
        ((IDS.astype(np.float32), IDS > 0), "ids must hold whole numbers, got float32"),
        ((IDS.tolist(), IDS > 0), "ids must be an array, got a list"),
        ((IDS, IDS), "mask must hold bool, got int64"),
        ((IDS, IDS[:, 1:] > 0), "axis 1 of mask .* must be 37, got 36"),
        ((IDS[0], IDS > 0), "ids must have 2 axes"),
        ((IDS, IDS < 0), "mask has 2 rows with only padding, the first is row 0"),
        ((IDS + 9, IDS >= 0), r"the model has 0 \.\. 30"),
    ],
    ids=str,
)
def test_what_is_wrong_with_inputs_is_told(given: tuple[Any, ...], told: str) -> None:
    init, apply = flashir.jax_function(MASKED)
    with pytest.raises(InputError, match=told):
        apply(init(), *given)


def test_other_mistakes() -> None:
    with pytest.raises(TargetError, match="wanted a target of jax, got torch:cpu"):
        flashir.jax_function(MODEL, target="torch:cpu")
    init, apply = flashir.jax_function(MODEL)
    with pytest.raises(ParameterError, match=r"pos\.scale is missing"):
        apply({name: x for name, x in init().items() if name != "pos.scale"}, IDS)


def made(library: str, name: str, width: int = 16, **settings: Any) -> tuple[Any, Any, Any]:
    """A layer; its parameters, as something to differentiate by; and a function of those and the inputs."""
    settings = {**LAYER_SETTINGS[name], **settings}
    if library == "nnx":
        nnx = pytest.importorskip("flax.nnx")
        from flashir_jax import nnx as layers

        layer = getattr(layers, name)(width, rngs=nnx.Rngs(0), **settings)
        graphdef, state = nnx.split(layer, nnx.Param)
        return layer, state, lambda state, *given: nnx.merge(graphdef, state)(*given)
    equinox = pytest.importorskip("equinox")
    from flashir_jax import eqx

    layer = getattr(eqx, name)(width, key=jax.random.key(0), **settings)
    arrays, rest = equinox.partition(layer, equinox.is_array)
    return layer, arrays, lambda arrays, *given: equinox.combine(arrays, rest)(*given)


def by_name(tree: Any) -> dict[str, Any]:
    """The arrays of a layer by the names of the contract."""
    if hasattr(tree, "params"):
        return dict(tree.params)
    from flax import nnx

    return {".".join(path[:2]): leaf for path, leaf in _flat(nnx.to_pure_dict(tree))}


def _flat(tree: Any, *path: str) -> Any:
    for key, each in tree.items():
        yield from _flat(each, *path, key) if isinstance(each, dict) else [((*path, key), each)]


X = np.random.default_rng(0).standard_normal((2, 11, 16)).astype(np.float32)
MASK = np.arange(11) < np.array([[11], [6]])


@in_turn(name=LAYER_SETTINGS, library=("nnx", "equinox"), also=pytest.mark.slow, rest=GRID)
def test_gradients_of_layers_are_those_of_torch(name: str, library: str) -> None:
    _, params, call = made(library, name)
    found = by_name(jax.jit(jax.grad(lambda params: jnp.mean(call(params, X, MASK)[:, :6] ** 2)))(params))
    layer = getattr(torch_layers, name)(16, **LAYER_SETTINGS[name])
    layer.load_state_dict({key: torch.tensor(np.asarray(array)) for key, array in by_name(params).items()})
    layer(torch.tensor(X), torch.tensor(MASK))[:, :6].square().mean().backward()
    assert found.keys() == dict(layer.named_parameters()).keys()
    off = {}
    for key, parameter in layer.named_parameters():
        wanted = parameter.grad.numpy()
        off[key] = abs(np.asarray(found[key]) - wanted).max() / max(abs(wanted).max(), 1e-30)
    print(f"{library} {name}: gradients of {len(off)} parameters, {max(off.values()):.1e} off at most")
    assert max(off.values()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_layers_compute_in_the_type_of_x_and_take_what_is_wrong_ill(library: str) -> None:
    layer, _, _ = made(library, "FLASH")
    assert layer(jnp.asarray(X, jnp.bfloat16)).dtype == jnp.bfloat16
    near(layer(jnp.asarray(X, jnp.bfloat16)).astype(jnp.float32), layer(X), 0.05)
    for given, told in (
        ((X[0],), "x must have 3 axes"),
        ((X[..., 1:],), "must be 16, got 15"),
        ((X.astype(int),), "x must hold floating-point numbers"),
        ((X, MASK.astype(int)), "mask must hold bool"),
        ((X, MASK[:, 1:]), "must be 11, got 10"),
        ((X, MASK & False), "mask has 2 rows with only padding"),
    ):
        with pytest.raises(InputError, match=told):
            layer(*given)
    with pytest.raises(SettingError, match="did you mean 'key_dim'"):
        made(library, "FLASH", key_dims=3)
    with pytest.raises(FlashirError, match="heads must divide the width"):
        made(library, "Attention", heads=5)


@pytest.mark.slow_where(library="nnx")  # importing Flax takes seconds
@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_every_layer_has_a_class(library: str) -> None:
    def every() -> None:
        for name, op in LAYERS.items():
            layer, params, _ = made(library, name)
            assert layer.op == op
            assert sorted(by_name(params)) == sorted(layer.adapter.layer.params)

    jax.eval_shape(every)  # draws no parameters
