"""Every verb does what it says; what it prints for machines has the fields that it promises."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import flashir
from flashir.cli.results import FORMS
from tests.cli.conftest import TINY, Cli

PLAN_FIELDS = {
    "model", "target", "batch", "seq_len", "training", "chunk", "cumsum", "predicted_ms", "peak_bytes", "parameters",
    "candidates",
}  # fmt: skip


def test_help_lists_every_verb_with_a_line(cli: Cli) -> None:
    listed = cli.ok("--help")
    for verb in FORMS:
        assert any(line.startswith(f"  {verb} ") and line.rstrip().endswith(".") for line in listed.splitlines()), verb
    assert cli.ok() == listed


@pytest.mark.parametrize("verb", FORMS)
def test_every_verb_has_help_with_examples_and_json(cli: Cli, verb: str) -> None:
    shown = cli.ok(verb, "--help")
    assert cli.ok(verb, "-h") == shown
    assert "Examples" in shown and f"flashir {verb}" in shown.partition("Examples")[2]
    assert "--json" in shown
    assert "\x1b" not in shown and all(line == line.rstrip() for line in shown.splitlines())


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("flashir pl", "plan"), ("flashir plan --pol", "--policy"), ("flashir plan --policy f", "fastest")],
)
def test_a_shell_completes_verbs_options_and_values(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, typed: str, offered: str
) -> None:
    monkeypatch.setenv("_FLASHIR_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    assert cli().stdout.split() == [offered]


def test_version(cli: Cli) -> None:
    assert cli.ok("--version") == f"flashir {flashir.__version__}\n"


def test_new_prints_text_that_loads(cli: Cli) -> None:
    text = cli.ok("new", *TINY, "-s", "depth=3", "-s", "chunk=128")
    assert flashir.loads(text) == flashir.model("flash", size="tiny", depth=3, chunk=128)
    assert "chunk = 128" in cli.ok("new", *TINY, "--chunk", 128)


def test_new_writes_once_unless_forced(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "m.fir"
    assert "69.2k parameters" in cli.ok("new", *TINY, "--chunk", 64, "-o", out)
    before = out.read_text()
    assert "--force" in cli.fails("new", *TINY, "-s", "depth=5", "-o", out)
    assert out.read_text() == before
    made = cli.json("new", *TINY, "-s", "depth=5", "-o", out, "--force")
    assert made["path"] == str(out) and made["text"] == out.read_text() and made["parameters"] > 0


def test_new_init_makes_a_checkpoint(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    cli.ok("new", *TINY, "--chunk", 64, "--init", folder, "--seed", 7)
    found = flashir.load_checkpoint(folder)
    wanted = flashir.init(found.model, seed=7)
    assert all(np.array_equal(found.params[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("stage", ["blocks", "attention", "primitives", "lowered"])
def test_show_prints_a_graph_that_parses_at_every_stage(cli: Cli, fir: Path, stage: str) -> None:
    text = cli.ok("show", fir, "--stage", stage, "--types", "--target", "onnx:cpu")
    assert flashir.dumps(flashir.loads(text), types=True) == text
    made = cli.json("show", fir, "--stage", stage)
    assert made["stages"][stage]["nodes"] == made["stages"][stage]["text"].count(" = ") - _settings(made, stage)
    assert set(made) == {"model", "parameters", "shapes", "stages", "printed"}


def _settings(made: dict[str, dict[str, dict[str, str]]], stage: str) -> int:
    """How many attributes and named operands the text gives, beside the results of nodes."""
    text = made["stages"][stage]["text"]
    return text.count(" = ") - sum(line.lstrip().startswith("%") for line in text.splitlines())


def test_show_params_lists_and_counts(cli: Cli, checkpoint: Path) -> None:
    shown = cli.ok("show", checkpoint, "--params")
    total = sum(array.size for array in flashir.load_checkpoint(checkpoint).params.values())
    assert f"{total:,} numbers" in shown and "layers.1.proj_in.weight" in shown


def test_show_passes_and_instruments(cli: Cli, fir: Path, tmp_path: Path) -> None:
    assert "chunk = 128" in cli.ok("show", fir, "--passes", "choose-chunk{chunk=128}")
    assert "// after hoist" in cli.ok("show", fir, "--print-after", "hoist")
    cli.ok("show", fir, "--stage", "lowered", "--dump-ir", tmp_path / "dump")
    assert any(path.name.endswith("-canonicalise.fir") for path in (tmp_path / "dump").iterdir())
    assert "hoist" in cli.fails("show", fir, "--print-after", "hoistt")


def test_show_takes_an_export(cli: Cli, artefact: Path) -> None:
    assert flashir.loads(cli.ok("show", artefact)) == flashir.loads(cli.ok("show", artefact.parent))


def test_plan_has_exactly_the_fields_of_the_contract(cli: Cli, fir: Path) -> None:
    made = cli.json("plan", fir, "--batch", 32, "--seq-len", 8192, "--training", "--target", "jax:tpu-v4x32")
    assert set(made) - {"why"} == PLAN_FIELDS
    assert made["model"] == str(fir) and made["target"] == "jax:tpu-v4x32" and made["training"] is True
    for candidate in made["candidates"]:
        assert set(candidate) == {"chunk", "cumsum", "predicted_ms", "peak_bytes"}
    assert {"chunk": made["chunk"], "cumsum": made["cumsum"]}.items() <= min(
        (each for each in made["candidates"] if each["chunk"] == made["chunk"]), key=lambda each: each["predicted_ms"]
    ).items()


def test_plan_of_a_model_without_chunks_has_null(cli: Cli) -> None:
    made = cli.json("plan", "flash-quad", "--size", "tiny")
    assert made["chunk"] is None and made["cumsum"] is None and made["model"] == "flash-quad"


def test_plan_marks_what_it_chose(cli: Cli) -> None:
    shown = cli.ok("plan", *TINY, "--chunk", 64, "--cumsum", "matmul")
    rows = [line.split() for line in shown.splitlines()]
    assert [row[:3] for row in rows if row[:1] == ["*"]] == [["*", "64", "matmul"]]
    assert "\x1b" not in shown


def test_a_tile_is_shown_where_there_is_one(cli: Cli) -> None:
    performer = ("performer", "--size", "tiny", "--seq-len", 64)
    chosen = cli.json("plan", *performer)
    rows = [line.split() for line in cli.ok("plan", *performer).splitlines()]
    assert ["chunk", "tile", "cumsum"] in [row[:3] for row in rows]
    assert [row[:4] for row in rows if row[:1] == ["*"]] == [["*", "-", str(chosen["tile"]), chosen["cumsum"]]]
    assert "Table 10" in cli.json("plan", *performer, "--cumsum", "scan")["why"]
    by_hand = cli.json("plan", *performer, "--cumsum", "scan", "-s", "tile=7")
    assert (by_hand["cumsum"], by_hand["tile"], len(by_hand["candidates"])) == ("scan", 7, 1)
    assert "tile" not in cli.ok("plan", *TINY).split("Chunk")[0]
    assert "tile = auto" not in cli.ok("show", *performer, "--stage", "attention")


def test_export_then_run_then_check(cli: Cli, fir: Path, tmp_path: Path, text: Path) -> None:
    out = tmp_path / "out"
    made = cli.json("export", fir, "--seed", 5, "-o", out)
    assert Path(made["path"]) == out / "model.onnx" and made["files"] == {
        made["path"]: Path(made["path"]).stat().st_size
    }
    assert made["checks"] and set(made) > PLAN_FIELDS
    ran = cli.json("run", out, "--text", text, "--verify", "--seed", 5)
    assert ran["ok"] and ran["shape"] == [1, 225, 256] and ran["chunk"] == made["chunk"]
    checked = cli.json("check", out, "--seed", 5, "--lengths", "1,65")
    assert checked["ok"] and [(row["batch"], row["length"]) for row in checked["rows"]] == [
        (1, 1), (2, 1), (1, 65), (2, 65)
    ]  # fmt: skip


def test_export_says_what_it_did(cli: Cli, tmp_path: Path) -> None:
    shown = cli.ok("export", "flash-quad", "--size", "tiny", "-o", tmp_path / "out")
    assert "float64 interpreter" in shown and "qk_scale" in shown and str(tmp_path / "out" / "model.onnx") in shown


def test_export_of_a_checkpoint_uses_its_parameters(cli: Cli, checkpoint: Path, tmp_path: Path, text: Path) -> None:
    cli.ok("export", checkpoint, "-o", tmp_path / "out")
    params = checkpoint / "params.safetensors"
    assert cli.json("run", tmp_path / "out", "--text", text, "--params", params, "--verify")["ok"]
    assert cli.json("run", tmp_path / "out", "--text", text, "--verify")["ok"]


def test_run_on_text_ids_and_standard_input_agrees(cli: Cli, artefact: Path, text: Path, tmp_path: Path) -> None:
    ids = np.frombuffer(text.read_bytes(), np.uint8).astype(np.int64)
    np.save(tmp_path / "ids.npy", ids)
    one = cli.json("run", artefact, "--text", text, "--offset", 10, "--length", 100, "-o", tmp_path / "logits.npy")
    other = cli.json("run", artefact, "--ids", tmp_path / "ids.npy", "--offset", 10, "--length", 100)
    third = cli.json("run", artefact, "--length", 100, "--offset", 10, input=text.read_bytes())
    assert one["loss"] == other["loss"] == third["loss"]
    logits = np.load(tmp_path / "logits.npy").astype(np.float64)
    assert list(logits.shape) == one["shape"] == [1, 100, 256]
    chances = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
    loss = -np.log(chances[np.arange(99), ids[11:110]]).mean()
    assert one["loss"] == pytest.approx(loss)
    assert one["bits_per_byte"] == pytest.approx(loss / np.log(2))
    assert one["perplexity"] == pytest.approx(np.exp(loss))
    assert one["top"][0]["token"] == chances[-1].argmax()


def test_run_prints_for_people(cli: Cli, text: Path) -> None:
    shown = cli.ok("run", *TINY, "--text", text, "--verify")
    assert "bits per byte" in shown and "tokens/s" in shown and "agrees with the float64 interpreter" in shown


def test_run_of_nothing(cli: Cli, artefact: Path) -> None:
    made = cli.json("run", artefact, input=b"")
    assert made["shape"] == [1, 0, 256] and made["loss"] is None and made["top"] == []


def test_run_of_a_bidirectional_model_has_no_loss(cli: Cli, text: Path) -> None:
    assert cli.json("run", *TINY, "--task", "mlm", "--text", text)["loss"] is None


def test_rechunk_where_the_parameters_were_made_for_another_chunk(cli: Cli, checkpoint: Path, text: Path) -> None:
    line = (checkpoint, "--chunk", 128, "--rechunk")
    assert cli.json("plan", *line)["chunk"] == 128
    assert cli.json("run", *line, "--text", text, "--verify")["ok"]
    assert cli.json("check", *line, "--lengths", "129")["ok"]


def test_run_with_segments(cli: Cli, text: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "segments.npy", np.repeat([0, 1, 2], 75))
    given = ("--text", text, "--segment-ids", tmp_path / "segments.npy", "--verify")
    assert cli.json("run", *TINY, "-s", "segments=true", *given)["ok"]


def test_run_with_a_mask(cli: Cli, tmp_path: Path) -> None:
    """A padded batch has the loss of its texts: padding is not foreseen, and not counted."""
    text = np.random.default_rng(0).integers(0, 256, (1, 40))
    np.save(tmp_path / "alone.npy", text)
    np.save(tmp_path / "padded.npy", np.pad(text, ((0, 0), (0, 9))))
    np.save(tmp_path / "mask.npy", np.arange(49) < 40)
    line = ("run", *TINY, "-s", "chunk=16", "--seed", 1, "--ids")
    alone = cli.json(*line, tmp_path / "alone.npy")
    padded = cli.json(*line, tmp_path / "padded.npy", "-s", "mask=true", "--mask", tmp_path / "mask.npy", "--verify")
    assert padded["ok"]
    assert padded["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert [each["token"] for each in padded["top"]] == [each["token"] for each in alone["top"]]
    wrong = ("run", *TINY, "-s", "mask=true", "--ids", tmp_path / "padded.npy", "--mask", tmp_path / "padded.npy")
    assert "mask must hold true or false, got int64" in cli.fails(*wrong)


def test_run_verify_fails_where_the_parameters_are_others(cli: Cli, artefact: Path, text: Path) -> None:
    result = cli("run", artefact, "--text", text, "--verify", "--seed", 1, "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["ok"] is False
    assert "differ from the float64 interpreter" in result.stderr


def test_check_covers_where_chunks_begin_and_end(cli: Cli) -> None:
    made = cli.json("check", *TINY, "--chunk", 16)
    assert sorted({row["length"] for row in made["rows"]}) == [1, 15, 16, 17, 50]
    assert {row["batch"] for row in made["rows"]} == {1, 2} and made["ok"] and made["left_out"] == []
    fields = {"target", "what", "against", "batch", "length", "relative_error", "tolerance", "ok"}
    assert set(made["rows"][0]) == fields


def test_check_fails_where_an_export_has_other_parameters(cli: Cli, artefact: Path) -> None:
    result = cli("check", artefact, "--seed", 1, "--lengths", "5", "--batches", "1")
    assert result.exit_code == 1 and "FAILED" in result.stdout and "1 of 1 comparisons failed" in result.stderr


def test_targets(cli: Cli) -> None:
    listed = cli.json("targets")
    onnx = next(each for each in listed if each["target"] == "onnx:cpu")
    assert onnx["installed"] and onnx["at_hand"]
    one = cli.json("targets", "jax:tpu-v4x32")
    assert one["numbers"]["devices"]["value"] == 32 and one["numbers"]["peak.bf16"]["source"]
    shown = cli.ok("targets", "onnx:cpu")
    assert all(name in shown for name in one["numbers"] if not name.startswith(("peak", "slowdown")))


def test_doctor(cli: Cli) -> None:
    made = cli.json("doctor")
    assert made["ok"] and {"what", "state", "detail", "mend"} == set(made["findings"][0])
    assert {"python", "backend onnx", "cache", "tuning store", "self test"} <= {f["what"] for f in made["findings"]}


def test_doctor_finds_a_cache_that_cannot_be_written(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "file"))
    result = cli("doctor")
    assert result.exit_code == 1 and "broken: cache" in result.stderr


@pytest.mark.slow
def test_tune_measures_and_plan_finds_it(cli: Cli, tmp_path: Path) -> None:
    line = (*TINY, "--seq-len", 128, "--chunk", 64)
    made = cli.json("tune", *line, "--budget", 20)
    assert set(made) - {"why", "measured_ms", "measured_on"} == PLAN_FIELDS
    measured = [each for each in made["candidates"] if "measured_ms" in each]
    assert measured and all(each["measured_ms"] > 0 for each in measured)
    assert any("measured_ms" in each for each in cli.json("plan", *line)["candidates"])
    out = tmp_path / "store.json"
    assert cli.json("tune", "--export", out) == {"file": str(out), "measurements": len(measured)}
    assert cli.json("tune", "--import", out)["measurements"] == 0


def test_any_choice_of_an_op_can_be_forced(cli: Cli) -> None:
    plan = cli.json("plan", "performer", "--size", "tiny", "--seq-len", "256", "--choose", "tile=16")
    assert {candidate["tile"] for candidate in plan["candidates"]} == {16}
    assert "tile cannot be set" in cli.fails("plan", "flash", "--size", "tiny", "--choose", "tile=16")
    assert "--choose name=value, got 'tile'" in cli.fails("plan", "flash", "--size", "tiny", "--choose", "tile")
    assert "chunk is given twice" in cli.fails("plan", "flash", "--chunk", "64", "--choose", "chunk=32")
