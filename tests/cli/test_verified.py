"""What was verified is what will run: a check says what it compared, at which shapes, and with which weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.backends.lowering import Lowering
from flashir.cli import console
from flashir.errors import ArtefactError, ResultError
from flashir.models.parameters import unit
from flashir.reference.cross_entropy import logits_width
from flashir.transforms.set_dtype import SetDType
from flashir_onnx.backend import OnnxBackend
from tests.cli.conftest import TINY, Cli

RANDOM = "random weights: the output is meaningless"
FIXED = """model @fixed(%ids: i32[1, 24]) -> f32[1, 24, 61] {
  %x = embed(%ids) {vocab = 61, dim = 16}
  %z = flash(%x) {key_dim = 8, chunk = 8}
  %n = layer_norm(%z)
  %l = unembed(%n) {tied = true}
  return %l
}
"""
HIDDEN = """model @hidden(%ids: i32[B, T]) -> f32[B, T, 256] {
  %x = embed(%ids) {vocab = 256, dim = 256}
  %z = flash(%x) {key_dim = 8, chunk = 8, cumsum = "native"}
  %n = layer_norm(%z)
  return %n
}
"""
FEATURES = """model @body(%x: f32[B, T, 16]) -> f32[B, T, 16] {
  %z = flash(%x) {key_dim = 8, chunk = 8, cumsum = "native"}
  %n = layer_norm(%z)
  return %n
}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in which attention matters, as in one that was trained."""
    model = flashir.model("flash", size="tiny", chunk=16, cumsum="native")
    return flashir.save_checkpoint(model, unit(model, seed=7), tmp_path_factory.mktemp("trained") / "ck")


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = flashir.load_checkpoint(trained)
    return flashir.export(found.model, tmp_path_factory.mktemp("exported"), params=found.params).path.parent


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


SLOW = [pytest.param(target, marks=pytest.mark.slow) for target in ("torch:cpu", "jax:cpu")]


@pytest.mark.parametrize("target", ["onnx:cpu", *SLOW])
def test_an_export_is_checked_with_the_parameters_inside_it(
    cli: Cli, trained: Path, tmp_path: Path, target: str
) -> None:
    cli.ok("export", trained, "--target", target, "-o", tmp_path / "out")
    asked = ("check", tmp_path / "out", "--target", target, "--lengths", "5,17", "--batches", "1")
    made = cli.json(*asked)
    assert made["ok"] and made["weights"] == {"source": "artefact", "random": False, "path": str(tmp_path / "out")}
    assert f"both with the weights in {tmp_path / 'out'}" in cli.ok(*asked)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("float16", marks=pytest.mark.slow), "int8"])
def test_an_export_with_narrow_weights_is_checked_by_its_own_tolerance(
    cli: Cli, trained: Path, tmp_path: Path, kind: str
) -> None:
    cli.ok("export", trained, "--quantize", kind, "--tolerance", 9, "-o", tmp_path / "out")
    (row,) = cli.json("check", tmp_path / "out", "--lengths", "17", "--batches", "1")["rows"]
    assert row["ok"] and row["tolerance"] == {"float16": 1e-2, "int8": 0.2}[kind]


def test_parameters_that_cannot_be_read_back_are_asked_for(
    cli: Cli, trained: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: object) -> None:
        raise ArtefactError("they are not whole in it", hint="--params FILE")

    monkeypatch.setattr(OnnxBackend, "stored", unreadable)
    asked = ("check", exported, "--lengths", "17", "--batches", "1")
    assert "--params FILE" in cli.fails(*asked)
    assert cli.json(*asked, "--params", trained / "params.safetensors")["ok"]


def test_an_export_is_compared_with_others_where_that_is_asked(cli: Cli, exported: Path, trained: Path) -> None:
    asked = ("check", exported, "--lengths", "17", "--batches", "1")
    assert cli.json(*asked, "--params", trained / "params.safetensors")["ok"]
    made = cli.json(*asked, "--seed", 3, code=1)
    assert made["weights"] == {"source": "random", "random": True, "seed": 3, "scale": "init"}


def test_run_on_an_export_takes_no_other_parameters(cli: Cli, exported: Path, tmp_path: Path, text: Path) -> None:
    other = flashir.model("flash", size="tiny", chunk=16, vocab=300)
    flashir.save_params(flashir.init(other), tmp_path / "p.safetensors")
    for given in (("--params", tmp_path / "p.safetensors"), ("--seed", 1)):
        assert f"{given[0]} cannot be set" in cli.fails("run", exported, "--text", text, *given)
    message = cli.fails("run", exported, "--text", text, "--verify", "--params", tmp_path / "p.safetensors")
    assert "embed.weight must have shape (256, 64), got (300, 64)" in message
    assert "--params cannot be set" in cli.fails(
        "eval", exported, "--data", text, "--params", tmp_path / "p.safetensors"
    )


def test_run_says_what_it_was_verified_with(cli: Cli, exported: Path, text: Path) -> None:
    made = cli.json("run", exported, "--text", text, "--verify")
    assert made["ok"] and made["weights"]["random"] is False
    weights = {"source": "artefact", "random": False, "path": str(exported)}
    assert made["compared"] == {"against": "interpreter", "input_shape": [1, 225], "weights": weights}
    shown = cli.ok("run", exported, "--text", text, "--verify")
    assert f"the float64 interpreter on [1, 225] with the weights in {exported}" in shown and RANDOM not in shown


def test_what_does_nothing_is_an_error(cli: Cli, exported: Path, text: Path, tmp_path: Path) -> None:
    fixed = write(tmp_path / "fixed.fir", FIXED)
    for line, said in (
        (("run", exported, "--text", text, "--policy", "fastest", "--rechunk"), "--policy, --rechunk cannot be set"),
        (("check", exported, "--seq-len", 64), "--seq-len cannot be set"),
        (("export", *TINY, "--decode", "--length", 9, "-o", tmp_path / "o"), "--length 9 does nothing"),
        (("generate", *TINY, "--prompt", "a", "--length", 9), "--length 9 does nothing"),
        (("plan", *TINY, "--rechunk"), "--rechunk does nothing without --chunk"),
        (("plan", fixed, "--seq-len", 64), "--seq-len 64: @fixed takes 1 row of 24 tokens"),
        (("tune", fixed, "--batch", 2), "--batch 2: @fixed takes 1 row of 24 tokens"),
        (("export", fixed, "--seq-len", 64, "-o", tmp_path / "out"), "--seq-len 64: @fixed takes 1 row of 24 tokens"),
        (("plan", "transformer", *TINY[1:], "-s", "max_len=32", "--seq-len", 33), "any number of rows of at most 32"),
    ):
        assert said in cli.fails(*line)


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_weights_that_nobody_gave_are_said_to_be_random(
    cli: Cli, trained: Path, exported: Path, tmp_path: Path, text: Path, given: bool
) -> None:
    source = trained if given else TINY
    source = source if isinstance(source, tuple) else (source,)
    out = tmp_path / "out"
    chosen = () if given else ("--chunk", 16)
    lines = {
        "export": ("export", *source, *chosen, "--force", "-o", out),
        "run": ("run", *source, *chosen, "--text", text),
        "generate": ("generate", *source, "--prompt", "a", "--tokens", 2),
        "run of an export": ("run", out, "--text", text),
        "eval of an export": ("eval", out, "--data", text, "--seq-len", 32),
        "generate of an export": ("generate", out, "--prompt", "a", "--tokens", 2),
    }
    for verb, line in lines.items():
        result = cli(*line)
        assert (RANDOM in result.output) is not given, verb
        assert cli.json(*line)["weights"]["random"] is not given, verb
    checked = ("check", *source, "--lengths", "17", "--batches", "1")
    assert ("random weights" in cli.ok(*checked)) is not given
    assert cli.json(*checked)["weights"]["random"] is not given


@pytest.mark.parametrize("target", ["onnx:cpu", pytest.param("torch:cpu", marks=pytest.mark.slow)])
def test_a_model_of_fixed_shape_is_verified_at_that_shape(cli: Cli, tmp_path: Path, target: str) -> None:
    fixed = write(tmp_path / "fixed.fir", FIXED)
    made = cli.json("export", fixed, "--target", target, "-o", tmp_path / "out")
    assert (made["batch"], made["seq_len"]) == (1, 24)
    assert [(each["batch"], each["lengths"]) for each in made["compared"]] == [(1, [24])]
    assert "interpreter on 24 tokens" in made["checks"][-1]
    for model in (fixed, tmp_path / "out"):
        rows = cli.json("check", model, "--target", target)["rows"]
        assert [(row["batch"], row["length"], row["ok"]) for row in rows] == [(1, 24, True)]
        (row,) = cli.json("check", model, "--target", target, "--lengths", "65", "--batches", "1", code=1)["rows"]
        assert row["problem"] == "the model takes 1 row of 24 tokens, got 1 row of 65 tokens"


@pytest.mark.slow
def test_a_plan_is_for_lengths_that_the_model_takes(cli: Cli, tmp_path: Path) -> None:
    fixed = write(tmp_path / "fixed.fir", FIXED)
    assert "1 row of 24 tokens" in cli.ok("plan", fixed)
    assert cli.json("tune", fixed, "--budget", 1)["seq_len"] == 24
    short = ("transformer", *TINY[1:], "-s", "max_len=32")
    assert cli.json("plan", *short)["seq_len"] == 32
    assert {row["length"] for row in cli.json("check", *short)["rows"]} == {1, 32}
    assert cli.json("tune", *short, "--seq-len", 32, "--budget", 1)["seq_len"] == 32


def test_a_result_that_is_no_logits_is_described(cli: Cli, tmp_path: Path, text: Path) -> None:
    model = write(tmp_path / "hidden.fir", HIDDEN)
    made = cli.json("run", model, "--text", text)
    assert not made["logits"] and made["loss"] is None and made["top"] == []
    (result,) = made["results"]
    assert result["shape"] == [1, 225, 256] and abs(result["mean"]) < 0.1
    assert result["std"] == pytest.approx(256**-0.5, rel=0.1), "a norm of its own starts at 1 / sqrt(width)"
    shown = cli.ok("run", model, "--text", text)
    assert "mean" in shown and "loss" not in shown and "logits" not in shown
    narrow = write(tmp_path / "narrow.fir", HIDDEN.replace("dim = 256", "dim = 64").replace("T, 256", "T, 64"))
    assert cli.json("run", narrow, "--text", text)["shape"] == [1, 225, 64]
    assert "does not return logits" in cli.fails("generate", model, "--prompt", "a")
    cli.ok("export", model, "-o", tmp_path / "out")
    assert "is not logits over the tokens" in cli.fails("eval", tmp_path / "out", "--data", text)


def test_logits_are_logits_at_every_storey() -> None:
    for settings in ({}, {"d_model": 256}):
        assert logits_width(flashir.model("flash", size="tiny", chunk=16, **settings)) == 256
        quad = flashir.model("flash-quad", size="tiny", **settings)
        narrow = SetDType("float16").apply(quad)
        for graph in (
            quad,
            Lowering("primitives").run(quad),
            Lowering.of("onnx:cpu").run(narrow),
        ):
            assert logits_width(graph) == 256
    assert logits_width(flashir.loads(HIDDEN)) is None


def test_tokens_are_counted_not_their_numbers(cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((1, 100, 16), np.float32))
    made = cli.json("run", write(tmp_path / "body.fir", FEATURES), "--ids", tmp_path / "x.npy")
    assert made["tokens_per_second"] == pytest.approx(100 / (made["ms"] / 1e3))


@pytest.fixture(scope="module")
def overflows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose logits are infinite."""
    model = flashir.model("flash", size="tiny", chunk=16, cumsum="native")
    params = unit(model)
    params["final_norm.scale"] = np.full_like(params["final_norm.scale"], 3e38)
    return flashir.save_checkpoint(model, params, tmp_path_factory.mktemp("overflows") / "ck")


