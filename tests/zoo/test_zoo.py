"""The zoo: the paper's systems in their sizes, for both tasks, with the paper's parameters; settings and mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import FlashirError, SettingError
from flashir.ir import Graph
from flashir.ir.limits import LARGEST_SIZE
from flashir.ir.parameter_count import parameter_count
from flashir_zoo import Zoo
from flashir_zoo.systems import SYSTEMS as SYSTEM_TABLE

SIZES = ("tiny", "small", "base", "large", "pg19")
SYSTEMS = (
    "flash",
    "flash-quad",
    "transformer",
    "transformer+",
    "transformer++",
    "performer",
    "combiner",
    "mc-transformer++",
)
PAIRS = tuple(name for name in SYSTEMS if not name.startswith("flash"))

every_system = pytest.mark.parametrize("name", SYSTEMS)
every_pair = pytest.mark.parametrize("name", PAIRS)

COUNTS = [  # Tables 7 and 8, then Table 9
    ("flash", "base", 112),
    ("flash-quad", "base", 112),
    ("transformer", "base", 110),
    ("transformer+", "base", 110),
    ("transformer++", "base", 110),
    ("performer", "base", 110),
    ("combiner", "base", 124),
    ("flash", "pg19", 496),
    ("flash-quad", "pg19", 496),
    ("transformer+", "pg19", 486),
    ("transformer++", "pg19", 486),
    ("combiner", "pg19", 562),
]


def ops(model: Graph) -> list[str]:
    return [node.op for node in model.walk()]


def attrs(model: Graph, op: str) -> dict[str, Any]:
    return dict(next(node for node in model.walk() if node.op == op).attrs)


def test_the_systems_are_listed_with_a_line_each() -> None:
    assert set(SYSTEMS) == set(Zoo().models())
    assert all(Zoo().models().values())


@pytest.mark.parametrize(("name", "size", "millions"), COUNTS)
@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_the_paper_counts(name: str, size: str, millions: int, task: str) -> None:
    assert round(parameter_count(flashir.model(name, size=size, task=task)) / 1e6) == millions


@every_system
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_every_size_for_every_task(name: str, size: str, task: str) -> None:
    model = flashir.model(name, size=size, task=task)
    assert flashir.loads(flashir.dumps(model)) == model
    assert [str(value.type) for value in model.inputs] == ["i32[B, T]"]
    causal = {node.attrs["causal"] for node in model.walk() if "causal" in node.attrs}
    assert causal == {task == "lm"}


@every_system
@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_a_task_tells_the_norm(name: str, task: str) -> None:
    norm = "scale_norm" if task == "mlm" and name != "transformer" else "layer_norm"  # Tables 7 and 8
    model = flashir.model(name, size="tiny", task=task)
    assert ops(model)[-2] == norm
    assert {node.attrs["norm"] for node in model.walk() if "norm" in node.attrs} == {norm}


def test_the_transformers_differ_as_in_table_7() -> None:
    def has(name: str) -> tuple[bool, bool, bool, bool]:
        model = flashir.model(name, size="tiny")
        made = ops(model)
        return "learned_position" in made, "scaled_sin" in made, attrs(model, "mhsa")["rope"], "glu" in made

    assert has("transformer") == (True, False, False, False)
    assert has("transformer+") == (False, True, True, False)
    assert has("transformer++") == (False, True, True, True)


@every_pair
@pytest.mark.parametrize(("size", "heads", "depth"), [("small", 8, 8), ("base", 12, 12), ("large", 16, 24)])
def test_heads_and_depth_of_a_size(name: str, size: str, heads: int, depth: int) -> None:
    model = flashir.model(name, size=size)
    assert attrs(model, "repeat")["times"] == depth
    assert {node.attrs["heads"] for node in model.walk() if "heads" in node.attrs} == {heads}


@pytest.mark.parametrize(("d_model", "heads"), [(64, 1), (48, 1), (512, 8), (98, 7), (128, 2), (200, 4)])
def test_another_width_has_heads_that_divide_it(d_model: int, heads: int) -> None:
    model = flashir.model("transformer++", d_model=d_model, depth=1, vocab=16)
    assert attrs(model, "mhsa")["heads"] == heads
    assert attrs(flashir.model("transformer+", size="tiny", d_model=d_model), "mhsa")["heads"] == heads


def test_heads_that_are_given_stay() -> None:
    assert attrs(flashir.model("transformer", d_model=32, heads=8), "mhsa")["heads"] == 8
    assert attrs(flashir.model("transformer", size="tiny"), "mhsa")["heads"] == 4


def test_parameters_have_the_names_of_the_contract() -> None:
    model = flashir.model("transformer++", size="tiny", depth=1)
    shapes = {name: value.shape for name, value in flashir.init(model).items()}
    d, h = 64, 170
    assert shapes == {
        "embed.weight": (256, d),
        "pos.scale": (),
        "layers.0.attn.norm.scale": (d,),
        "layers.0.attn.norm.bias": (d,),
        "layers.0.attn.qkv.weight": (d, 3 * d),
        "layers.0.attn.qkv.bias": (3 * d,),
        "layers.0.attn.out.weight": (d, d),
        "layers.0.attn.out.bias": (d,),
        "layers.0.ffn.norm.scale": (d,),
        "layers.0.ffn.norm.bias": (d,),
        "layers.0.ffn.gate.weight": (d, h),
        "layers.0.ffn.gate.bias": (h,),
        "layers.0.ffn.up.weight": (d, h),
        "layers.0.ffn.up.bias": (h,),
        "layers.0.ffn.down.weight": (h, d),
        "layers.0.ffn.down.bias": (d,),
        "final_norm.scale": (d,),
        "final_norm.bias": (d,),
    }
    learned = flashir.init(flashir.model("transformer", size="tiny", max_len=32))
    assert learned["pos.weight"].shape == (32, d) and "pos.scale" not in learned
    assert learned["layers.1.ffn.up.weight"].shape == (d, 4 * d)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("transformer+++", {}, "unknown model 'transformer\\+\\+\\+'"),
        ("transformer++", {"key_dim": 64}, "transformer\\+\\+ has no setting 'key_dim'"),
        ("transformer+", {"max_len": 64}, "no setting 'max_len'"),
        ("transformer", {"head": 4}, "did you mean 'heads'"),
        ("transformer", {"heads": 0}, "heads must be at least 1"),
        ("transformer", {"size": "huge"}, "unknown size 'huge'"),
        ("transformer", {"task": "mt"}, "unknown task 'mt'"),
        ("transformer++", {"d_model": 48, "heads": 5}, "heads must divide the width, got 5 heads"),
    ],
)
def test_mistakes_are_told(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(FlashirError, match=message):
        flashir.model(name, **settings)


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(FlashirError) as caught:
        flashir.model("transformer", head=4, depth=-1, tied=3)
    assert len(caught.value.problems) == 3


@every_system
def test_a_model_runs_in_the_interpreter(name: str) -> None:
    settled = {"chunk": 4, "cumsum": "native"}
    own = SYSTEM_TABLE[name].specs()
    model = flashir.model(name, size="tiny", **{key: value for key, value in settled.items() if key in own})
    (logits,) = flashir.interpret(model, flashir.init(model), np.arange(10).reshape(2, 5))
    assert logits.shape == (2, 5, 256) and np.isfinite(logits).all()


@pytest.mark.parametrize("row", [{}, {"attention": "relu2"}, {"heads": 1}], ids=str)
def test_rows_of_table_2_add_no_parameters(row: dict[str, Any]) -> None:
    assert round(parameter_count(flashir.model("transformer+", **row)) / 1e6) == 110


def test_numpy_integers_are_numbers() -> None:
    settings = {"d_model": 32, "depth": 1, "vocab": 11, "chunk": 16}
    model = flashir.model("flash", **{name: np.int64(value) for name, value in settings.items()})
    assert str(model) == str(flashir.model("flash", **settings))
    assert flashir.loads(flashir.dumps(model)) == model


@pytest.mark.parametrize("name", ["chunk", "d_model", "depth", "vocab", "key_dim"])
def test_no_number_is_absurdly_large(name: str) -> None:
    with pytest.raises(SettingError, match=f"{name} must be at most {LARGEST_SIZE}, got {10**20}"):
        flashir.model("flash", **{name: 10**20})
