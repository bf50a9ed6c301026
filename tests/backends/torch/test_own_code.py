"""`flashir.torch_module`: a model in one's own code, trained, moved, copied, compiled, and given what is wrong."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import flashir
from flashir import interpret
from flashir.backends.training import NO_LABEL
from flashir.errors import ArtefactError, InputError, ParameterError, TargetError
from flashir.ir import Builder, Graph
from flashir.models.parameters import unit
from flashir.train import loop
from flashir.train.data import Tokenizer, ahead
from flashir.train.open_run import opened
from flashir.train.recipe import Recipe
from flashir.train.setup import begin
from tests.backends.torch import own_worker

SETTINGS: dict[str, Any] = {"size": "tiny", "vocab": 31, "chunk": 16, "cumsum": "matmul"}
MODEL = flashir.model("flash", **SETTINGS)
MASKED = flashir.model("flash", **SETTINGS, task="mlm", mask=True, segments="token")


def net(model: Graph = MODEL) -> nn.Module:
    return flashir.torch_module(model, unit(model))


def ids(rows: int = 2, length: int = 37, seed: int = 0) -> Tensor:
    return torch.randint(31, (rows, length), generator=torch.Generator().manual_seed(seed))


def loss_of(made: Tensor) -> Tensor:
    return made.float().square().mean()


def test_the_state_has_the_names_of_the_contract_and_the_results_are_those_of_the_interpreter() -> None:
    made = net()
    assert sorted(made.state_dict()) == sorted(flashir.init(MODEL))
    wanted = interpret(MODEL, unit(MODEL), ids().numpy())[0]
    np.testing.assert_allclose(made(ids()).detach(), wanted, rtol=0, atol=1e-4 * abs(wanted).max())


def test_inputs_go_by_position_and_by_name() -> None:
    made, segments, mask = net(MASKED), torch.zeros(2, 37, dtype=torch.long), torch.ones(2, 37, dtype=torch.bool)
    by_position = made(ids(), segments, mask)
    assert torch.equal(by_position, made(ids(), mask=mask, segment_ids=segments))
    assert torch.equal(by_position, made(mask=mask, segment_ids=segments.to(torch.int32), ids=ids().to(torch.int16)))


def test_a_state_has_names_that_are_keywords_too() -> None:
    b = Builder()
    x = b.input("x", "f32[B, T, 8]")
    scales = [b.param(name=name, shape=(8,), std=1.0) for name in ("0.in.weight", "None", "w.in")]
    model = b.finish(b.mul(b.mul(b.mul(x, scales[0]), scales[1]), scales[2]))
    made, other = flashir.torch_module(model, unit(model)), flashir.torch_module(model)
    assert {*made.state_dict()} == {*unit(model)}
    other.load_state_dict(made.state_dict())
    features = torch.randn(1, 3, 8)
    assert torch.equal(other(features), made(features))
    assert {*nn.Sequential(made).state_dict()} == {f"0.{name}" for name in unit(model)}


def test_a_state_is_saved_and_loaded(tmp_path: Path) -> None:
    one, other = net(), flashir.torch_module(MODEL)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    assert not torch.equal(one(ids()), other(ids()))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(one(ids()), other(ids()))
    run = flashir.compile(MODEL, "torch:cpu", other.state_dict())
    np.testing.assert_allclose(run(ids().numpy()), one(ids()).detach(), rtol=0, atol=1e-5)


def test_a_checkpoint_becomes_a_module(tmp_path: Path) -> None:
    flashir.save_checkpoint(MODEL, unit(MODEL), tmp_path / "saved")
    assert torch.equal(flashir.torch_module(tmp_path / "saved")(ids()), net()(ids()))
    assert torch.equal(flashir.torch_module(str(tmp_path / "saved"))(ids()), net()(ids()))


def test_a_copy_has_parameters_of_its_own() -> None:
    made = net()
    twin = copy.deepcopy(made)
    assert torch.equal(twin(ids()), made(ids()))
    with torch.no_grad():
        for each in twin.parameters():
            each.zero_()
    assert not twin(ids()).any()
    assert made(ids()).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_type_is_computed_in(dtype: torch.dtype) -> None:
    wanted = interpret(MODEL, unit(MODEL), ids().numpy())[0]
    made = net().to(dtype)
    loss_of(made(ids())).backward()
    assert {each.grad.dtype for each in made.parameters() if each.grad is not None} == {dtype}
    error = abs(made(ids()).detach().double().numpy() - wanted).max() / abs(wanted).max()
    assert error < {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-6}[dtype]
    assert made.float()(ids()).dtype == torch.float32


def test_hooks_stay_where_a_module_goes_to_another_type() -> None:
    seen: list[torch.dtype] = []
    made = net()
    made.get_submodule("layers.1").register_forward_hook(lambda module, given, result: seen.append(result.dtype))
    made(ids())
    made.to(torch.bfloat16)(ids())
    assert seen == [torch.float32, torch.bfloat16]


def test_layers_are_computed_again_on_the_way_back() -> None:
    """As training recipes do it: each layer is a module to wrap."""
    made, other = net(), net()
    for layer in other.get_submodule("layers").children():
        layer.forward = lambda *given, run=layer.forward: checkpoint(run, *given, use_reentrant=False)  # type: ignore[method-assign]
    for each in (made, other):
        loss_of(each(ids())).backward()
    for name, parameter in made.named_parameters():
        torch.testing.assert_close(other.get_parameter(name).grad, parameter.grad)


def test_autocast_computes_products_in_bfloat16() -> None:
    made = net()
    wanted = made(ids())
    with torch.autocast("cpu", torch.bfloat16):
        found = made(ids())
        loss_of(found).backward()
    assert found.dtype == torch.bfloat16
    assert all(each.grad is not None and each.grad.dtype == torch.float32 for each in made.parameters())
    assert ((found - wanted).abs().max() / wanted.abs().max()) < 0.1


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of PyTorch's own compiler
@pytest.mark.parametrize(("backend", "lengths"), [("aot_eager", (37, 5, 64)), ("inductor", (37,))])
def test_it_compiles_as_one_graph_for_any_length(backend: str, lengths: tuple[int, ...]) -> None:
    torch._dynamo.reset()
    made = net()
    compiled = torch.compile(made, fullgraph=True, dynamic=True, backend=backend)
    for length in lengths:
        near(compiled(ids(length=length)), made(ids(length=length)))
    own = list(made.parameters())
    one, other = (torch.autograd.grad(loss_of(each(ids())), own) for each in (compiled, made))
    for found, wanted in zip(one, other, strict=True):
        near(found, wanted)


def near(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_functional_calls_and_gradients_of_each_row() -> None:
    made = net()
    params = {name: each.detach() for name, each in made.named_parameters()}

    def loss(params: dict[str, Tensor], row: Tensor) -> Tensor:
        return loss_of(torch.func.functional_call(made, params, (row[None],)))

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, ids())
    alone = torch.func.grad(loss)(params, ids()[1])
    for name, gradient in alone.items():
        torch.testing.assert_close(each[name][1], gradient, rtol=1e-3, atol=1e-5)


def test_a_loop_of_ones_own_has_the_losses_of_a_run(tmp_path: Path) -> None:
    """AdamW, its schedule, and the clip of each parameter, 20 steps."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} is {n * n}, and its words are no {n % 7}.\n" for n in range(400)))
    model = flashir.model("flash", **{**SETTINGS, "vocab": 256})
    recipe = Recipe(
        data=(str(text),), tokens=128, rows=4, seq_len=32, steps=20, warmup=5, save_every=20, learning_rate=3e-3
    )
    folder = begin(model, recipe, Tokenizer.bytes(), tmp_path / "run")[0]
    told = _Told()
    with opened(folder) as run:
        loop.train(run, told)
    with opened(begin(model, recipe, Tokenizer.bytes(), tmp_path / "again")[0]) as run:
        batches = list(islice(ahead(run.batches, 0, depth=2), recipe.steps))
        params = run.trainer.params()
    made = flashir.torch_module(model, params)
    how = recipe.optimiser
    adamw = torch.optim.AdamW(
        made.parameters(), betas=(how.beta1, how.beta2), eps=how.epsilon, weight_decay=how.weight_decay
    )
    off: list[float] = []
    for number, (batch, line) in enumerate(zip(batches, told.lines, strict=True), 1):
        logits, labels = made(*map(torch.as_tensor, batch.inputs)), torch.as_tensor(batch.labels)
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten().long(), ignore_index=NO_LABEL)
        loss.backward()
        off.append(abs(loss.item() - line.loss))
        for parameter in made.parameters():
            nn.utils.clip_grad_norm_([parameter], how.clip or float("inf"))
        adamw.param_groups[0]["lr"] = recipe.schedule(number)
        adamw.step()
        adamw.zero_grad()
    print(f"largest difference of a loss in {len(off)} steps: {max(off):.1e}")
    assert max(off) < 1e-5
    assert told.lines[-1].loss < told.lines[0].loss - 0.5