@pytest.mark.slow
def test_no_verb_prints_what_is_not_finite(cli: Cli, overflows: Path, tmp_path: Path, text: Path) -> None:
    for line in (
        ("run", overflows, "--text", text, "-o", tmp_path / "x.npy"),
        ("run", overflows, "--text", text, "--verify"),
        ("eval", overflows, "--data", text, "--seq-len", 32),
        ("export", overflows, "-o", tmp_path / "out"),
        ("export", overflows, "-o", tmp_path / "out", "--quantize", "int8", "--text", text),
    ):
        for form in ((), ("--json",)):
            assert "not finite" in cli.fails(*line, *form)
    assert "not finite" in cli("generate", overflows, "--prompt", "a", "--tokens", 2).stderr
    assert not (tmp_path / "x.npy").exists() and not list(tmp_path.glob("out/*"))
    checked = cli.json("check", overflows, "--lengths", "17", "--batches", "1", code=1)["rows"]
    assert checked[0]["relative_error"] is None and "not finite" in checked[0]["problem"]
    assert "nan" not in cli("check", overflows, "--lengths", "17", "--batches", "1").stdout


def test_an_answer_is_finite_or_an_error_that_names_what_is_not() -> None:
    console.answer({"loss": 1.0, "of": [{"x": None}]}, as_json=False)
    with pytest.raises(ResultError, match=r"2 problems\n.*loss is not a finite number, got nan\n.*of\[0\].x"):
        console.answer({"loss": float("nan"), "of": [{"x": float("inf")}]}, as_json=False)


