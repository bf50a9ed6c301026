"""Every mistake ends in one clear message on stderr and exit code 2, with --json too."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

import flashir
from tests.cli.conftest import TINY, Cli

Words = tuple[str, ...]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("plan", "flsh"), ("did you mean 'flash'",)),
        (("plan", "flash", "--size", "huge"), ("unknown size 'huge'", "pg19")),
        (("plan", "flash", "--task", "nlp"), ("unknown task 'nlp'",)),
        (("plan", "flash", "-s", "dpth=3", "-s", "key_dim=wide"), ("2 problems", "'depth'", "key_dim must be int")),
        (("plan", "flash", "-s", "depth"), ("-s key=value", "'depth'")),
        (("plan", "flash", "-s", "depth=1", "-s", "depth=2"), ("depth is given twice",)),
        (("plan", "flash", "--target", "onx:cpu"), ("did you mean 'onnx:cpu'",)),
        (("plan", "flash", "--target", "onnx"), ("'onnx:cpu'", "flashir targets")),
        (("plan", "flash", "--batch", "0", "--seq-len", "-1"), ("2 problems", "batch", "seq_len")),
        (("plan", "flash-quad", "--chunk", "64"), ("has no op with one",)),
        (("plan", "flash-quad", "--cumsum", "scan"), ("cumsum cannot be set", "has no op with one")),
        (("plan", "flash", "--chunk", "9" * 20), ("chunk must be a whole number from 1 to 1099511627776",)),
        (("plan", "flash", "--chunk", "0"), ("chunk must be a whole number from 1",)),
        (("plan", "flash", "--policy", "slowest"), ("--policy", "quality")),
        (("plan", "flash", "--wide"), ("--wide", "flashir plan --help")),
        (("plan",), ("MODEL",)),
        (("pln", "flash"), ("did you mean", "plan")),
        (("plan", "no/such.fir"), ("no/such.fir", "No such file")),
        (("plan", "flash", "--batch", "4000000"), ("needs at least", "GiB")),
        (("show", "flash", "--stage", "block"), ("did you mean 'blocks'",)),
        (("show", "flash", "--stage", "foo", "--target", "onnx:nowhere"), ("unknown stage 'foo'", "blocks", "lowered")),
        (("show", "flash", "--passes", "hoistt"), ("did you mean 'hoist'",)),
        (("new", "flash", "-o", "a.fir", "--init", "b"), ("not both",)),
        (("new", "flash", "--seed", "1"), ("--init",)),
        (("check", "flash", "--lengths", "1,x"), ("--lengths", "'1,x'")),
        (("check", "flash", "--lengths", f"1,{'9' * 5000}"), ("--lengths must be", "to 1099511627776", "got '1,9")),
        (("check", "flash", "--lengths", "\N{ARABIC-INDIC DIGIT THREE}"), ("--lengths must be",)),
        (("check", "flash", "--batches", "1099511627777"), ("--batches must be",)),
        (("plan", "flash", "--target", f"jax:tpu-v4x{'9' * 5000}"), ("a target must look like",)),
        (("check", *TINY, "--target", "torch:h200"), ("torch",)),
        (("run", "flash", "--text", "README.md"), ("vocabulary of 32000", "--tokenizer", "--ids")),
        (("run", *TINY, "--text", "no.txt"), ("no.txt", "No such file")),
        (("run", *TINY, "--text", "a", "--ids", "b"), ("not both",)),
        (("run", *TINY, "--ids", "no.npy"), ("no.npy", "No such file")),
        (("targets", "onnx:gpu"), ("unknown target 'onnx:gpu'",)),
        (("calibrate", "torch:h200"), ("torch",)),
        (("tune",), ("MODEL is missing",)),
        (("tune", "--import", "no.json"), ("no.json",)),
        (("tune", "flash", "--export", "x.json"), ("--export runs nothing", "takes no MODEL")),
        (("tune", "--export", "a", "--target", "x", "--seq-len", "0"), ("runs nothing", "no --target, --seq-len")),
        (("tune", "--export", "a", "--import", "b", "-s", "d=1"), ("runs nothing", "no --set, --import")),
        (("tune", "--import", "b", "--batch", "1", "--json"), ("--import runs nothing", "no --batch\n")),
    ],
    ids=lambda value: " ".join(value) if value and value[0] in ("plan",) else None,
)
def test_a_mistake_is_one_message(cli: Cli, line: Words, said: Words) -> None:
    message = cli.fails(*line)
    for words in said:
        assert words.lower() in message.lower(), message
    assert cli.fails(*line, "--json") == message


def test_a_malformed_file_says_line_and_column(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "bad.fir"
    path.write_text(
        "model @m(%ids: i32[B, T]) -> f32[B, T, 8] {\n  %x = embd(%ids) {vocab = 8, dim = 4}\n  return %x\n}\n"
    )
    message = cli.fails("plan", path)
    assert f"{path}:2:" in message and "embed" in message


def test_a_folder_that_is_no_checkpoint(cli: Cli, tmp_path: Path) -> None:
    assert "neither a checkpoint" in cli.fails("run", tmp_path)


def test_parameters_are_no_model(cli: Cli, checkpoint: Path) -> None:
    assert "--params" in cli.fails("plan", checkpoint / "params.safetensors")


def test_settings_are_for_the_zoo(cli: Cli, fir: Path, checkpoint: Path) -> None:
    assert "depth, size cannot be set" in cli.fails("plan", fir, "-s", "depth=3", "--size", "tiny").replace(
        "size, depth", "depth, size"
    )
    assert "cannot be set" in cli.fails("plan", checkpoint, "--task", "lm")


def test_the_chunk_of_a_model_with_parameters_is_locked(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    message = cli.fails("export", checkpoint, "--chunk", 128, "-o", tmp_path / "out")
    assert "locked to 64" in message and "--rechunk" in message
    for line in (("plan", checkpoint), ("tune", checkpoint), ("show", checkpoint), ("check", checkpoint)):
        assert "locked to 64" in cli.fails(*line, "--chunk", 128)
    result = cli("export", checkpoint, "--chunk", 128, "--rechunk", "-o", tmp_path / "out")
    assert result.exit_code == 0
    warned = [line for line in result.stderr.splitlines() if line]
    assert len(warned) == 1 and warned[0].startswith("warning: rechunked from 64 to 128")


def test_the_choices_of_an_export_are_made(cli: Cli, artefact: Path) -> None:
    assert "its choices are fixed" in cli.fails("run", artefact, "--chunk", 128)
    assert "its choices are fixed" in cli.fails("plan", artefact)


def test_there_is_one_set_of_parameters(cli: Cli, checkpoint: Path) -> None:
    params = checkpoint / "params.safetensors"
    assert "--params and --seed" in cli.fails("run", *TINY, "--params", params, "--seed", 1, input="x")
    assert "of the checkpoint" in cli.fails("run", checkpoint, "--seed", 1, input="x")


def test_everything_wrong_with_parameters_is_said_at_once(cli: Cli, fir: Path, tmp_path: Path) -> None:
    params = dict(flashir.init(flashir.model("flash", size="tiny", chunk=64)))
    params["surplus"] = params.pop("final_norm.bias")
    params["layers.0.norm.scale"] = np.ones((2, 2), np.float32)
    params["layers.1.norm.scale"][3] = np.nan
    flashir.save_params(params, tmp_path / "p.safetensors")
    message = cli.fails("export", fir, "--params", tmp_path / "p.safetensors", "--chunk", 64, "-o", tmp_path / "out")
    for words in ("4 problems", "final_norm.bias is missing", "surplus", "(2, 2)", "not finite, the first at (3,)"):
        assert words in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("harm", ["cut", "flipped", "header"])
def test_damaged_parameters(cli: Cli, checkpoint: Path, fir: Path, harm: str, tmp_path: Path) -> None:
    data = bytearray((checkpoint / "params.safetensors").read_bytes())
    if harm == "cut":
        del data[len(data) // 2 :]
    else:
        data[-5 if harm == "flipped" else 0] ^= 1
    path = tmp_path / "p.safetensors"
    path.write_bytes(data)
    message = cli.fails("export", fir, "--params", path, "-o", tmp_path / "out")
    assert str(path) in message
    if harm == "flipped":
        assert "is damaged: its SHA-256" in message


def test_a_damaged_checkpoint(cli: Cli, checkpoint: Path) -> None:
    path = checkpoint / "model.fir"
    path.write_text(path.read_text().replace("layer_norm", "scale_norm"))
    assert "model.fir is damaged" in cli.fails("show", checkpoint)


def test_a_damaged_export(cli: Cli, artefact: Path, tmp_path: Path) -> None:
    data = bytearray(artefact.read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "model.onnx").write_bytes(data)
    assert "damaged" in cli.fails("run", tmp_path, input="x")


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (np.array([1, 256, 3]), "1 token id outside 0 .. 255, the first at (0, 1): 256"),
        (np.array([1, -1]), "outside 0 .. 255"),
        (np.array([0.5, 1.0]), "must hold whole numbers, got float64"),
        (np.zeros((1, 2, 3), np.int64), "axes"),
    ],
)
def test_token_ids_out_of_range(cli: Cli, artefact: Path, tmp_path: Path, ids: np.ndarray, said: str) -> None:
    np.save(tmp_path / "ids.npy", ids)
    for model in ((artefact,), TINY):
        assert said in cli.fails("run", *model, "--ids", tmp_path / "ids.npy")


def test_a_file_that_is_no_array(cli: Cli, fir: Path) -> None:
    assert "not a .npy file" in cli.fails("run", *TINY, "--ids", fir)


@pytest.mark.parametrize(
    "content", [b"PK\3\4" + bytes(100), b"\x93NUMPY\1\0", b"\x93NUMPY\x09\0" + bytes(99), b"", b"\x80\4]."]
)
def test_a_file_that_another_reader_takes_is_no_array_either(cli: Cli, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ids.npy").write_bytes(content)
    assert "not a .npy file of numbers" in cli.fails("run", *TINY, "--ids", tmp_path / "ids.npy")


def test_segments_for_a_model_without(cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([1, 2]))
    message = cli.fails("run", *TINY, "--ids", tmp_path / "ids.npy", "--segment-ids", tmp_path / "ids.npy")
    assert "no input 'segment_ids'" in message


def test_a_file_where_passes_should_be_dumped(cli: Cli, fir: Path) -> None:
    message = cli.fails("show", fir, "--stage", "lowered", "--dump-ir", fir)
    assert "cannot write" in message and str(fir) in message


def test_a_full_disk(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for line in (("new", *TINY, "-o", tmp_path / "m.fir"), ("export", *TINY, "-o", tmp_path / "out")):
        assert "No space left on device\nfree some space" in cli.fails(*line)
    assert not (tmp_path / "m.fir").exists() and not list(tmp_path.glob("out/*"))


def test_a_damaged_store_is_one_warning_on_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path))
    (tmp_path / "tune.sqlite").write_bytes(b"nothing of the kind" * 20)
    result = cli("plan", *TINY)
    assert result.exit_code == 0
    (warned,) = [line for line in result.stderr.splitlines() if line]
    assert warned.startswith("warning: measurements are left out") and "database; move the file away;" in warned


def test_a_name_that_is_too_long_is_told(cli: Cli, fir: Path, tmp_path: Path) -> None:
    assert "File name too long" in cli.fails("show", fir, "--html", tmp_path / ("n" * 300))


def test_a_bug_asks_to_be_reported(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("flashir.planning.plan.plan", broken)
    message = cli.fails("plan", *TINY, code=1)
    assert "ZeroDivisionError: oh" in message and "report it" in message
    assert "Traceback" in cli("--debug", "plan", *TINY).stderr
    monkeypatch.setenv("FLASHIR_DEBUG", "1")
    assert "Traceback" in cli("plan", *TINY).stderr


def test_an_interrupt_is_quiet(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flashir.planning.plan.plan", interrupted)
    result = cli("plan", *TINY)
    assert (result.exit_code, result.output) == (130, "")
