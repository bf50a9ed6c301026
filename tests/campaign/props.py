"""Files that command lines may name: models of every form, parameters, texts, and invalid files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import flashir

HIDDEN = """model @hidden(%ids: i32[B, T]) -> f32[B, T, 8] {
  %x = embed(%ids) {vocab = 256, dim = 8}
  %y = flash(%x) {key_dim = 4, chunk = 4}
  return %y
}
"""
TWO = (
    HIDDEN.replace("@hidden", "@two")
    .replace("-> f32[B, T, 8]", "-> f32[B, T, 256], f32[B, T, 8]")
    .replace("return %y", "%l = unembed(%y)\n  return %l, %y")
)
RECIPE = 'tokens = 16\nseq_len = 8\nsteps = 2\nlearning_rate = 0.001\ndata = ["text.txt"]\n'
TEXT = "It is a truth universally acknowledged, that a single man in possession of a good fortune.\n" * 20


def small() -> flashir.Graph:
    """A byte-level model that every verb accepts."""
    return flashir.model("flash", d_model=8, depth=1, key_dim=4, vocab=256, chunk=4, cumsum="native")


def make(folder: Path) -> None:
    """Fill a folder with the files."""
    folder.mkdir()
    model = small()
    params = flashir.init(model, seed=3)
    (folder / "m.fir").write_text(flashir.dumps(model), encoding="utf-8")
    (folder / "hidden.fir").write_text(HIDDEN, encoding="utf-8")
    (folder / "two.fir").write_text(TWO, encoding="utf-8")
    flashir.save_params(params, folder / "p.safetensors")
    flashir.save_checkpoint(model, params, folder / "saved")
    flashir.export(model, folder / "art", target="onnx:cpu", params=params, decode=True)
    np.save(folder / "ids.npy", np.array([[1, 2, 3, 4, 5]]))
    np.save(folder / "floats.npy", np.array([0.5]))
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    (folder / "latin.txt").write_bytes("l'été\n".encode("latin-1") * 9)
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    (folder / "store.json").write_text('{"format": "flashir-tune", "schema": 2, "trials": []}', encoding="utf-8")
    (folder / "empty").write_bytes(b"")
    (folder / "garbage").write_bytes(bytes(range(256)) * 9)
    (folder / "there").mkdir()
    (folder / "there" / "file").write_text("x", encoding="utf-8")
    (folder / "link").symlink_to("nowhere")
    _tokenizer(folder / "tokenizer.json")
    _run(folder)


def _tokenizer(path: Path) -> None:
    from flashir.train.data.tokenizer import Tokenizer

    Tokenizer.bytes().save(path)


def _run(folder: Path) -> None:
    """A training run of two steps, made by the command line."""
    import os

    from typer.testing import CliRunner

    from flashir.cli.app import app

    before = Path.cwd()
    os.chdir(folder)
    try:
        line = ["train", "m.fir", "--recipe", "recipe.toml", "-o", "run", "--json"]
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output
    finally:
        os.chdir(before)