@pytest.mark.slow
def test_a_plan_has_one_statement_of_its_time(cli: Cli, tmp_path: Path, fir: Path) -> None:
    line = (fir, "--seq-len", 128, "--chunk", 64, "--cumsum", "native")
    assert "predicted for 128 tokens" in cli.ok("export", *line, "-o", tmp_path / "before")
    made = cli.json("tune", *line, "--budget", 20)
    assert made["measured_ms"] == made["candidates"][0]["measured_ms"] and made["measured_on"]
    for verb in (("plan",), ("export", "--force", "-o", tmp_path / "out")):
        told = cli.json(verb[0], *line, *verb[1:])
        assert (told["measured_ms"], told["measured_on"]) == (made["measured_ms"], made["measured_on"])
    shown = cli.ok("export", *line, "--force", "-o", tmp_path / "out")
    assert f"measured on this machine ({made['measured_on']}) for 128 tokens" in shown and "predicted" not in shown
    assert json.loads(metadata(tmp_path / "out")["flashir.plan"])["measured_ms"] == made["measured_ms"]
    near = cli.ok("export", fir, "--seq-len", 120, *line[3:], "--force", "-o", tmp_path / "out")
    assert "predicted for 120 tokens, corrected by measurements at 128 tokens on this machine" in near
    page = tmp_path / "page.html"
    cli.ok("show", fir, "--chunk", 64, "--cumsum", "native", "--seq-len", 128, "--html", page)
    assert "measured on this machine" in page.read_text()


def metadata(folder: Path) -> dict[str, str]:
    return OnnxBackend().metadata(folder)
