"""`flashir_torch.nn`: layers in models that people write themselves."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flashir
from flashir.errors import FlashirError, InputError, SettingError
from flashir.execution.layers import LAYERS
from flashir.models.parameters import unit
from flashir_torch import nn as layers
from flashir_torch.nn import Layer
from tests.backends.support import LAYER_SETTINGS

HEADS = ("MixedChunkAttention", "Attention", "Performer", "Combiner")


def layer(name: str = "FLASH", width: int = 16, **more: Any) -> Layer:
    made: Layer = getattr(layers, name)(width, **{**LAYER_SETTINGS[name], **more})
    made.load_state_dict({key: torch.tensor(array) for key, array in unit(made.layer.graph()).items()})
    return made


def drawn(rows: int = 2, length: int = 11, width: int = 16) -> Tensor:
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(0))


def test_every_layer_has_a_class() -> None:
    assert LAYERS.keys() == LAYER_SETTINGS.keys() == set(layers.__all__) - {"Layer", "Model", "fully_shard"}
    assert all(getattr(layers, name).op == op for name, op in LAYERS.items())


@pytest.mark.parametrize("name", LAYER_SETTINGS)
def test_a_layer_computes_what_its_op_means(name: str) -> None:
    made, x = layer(name), drawn()
    wanted = flashir.interpret(made.layer.graph(), unit(made.layer.graph()), x.numpy())[0]
    torch.testing.assert_close(made(x), torch.tensor(wanted).float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAYER_SETTINGS)
@pytest.mark.parametrize("causal", [True, False])
def test_padding_is_seen_by_nothing(name: str, causal: bool) -> None:
    made = layer(name, **({"causal": causal} if name not in ("MLP", "GLU") else {}))
    x = drawn(length=11)
    mask = torch.tensor([[True] * 11, [True] * 6 + [False] * 5])
    padded = x.masked_fill(~mask[..., None], 99.0)
    torch.testing.assert_close(made(padded, mask)[1, :6], made(x[1:, :6])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made(x, mask=mask)[0], made(x)[0], rtol=1e-4, atol=1e-5)


def test_a_stack_of_layers_has_the_parameters_of_a_model() -> None:
    """So weights go from the one to the other by name."""

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(layers.FLASH(64, key_dim=16, chunk=16, cumsum="matmul") for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            for each in self.layers:
                x = each(x)
            return x

    model = flashir.model("flash", size="tiny", chunk=16)
    wanted = {name: x.shape for name, x in flashir.init(model).items() if name.startswith("layers.")}
    assert {name: tuple(x.shape) for name, x in Stack().state_dict().items()} == wanted


def test_layers_start_as_the_generator_of_pytorch_says() -> None:
    torch.manual_seed(3)
    one, other = (layers.FLASH(16, **LAYER_SETTINGS["FLASH"]) for _ in range(2))
    torch.manual_seed(3)
    again = layers.FLASH(16, **LAYER_SETTINGS["FLASH"])
    assert torch.equal(one.proj_in.weight, again.proj_in.weight)
    assert not torch.equal(one.proj_in.weight, other.proj_in.weight)
    assert torch.equal(one.norm.scale, torch.ones(16))


def test_the_chunk_is_planned_for_the_length_or_set_by_hand() -> None:
    assert layers.FLASH(64, key_dim=16, seq_len=64).layer.settings["chunk"] == 64
    made = layers.FLASH(64, key_dim=16, chunk=32, cumsum="scan")
    assert made.layer.settings["chunk"] == 32
    assert made.rel_bias.w.shape == (63,)
    assert "chunk=32" in repr(made)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_layers_go_to_another_type(dtype: torch.dtype) -> None:
    made, mask = layer(), torch.ones(2, 11, dtype=torch.bool)
    wanted = made(drawn(), mask)
    moved = made.to(dtype)
    assert moved(drawn().to(dtype), mask).dtype == dtype
    assert (moved(drawn().to(dtype), mask) - wanted).abs().max() < 0.1 * wanted.abs().max()
    assert layers.FLASH(16, **LAYER_SETTINGS["FLASH"], dtype=dtype)(drawn().to(dtype)).dtype == dtype


def test_autocast_takes_any_floats() -> None:
    made = layer()
    wanted = made(drawn())
    with torch.autocast("cpu", torch.bfloat16):
        for given in (drawn(), drawn().bfloat16()):
            assert (made(given) - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_a_copy_computes_the_same_with_and_without_a_mask() -> None:
    made, mask = layer("FLASH", cumsum="scan"), torch.ones(2, 11, dtype=torch.bool)
    twin = copy.deepcopy(made)
    made.reset_parameters()
    again = layer("FLASH", cumsum="scan")
    assert torch.equal(twin(drawn()), again(drawn()))
    assert torch.equal(twin(drawn(), mask), again(drawn(), mask))


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of PyTorch's own compiler
def test_layers_compile_as_one_graph() -> None:
    torch._dynamo.reset()
    made = nn.Sequential(layer(), layer("GAU"), layer("GLU"))
    compiled = torch.compile(made, fullgraph=True)
    torch.testing.assert_close(compiled(drawn()), made(drawn()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"key_dims": 8}, "there is no setting 'key_dims'; did you mean 'key_dim'?"),
        ({"scope": "layers.0"}, "there is no setting 'scope'"),
        ({"chunk": "big"}, "chunk must be int or auto, got 'big'"),
        ({"width": 0}, "the width must be a whole number from 1, got 0"),
        ({"width": 2.5}, "the width must be a whole number from 1, got 2.5"),
        ({"rope_dims": 7}, "flash of width 16"),
        ({"chunk": np.zeros(2)}, "chunk must be int or auto, got array("),
        ({"target": ["torch:cpu"]}, "target must be "),
        ({"target": np.zeros(2)}, "target must be "),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingError) as error:
        layers.FLASH(**{"width": 16, **settings})
    assert told in str(error.value)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(FlashirError, match="heads must divide the width, got 5"):
        layers.Attention(16, heads=5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((drawn()[0],), "x must have 3 axes"),
        ((drawn(width=15),), r"axis 2 of x \(f32\[B, T, 16\]\) must be 16, got 15"),
        ((drawn().double(),), "x must be torch.float32, as the parameters are, got torch.float64"),
        ((drawn().int(),), "x must hold floating-point numbers, got torch.int32"),
        ((drawn().numpy(),), "x must be a tensor, got a ndarray"),
        ((drawn(), torch.ones(2, 11)), "mask must hold bool, got torch.float32"),
        ((drawn(), torch.ones(2, 12, dtype=torch.bool)), "must be 11, got 12"),
        ((drawn(), torch.ones(11, dtype=torch.bool)), "mask must have 2 axes"),
        ((drawn(), torch.tensor([[True] * 11, [False] * 11])), "mask has 1 row with only padding, the first is row 1"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_refused(given: tuple[Any, ...], told: str) -> None:
    with pytest.raises(InputError, match=told):
        layer()(*given)
