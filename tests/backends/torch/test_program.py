"""What archives may say is what exports say: of every op, of every system, and no operator more."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

import flashir
from flashir.errors import FlashirError, TargetError
from flashir.ir import Graph
from flashir.ir.examples import sample_graph
from flashir.ir.types import DType
from flashir.models.load import model_names
from flashir.models.parameters import unit
from flashir.ops import OPS
from flashir_torch import TorchBackend
from flashir_torch.export import exported, without_loops
from flashir_torch.expressions import problem
from flashir_torch.program import ATEN, IN_PLACE, OF_SIZES, SCAN, check_program, targets
from flashir_torch.schema import ITEM_BYTES
from flashir_torch.types import TYPES
from tests.backends.torch.support import lowered
from tests.support import random_parameters

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
SMALL = {"d_model": 16, "depth": 1, "vocab": 11}
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"task": "mlm"},
    {"dtype": "bfloat16"},
    {"dtype": "float16"},
    {"max_len": 600},
    {"tied": False},
)


def zoo() -> Iterator[tuple[str, Graph]]:
    """Every model with settings that change what it is made of: of each, every value that it may have."""
    seen = set()
    for name in model_names():
        for settings in chain(SETTINGS, _choices(name)):
            try:
                model = flashir.model(name, **{**SMALL, **settings})
                settled = flashir.plan(model, target="torch:cpu", batch=1, seq_len=64).graph
            except FlashirError:
                continue  # a setting that this model does not have, or not with the others
            if (text := flashir.dumps(settled)) not in seen:
                seen.add(text)
                yield f"{name} {settings}", settled


def _choices(name: str) -> Iterator[dict[str, Any]]:
    from flashir_zoo.systems import SYSTEMS

    for key, spec in {**SYSTEMS[name].specs(), "segments": None, "mask": None}.items():
        values = (True, False) if spec is None or spec.kind == (bool,) else spec.choices
        yield from ({key: value, "chunk": 4} for value in values)
    yield from ({"cumsum": strategy, "chunk": 4} for strategy in ("scan", "matmul", "native"))
    yield from ({"segments": kind} for kind in ("chunk", "token"))


def saved(graph: Graph, params: Any) -> bytes:
    """What the archive of a lowered graph says of its program."""
    file = io.BytesIO()
    torch.export.save(exported(graph, params), file)
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("models/model.json")))


def of_model(model: Graph) -> bytes:
    return saved(without_loops(model, lowered(model), TorchBackend()), unit(model))


def test_operators_change_nothing_but_what_they_own() -> None:
    for name in ATEN:
        packet = getattr(torch.ops.aten, name)
        assert any(not getattr(packet, each)._schema.is_mutable for each in packet.overloads())
    assert {name.split(".")[3] for name in IN_PLACE} == {"add_", "relu_", "silu_"}
    assert all(name.startswith("_operator.") or name == "torch.sym_max" for name in OF_SIZES)


def test_types_are_those_that_models_have() -> None:
    from torch._export.serde.schema import ScalarType

    ours = {dtype for dtype in DType if dtype in TYPES}
    names = {
        "f64": "DOUBLE",
        "f32": "FLOAT",
        "f16": "HALF",
        "bf16": "BFLOAT16",
        "i32": "INT",
        "i64": "LONG",
        "bool": "BOOL",
    }
    assert {ScalarType[names[str(dtype)]]: TYPES[dtype].itemsize for dtype in ours} == ITEM_BYTES


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["flash", *(pytest.param(name, marks=pytest.mark.slow) for name in ("transformer++", "combiner"))]
)
def test_what_an_export_says_is_allowed(name: str) -> None:
    model = flashir.plan(flashir.model(name, **SMALL), target="torch:cpu", batch=1, seq_len=64).graph
    check_program(of_model(model), Path("model.pt2"))


@pytest.mark.grid
@pytest.mark.slow
def test_every_op_and_every_system_and_no_operator_more() -> None:
    """An op or a setting that comes to another operator belongs into `ATEN`, where it changes nothing."""
    seen: set[str] = set()
    for record in OPS.values():
        for sample in record.samples:
            graph = sample_graph(record, sample)
            try:
                content = saved(lowered(graph), random_parameters(graph))
            except TargetError:
                continue  # PyTorch exports no loop that ends before it begins
            seen |= targets(check_program(content, Path(record.name)))
    for name, model in zoo():
        seen |= targets(check_program(of_model(model), Path(name)))
    assert {name.split(".")[3] for name in seen - IN_PLACE - OF_SIZES - {SCAN}} == ATEN
    assert seen >= {*IN_PLACE, *OF_SIZES, SCAN}


@pytest.mark.parametrize(
    "text",
    [
        "Mul(Add(Mul(Integer(64), Max(Integer(1), FloorDiv(Add(Symbol('s27', positive=True, integer=True), "
        "Integer(63)), Integer(64)))), Integer(4096)), Pow(Symbol('s1', integer=True), Integer(2)))",
        "0 <= ((-4)*max(1, (3 + L['a'].size()[1]) // 4)) + 64*max(1, (63 + 4*max(1, L['a'].size()[1] // 4)) // 64)",
        "(L['segment_ids'].size()[1]*L['segment_ids'].size()[0]) == (L['ids'].size()[0]*L['ids'].size()[1])",
        "Ne(s0, 1) & (s1 > 2)",
        "not s0 % 4 == 0 and s1 < s2",
    ],
)
def test_sizes_are_expressions(text: str) -> None:
    assert problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "x", "s", "s0.real", "s0()", "lambda: 0", "[s0]", "(s0, s1)", "s0 if s0 else s1", "f'{s0}'", "'s0'",
        "__import__('os')", "L", "L['x']", "L['x'].shape[0]", "L['x'].size(0)", "L['x'].size()[s0]", "L[0].size()[0]",
        "L['a\\n'].size()[0]", "Symbol('x')", "Symbol('s1', commutative=False)", "Symbol(s1)", "Integer('9')", "Max()",
        "1 << 9", "s0 ^ s1", "s0 @ s1", "s0 := 1", "s0; s1", "s0\ns1", "s0 # s1", "2**s0", "2**9", "s0**-2",
        "Pow(2, s0)", "9**9**9", "Pow(9, Pow(9, 9))", "1" * 25, "(" * 60 + "1" + ")" * 60, "-" * 60 + "s0",
        "s0" + " + s0" * 1100, "s0" + "*s0" * 40, "(s0 + s1 + s2)**8", "Max(s0, " * 20 + "s1" + ")" * 20,
        "not " * 60 + "s0",
    ],
)  # fmt: skip
def test_what_is_none(text: str) -> None:
    assert problem(text) is not None
