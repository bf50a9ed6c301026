"""flashir import: from a file of another package to a checkpoint that every verb takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Cli
from tests.importing.support import flash_transformer

GIVEN = ("-s", "causal=true", "-s", "group_size=16")


@pytest.mark.slow
def test_every_verb_takes_what_was_imported(cli: Cli, tmp_path: Path) -> None:
    save_file(flash_transformer(num_tokens=256), tmp_path / "m.safetensors")
    (tmp_path / "text.txt").write_text("It is a truth universally acknowledged. " * 20)
    folder, out = tmp_path / "made", tmp_path / "out"
    assert "shapes do not determine causal" in cli.fails("import", tmp_path / "m.safetensors", "-o", folder)
    assert not folder.exists()
    told = cli.json("import", tmp_path / "m.safetensors", *GIVEN, "-o", folder)
    assert (told["family"], told["structure"], told["path"]) == ("flash-pytorch", "FLASHTransformer", str(folder))
    assert "the folder is not empty" in cli.fails("import", tmp_path / "m.safetensors", *GIVEN, "-o", folder)
    assert cli.json("plan", folder)["chunk"] == 16
    cli.ok("check", folder, "--target", "onnx:cpu")
    cli.ok("export", folder, "--decode", "-o", out)
    again = cli.json("import", out, "-o", tmp_path / "again")
    assert (again["family"], again["structure"]) == ("artefact", "onnx")
    assert (tmp_path / "again" / "params.safetensors").read_bytes() == (folder / "params.safetensors").read_bytes()
    cli.ok("eval", folder, "--data", tmp_path / "text.txt", "--seq-len", 64)
    assert cli.ok("generate", folder, "--prompt", "It is", "--tokens", 5, "--temperature", 0) == cli.ok(
        "generate", out, "--prompt", "It is", "--tokens", 5, "--temperature", 0
    )


def test_a_file_that_is_not_recognised_is_one_error_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07" * 9)
    told = cli.fails("import", tmp_path / "m.onnx", "-o", tmp_path / "made")
    assert str(tmp_path / "m.onnx") in told and "Traceback" not in told
    assert not (tmp_path / "made").exists()