class _Told:
    def __init__(self) -> None:
        self.lines: list[Any] = []

    def started(self, run: Any) -> None:
        pass

    def computing(self, step: int, part: int, parts: int) -> None:
        pass

    def stepped(self, line: Any, pace: Any) -> None:
        self.lines.append(line)

    def saved(self, checkpoint: Path) -> None:
        pass

    def finished(self) -> None:
        pass


def test_several_results_are_a_tuple_and_features_an_input() -> None:
    b = Builder("two")
    x = b.input("x", "f32[B, T, 8]")
    y = b.layer_norm(x)
    model = b.finish(y, b.relu(y))
    made = flashir.torch_module(model)
    y, z = made(torch.randn(2, 3, 8))
    assert torch.equal(y.relu(), z)
    assert made.to(torch.bfloat16)(torch.randn(2, 3, 8).bfloat16())[0].dtype == torch.bfloat16


WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any], list[str]]] = {
    "nothing": ((), {}, ["the input 'ids' is missing", "the input 'segment_ids' is missing"]),
    "unknown": ((ids(),), {"padding": 1}, ["the model has no input 'padding'"]),
    "twice": ((ids(),), {"ids": ids()}, ["the input 'ids' is given twice"]),
    "floats": ((ids().float(), ids(), ids() >= 0), {}, ["ids must hold whole numbers, got torch.float32"]),
    "a list": (([[1]], ids(), ids() >= 0), {}, ["ids must be a tensor, got a list"]),
    "a mask of numbers": ((ids(), ids(), ids()), {}, ["mask must hold bool, got torch.int64"]),
    "a mask of another length": ((ids(), ids(), ids(2, 36) >= 0), {}, ["axis 1 of mask", "must be 37, got 36"]),
    "one row": ((ids()[0], ids(), ids() >= 0), {}, ["ids must have 2 axes", "got shape (37,)"]),
    "padding alone": ((ids(), ids(), ids() < 0), {}, ["mask has 2 rows with only padding, the first is row 0"]),
    "no such token": ((ids() + 9, ids(), ids() >= 0), {}, ["the model has 0 .. 30"]),
    "elsewhere": ((ids().to("meta"), ids(), ids() >= 0), {}, ["ids lies on meta"]),
}


