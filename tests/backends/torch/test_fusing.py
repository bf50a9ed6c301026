"""Models compiled by layers, as on a card: here through `aot_eager`, which traces alike and needs no compiler."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

import flashir
from flashir.backends.lowering import Lowering
from flashir.backends.training import AdamW, Batch
from flashir.ir import Builder, Graph
from flashir.ir.op import Sample
from flashir.ir.text.grammar import parse_type
from flashir.ops import OPS
from flashir_torch import fusing, loop, training
from flashir_torch.functions import turned
from flashir_torch.fusing import fuse, fuses
from flashir_torch.training import TorchTrainer
from tests.backends.torch.support import Again, net, tokens
from tests.cover import grid

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # PyTorch looks at it as it traces
MODELS = (
    "combiner", "flash", "flash-quad", "mc-transformer++", "performer", "transformer", "transformer+", "transformer++",
)  # fmt: skip


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling is tracing alone; what was compiled before is forgotten."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()


LAYER_AND_PIECES = 4
"""What is compiled: a layer, and the pieces before the first, between two, and after the last."""
WITHOUT_POSITIONS = {"transformer": 3}
"""Learned positions are a lookup and a sum, too few operations for a piece before the first layer."""

QUICK = {"flash", "transformer++"}


@pytest.mark.slow_where(name="flash")
@pytest.mark.parametrize("name", [pytest.param(x, marks=() if x in QUICK else pytest.mark.slow) for x in MODELS])
def test_layers_of_one_text_are_compiled_once(name: str) -> None:
    model = _planned(name, depth=4)
    made, ids = net(model), [torch.tensor(x) for x in tokens(model, 2, 9)]
    names, wanted = list(made.state_dict()), made(*ids)
    fuse(made)
    torch.testing.assert_close(made(*ids), wanted)
    assert counters["stats"]["unique_graphs"] == WITHOUT_POSITIONS.get(name, LAYER_AND_PIECES)
    assert not counters["graph_break"]
    assert list(made.state_dict()) == names


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(5, 0), (0,), (1,), (3,), (4,)])
def test_a_compiled_model_runs_at_every_length(lengths: tuple[int, ...]) -> None:
    model = flashir.model("flash", d_model=16, depth=1, vocab=11, chunk=4, cumsum="native", segments=True)
    compiled = net(model)
    inputs = [[torch.tensor(x) for x in tokens(model, 2, length)] for length in lengths]
    wanted = [compiled(*each) for each in inputs]
    fuse(compiled)
    for each, logits in zip(inputs, wanted, strict=True):
        torch.testing.assert_close(compiled(*each), logits)


@pytest.mark.parametrize(("most", "graphs"), [(500, 1), (1, 0)])
def test_a_model_without_layers_is_compiled_whole_where_it_is_small(
    most: int, graphs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusing, "WHOLE", most)
    b = Builder("chain")
    made = net(b.finish(b.silu(b.silu(b.input("x", "f32[B, 3]")))))
    fuse(made)
    x = torch.randn(2, 3)
    torch.testing.assert_close(made(x), torch.nn.functional.silu(torch.nn.functional.silu(x)))
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
def test_a_long_loop_is_not_unrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "UNROLLED", 3)
    model = flashir.model("flash", use_local=False, d_model=16, depth=1, vocab=11, chunk=4, cumsum="scan")
    made = net(model)
    short, long = (torch.tensor(tokens(model, 1, 4 * rounds)[0]) for rounds in (3, 4))
    wanted = [made(ids) for ids in (short, long)]
    fuse(made)
    torch.testing.assert_close(made(short), wanted[0])
    assert not counters["graph_break"]
    torch.testing.assert_close(made(long), wanted[1])
    assert counters["graph_break"]


@pytest.mark.slow
def test_layers_with_loops_are_compiled_once_too() -> None:
    """More of them than PyTorch compiles one code for."""
    model = flashir.model("flash", d_model=16, depth=12, vocab=11, chunk=4, cumsum="scan")
    made, ids = net(model), torch.tensor(tokens(model, 1, 9)[0])
    wanted = made(ids)
    fuse(made)
    torch.testing.assert_close(made(ids), wanted)
    assert counters["stats"]["unique_graphs"] == LAYER_AND_PIECES


@pytest.mark.slow
def test_parameters_of_layers_stay_their_own() -> None:
    model = _planned("flash", depth=3)
    made, ids = net(model), torch.tensor(tokens(model, 1, 9)[0])
    before = made(ids)
    fuse(made)
    made(ids)
    with torch.no_grad():
        made.get_parameter("layers.1.proj_out.weight").zero_()
        made.get_parameter("layers.1.proj_out.bias").zero_()
    assert not torch.allclose(made(ids), before)
    made.load_state_dict(net(model).state_dict())
    torch.testing.assert_close(made(ids), before)


@pytest.mark.slow
@grid(together=1, dtype=("float32", "bfloat16"), remat=(False, True))
def test_a_compiled_trainer_takes_the_same_steps(dtype: str, remat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _planned("flash", depth=2, dtype=dtype)
    plain = _steps(model, remat)
    monkeypatch.setattr(training, "fuses", lambda device: True)
    monkeypatch.setattr(training, "CardRecorder", Again)
    compiled = _steps(model, remat)
    assert np.allclose(compiled, plain, rtol=1e-5 if dtype == "float32" else 1e-2)


def test_the_loss_is_that_of_wide_logits() -> None:
    logits, labels = torch.randn(2, 3, 5, dtype=torch.bfloat16), torch.tensor([[0, -1, 4], [2, 2, -1]])
    wanted = -logits.double().log_softmax(-1).flatten(0, 1)[[0, 2, 3, 4], [0, 4, 2, 2]].sum()
    torch.testing.assert_close(fusing.summed_loss(logits, labels).double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("capability", "cards"), [((9, 0), True), ((8, 0), True), ((7, 0), False), (None, False)])
def test_processors_and_old_cards_stay_eager(
    capability: tuple[int, int] | None, cards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert [fuses(name) for name in ("cpu", "v100", "cuda", "h100")] == [False, False, cards, cards]


def _planned(name: str, depth: int, dtype: str = "float32") -> Graph:
    return flashir.plan(flashir.model(name, d_model=16, depth=depth, vocab=11), "torch:cpu", 2, 9, dtype=dtype).graph


def _steps(model: Graph, remat: bool) -> list[float]:
    """The losses of three steps of AdamW, and the norms of their gradients."""
    trainer = TorchTrainer(
        Lowering.of("torch:cpu").run(model), flashir.init(model), "cpu", AdamW(clip=0.1), remat=remat
    )
    ids = np.random.default_rng(0).integers(0, 11, (2, 9))
    steps = [trainer.step([Batch((ids,), np.roll(ids, -1, 1))], 1e-2) for _ in range(3)]
    return [number for step in steps for number in (step.loss, step.gradient_norm)]


@pytest.mark.parametrize("case", OPS["turn"].samples)
def test_turns_without_a_cat(case: Sample) -> None:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(parse_type(text or "").sizes) for text in case.operands]
    got = turned(*(torch.tensor(x) for x in arrays)).numpy()
    assert np.allclose(got, OPS["turn"].ref(*arrays), rtol=1e-12)
