"""Exports: one program for every batch and every length, of every system; what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flashir
from flashir import Builder, Graph, interpret
from flashir.errors import ArtefactError, TargetError
from flashir.ir.dims import ceildiv
from flashir_torch import TorchBackend
from flashir_torch.export import exported, without_loops
from flashir_torch.session import Session
from tests.backends.torch.support import SMALL, flash, lowered, relative_error, tokens, unit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
SYSTEMS = (
    "flash", "flash-quad", "transformer", "transformer+", "transformer++", "performer", "combiner", "mc-transformer++"
)  # fmt: skip
SIZES = ((2, 11), (1, 1), (1, 0), (0, 5), (3, 4), (1, 13))


def quad(**settings: Any) -> Graph:
    return flashir.model("flash-quad", **{**SMALL, **settings})


MODELS = {
    "matmul": lambda: flash(4, "matmul", segments=True),
    "native": lambda: flash(4, "native", causal=False, norm="scale_norm", depth=1),
    "scan": lambda: flash(4, "scan", depth=1),
    "one chunk": lambda: flash(512, "matmul", depth=1),
    "bfloat16": lambda: flash(4, "matmul", depth=1, dtype="bfloat16"),
    "gau": lambda: quad(max_len=48, depth=1),
    "long gau": lambda: quad(max_len=600, causal=False, depth=1),
}


QUICK = {"matmul", "scan"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in MODELS])
def test_one_program_for_every_size(name: str) -> None:
    model = MODELS[name]()
    params = unit(model)
    program = exported(without_loops(model, lowered(model), TorchBackend()), params)
    run = Session(program.module(), model, torch.device("cpu"), torch.int64)
    for batch, length in SIZES:
        ids = tokens(model, batch, length)
        wanted = interpret(model, params, *ids)[0]
        assert relative_error(run(ids), wanted) < (2e-2 if name == "bfloat16" else 1e-4), (batch, length)


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize("task", ["lm", "mlm"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_is_exported(name: str, task: str, tmp_path: Path) -> None:
    """`export` itself runs the program at sizes of 0, 1 and 2, and against the interpreter."""
    made = flashir.export(flashir.model(name, size="tiny", task=task), tmp_path, target="torch:cpu")
    assert "run with B, T = 0, 1, 2" in made.checks


@pytest.mark.slow
def test_an_artefact_says_what_it_is(tmp_path: Path) -> None:
    model = flash(4, depth=1, use_global=False)
    made = flashir.export(model, tmp_path, target="torch:cpu")
    assert made.path == tmp_path / "model.pt2"
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert made.checks[0] == "sha256 of the whole file"
    about = {"flashir.model": "", "flashir.plan": "", "flashir.torch": ""}
    program = torch.export.load(made.path, extra_files=about)
    assert flashir.loads(about["flashir.model"]) == model
    assert '"chunk": 4' in about["flashir.plan"]
    assert torch.__version__.startswith(about["flashir.torch"])
    assert set(program.state_dict) == set(unit(model))
    ids = torch.tensor(tokens(model, 2, 9)[0])
    loaded, run = TorchBackend().load(tmp_path, "cpu")
    assert loaded == model
    np.testing.assert_array_equal(run([ids.numpy()]), program.module()(ids).detach().numpy())


def loop() -> Graph:
    """A loop that the model writes out itself, over every position."""
    b = Builder("loop")
    x = b.input("x", "f32[B, T, 3]")
    step = x.type.with_shape((x.type.shape[0], 3))
    body = b.subgraph()
    state, item = body.input("state", step), body.input("item", step)
    total = body.add(body.mul(state, 0.5), item)
    zeros = b.broadcast(b.constant(0.0), shape=step.shape)
    return b.finish(b.results("scan", zeros, x, carries=1, axis=1, body=body.finish(total, body.add(total, item)))[1])


def chunked_loop(chunk: int) -> Graph:
    """A loop over chunks of parts of a `split`, which are multiplied as well."""
    b = Builder("chunked")
    x = b.input("x", "f32[B, T, 4]")
    batch, length, _ = x.type.shape
    whole = chunk * ceildiv(length, chunk)
    x = b.pad(x, axis=1, after=whole - length) if chunk > 1 else x
    parts = b.results("split", x, axis=-1, sizes=(2, 2))
    q, v = (b.reshape(part, shape=(batch, ceildiv(length, chunk), chunk, 2)) for part in parts)
    step = v.type.with_shape((batch, chunk, 2))
    body = b.subgraph()
    state, item = body.input("state", step), body.input("item", step)
    zeros = b.broadcast(b.constant(0.0), shape=step.shape)
    carried = b.results("scan", zeros, v, carries=1, axis=1, body=body.finish(body.add(state, item), state))[1]
    local = b.matmul(b.matmul(q, v, transpose_y=True), v)
    joined = b.reshape(b.add(local, carried), shape=(batch, whole, 2))
    return b.finish(b.slice(joined, axis=1, start=0, stop=length))


@pytest.mark.parametrize("chunk", [1, 2])
def test_no_guard_of_a_loop_is_about_a_single_row_token_or_chunk(chunk: int) -> None:
    model = chunked_loop(chunk)
    program = exported(lowered(model), {})
    run = Session(program.module(), model, torch.device("cpu"), torch.int64)
    for batch, length in ((1, 1), (1, 2), (3, 1), (1, 5), (2, 4), (0, 3)):
        x = np.random.default_rng(0).standard_normal((batch, length, 4)).astype(np.float32)
        np.testing.assert_allclose(run([x]), interpret(model, {}, x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_loop_of_ones_own_is_exported_as_one(tmp_path: Path) -> None:
    """With one round at least, which the checks say."""
    made = flashir.export(loop(), tmp_path, target="torch:cpu")
    assert "run with B, T = 1, 2" in made.checks
    _, run = TorchBackend().load(made.path, "cpu")
    for batch, length in ((2, 7), (1, 1), (3, 2)):
        x = np.random.default_rng(0).standard_normal((batch, length, 3)).astype(np.float32)
        assert relative_error(run([x]), interpret(loop(), {}, x)[0]) < 1e-5


def test_a_device_that_is_not_here_is_refused(tmp_path: Path) -> None:
    b = Builder("least")
    made = flashir.export(b.finish(b.relu2(b.input("x", "f32[B, 4]"))), tmp_path, target="torch:h100")
    with pytest.raises(TargetError, match="no device 'nowhere' here"):
        TorchBackend().load(made.path, "nowhere")


def test_a_program_of_others_is_refused(tmp_path: Path) -> None:
    class Double(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Double(), (torch.ones(2),)), path)
    with pytest.raises(ArtefactError, match="not a PyTorch artefact of flashir"):
        TorchBackend().load(path, "cpu")