@pytest.fixture(scope="module")
def idle() -> nn.Module:
    """A model that may not compute."""
    made = net(MASKED)
    made.get_submodule("layers.0").register_forward_pre_hook(lambda *_: pytest.fail("it computes"))
    return made


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_inputs_is_told_before_anything_is_computed(case: str, idle: nn.Module) -> None:
    given, named, told = WRONG[case]
    with pytest.raises(InputError) as error:
        idle(*given, **named)
    for each in told:
        assert each in str(error.value)


def test_other_mistakes(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="wanted a target of torch, got onnx:cpu"):
        flashir.torch_module(MODEL, target="onnx:cpu")
    with pytest.raises(ParameterError, match=r"pos\.scale is missing"):
        flashir.torch_module(MODEL, {name: x for name, x in unit(MODEL).items() if name != "pos.scale"})
    with pytest.raises(ArtefactError):
        flashir.torch_module(tmp_path)
    with pytest.raises(flashir.FlashirError, match="model_or_checkpoint must be"):
        flashir.torch_module(3)  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """By DistributedDataParallel, and by FSDP with a shard of each layer."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, own_worker.__file__, str(tmp_path / "found.json")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert not ended.returncode, ended.stderr
    wanted = own_worker.losses("alone")
    for how, found in json.loads((tmp_path / "found.json").read_text()).items():
        print(f"{how}, largest difference of a loss: {abs(np.subtract(found, wanted)).max():.1e}")
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=how)
