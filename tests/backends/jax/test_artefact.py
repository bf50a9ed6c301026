"""Artefacts: written whole, for platforms that are not at hand, read back with every digest verified."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pytest

import flashir
from flashir import interpret
from flashir.backends.protocols import Exporter, PerDevice, Written
from flashir.errors import ArtefactError, InputError, TargetError
from flashir.ir import loads
from flashir_jax import JaxBackend
from flashir_jax.artefact import MAIN_FILE, read_manifest
from flashir_jax.export import imported, particulars
from flashir_zoo import Zoo
from tests.backends.jax.support import SMALL, TOLERANCE, Array, flash, lowered, relative_error, tokens, unit

BACKEND = JaxBackend()
MODEL = flash(4, "native", segments=True)


def export(out: Path, device: str = "cpu", seed: int = 0, **more: object) -> Written:
    return BACKEND.on(device).export(MODEL, lowered(MODEL), unit(MODEL, seed), out, {"note": "hello"}, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def export_for_tpu(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return export(tmp_path_factory.mktemp("artefact"), "tpu-v4")


@pytest.fixture
def written(export_for_tpu: Written) -> Path:
    return export_for_tpu.path


@pytest.fixture
def artefact(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(written.parent, tmp_path / "copy") / MAIN_FILE


def files(path: Path) -> dict[str, Path]:
    return {file.suffix: file for file in path.parent.iterdir()}


def test_it_is_an_exporter_that_knows_its_device() -> None:
    assert isinstance(BACKEND, Exporter)
    assert isinstance(BACKEND, PerDevice)


@pytest.mark.slow
def test_what_is_written_for_a_tpu_runs_here_too(written: Path) -> None:
    model, run = BACKEND.load(written, "cpu")
    assert model == MODEL
    params = unit(MODEL)
    for batch, length in ((1, 1), (2, 11)):
        ids = tokens(MODEL, batch, length)
        assert relative_error(run(ids), interpret(MODEL, params, *ids)[0]) < TOLERANCE


@pytest.mark.parametrize(("batch", "length"), [(0, 0), (0, 5), (2, 0)])
def test_nothing_in_nothing_out(written: Path, batch: int, length: int) -> None:
    logits = BACKEND.load(written.parent, "cpu")[1](tokens(MODEL, batch, length))
    assert logits.shape == (batch, length, SMALL["vocab"])
    assert logits.dtype == np.float32


def test_it_holds_what_it_should(written: Path) -> None:
    manifest = read_manifest(written)
    assert list(manifest.functions) == ["tpu", "cpu"]
    assert len(set(manifest.functions.values())) == 1
    assert loads(manifest.metadata["flashir.model"]) == MODEL
    assert manifest.metadata["note"] == "hello"
    assert manifest.metadata["flashir.jax"]
    function = imported(files(written)[".stablehlo"].read_bytes(), "here")
    assert set(function.platforms) == {"tpu", "cpu"}
    assert [str(each) for each in function.in_avals[-2:]] == ["int32[B,T]"] * 2
    assert str(function.out_avals[0]) == "float32[B,T,11]"
    params = flashir.load_params(files(written)[".safetensors"])
    assert params.keys() == unit(MODEL).keys()
    assert all(np.array_equal(array, unit(MODEL)[name]) for name, array in params.items())
    assert {file.name for file in written.parent.iterdir()} == {MAIN_FILE, *manifest.files()}


def test_an_export_says_what_could_not_be_run(export_for_tpu: Written) -> None:
    assert set(export_for_tpu.beside) == {*export_for_tpu.path.parent.iterdir()} - {export_for_tpu.path}
    checks = "\n".join(export_for_tpu.checks)
    assert "inputs int32[B,T], int32[B,T]" in checks
    assert "B and T open, any number from 1 on; for 0 the result is empty, without running the module" in checks
    assert "one StableHLO module for tpu and cpu; tpu is not available, it runs on cpu here" in checks


@pytest.mark.parametrize(("cumsum", "said"), [("native", True), ("matmul", False)])
def test_what_is_slower_with_the_length_open_is_said(cumsum: str, said: bool) -> None:
    notes = particulars(lowered(flash(4, cumsum)))
    assert any("running sums are sequential" in note for note in notes) is said


@pytest.mark.slow
@pytest.mark.parametrize("target", ["jax:tpu-v4", "jax:cuda", "jax:cpu"])
def test_the_generic_export_checks_it_against_the_interpreter(target: str, tmp_path: Path) -> None:
    model = flash(4, "scan", depth=1, dtype="bfloat16")
    found = flashir.export(model, tmp_path, target, seed=0)
    assert found.path == tmp_path / MAIN_FILE
    assert any("run against the float64 interpreter on 5 tokens" in check for check in found.checks)
    _, run = BACKEND.load(found.path, "cpu")
    ids = tokens(model, 1, 9)
    assert relative_error(run(ids), interpret(model, flashir.init(model), *ids)[0]) < 2e-2
    if target != "jax:cpu":
        assert "not available" in "\n".join(found.checks)


def test_another_export_replaces_the_old_one_and_removes_its_files(artefact: Path) -> None:
    old = {file.name for file in artefact.parent.iterdir()}
    (artefact.parent / "mine.txt").write_text("mine")
    unfinished = artefact.parent / ".model.jax.0123abcd.unfinished"
    unfinished.write_text("left by a kill")
    export(artefact.parent, seed=1)
    new = {file.name for file in artefact.parent.iterdir()}
    assert len(new) == 4
    assert "mine.txt" in new
    assert new & old == {MAIN_FILE}


def test_an_export_that_fails_its_check_leaves_the_old_one_whole(artefact: Path) -> None:
    before = {file.name: file.read_bytes() for file in artefact.parent.iterdir()}

    def refuse(run: object) -> None:
        raise ArtefactError("no")

    with pytest.raises(ArtefactError, match="no"):
        export(artefact.parent, seed=1, check=refuse)
    assert {file.name: file.read_bytes() for file in artefact.parent.iterdir()} == before


@pytest.mark.parametrize("suffix", [".stablehlo", ".safetensors"])
@pytest.mark.parametrize("place", [0.0, 0.5, 0.99])
def test_a_flipped_bit_is_found(artefact: Path, suffix: str, place: float) -> None:
    file = files(artefact)[suffix]
    flip(file, int(place * file.stat().st_size))
    with pytest.raises(ArtefactError, match=rf"{re.escape(file.name)}: the file is damaged"):
        BACKEND.load(artefact, "cpu")


def test_no_bit_of_the_main_file_that_matters_flips_unseen(artefact: Path) -> None:
    whole = artefact.read_bytes()
    wanted = read_manifest(artefact)
    for place in range(0, len(whole), 7):
        flip(artefact, place)
        with suppress(ArtefactError):
            assert read_manifest(artefact) == wanted, place  # a space between entries
        artefact.write_bytes(whole)


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("suffix", [".stablehlo", ".safetensors", ".jax"])
@pytest.mark.parametrize("how", ["missing", "short", "empty"])
def test_files_that_are_not_whole(artefact: Path, suffix: str, how: str) -> None:
    file = files(artefact)[suffix]
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: 0 if how == "empty" else -9])
    with pytest.raises(ArtefactError):
        BACKEND.load(artefact, "cpu")


def test_parts_of_two_artefacts_are_told_apart(artefact: Path, tmp_path: Path) -> None:
    """Digests alone are right where someone pieces a manifest together; what it says must fit together too."""
    other = BACKEND.export(flash(depth=1), lowered(flash(depth=1)), unit(flash(depth=1)), tmp_path / "other", {}).path
    theirs, mine = read_manifest(other), read_manifest(artefact)
    mixed = msgspec.structs.replace(mine, functions=dict.fromkeys(mine.functions, theirs.functions["cpu"]))
    mixed = msgspec.structs.replace(mixed, sha256=mixed.digest())
    artefact.write_bytes(msgspec.json.encode(mixed))
    shutil.copy(files(other)[".stablehlo"], artefact.parent)
    with pytest.raises(ArtefactError, match="does not take the parameters"):
        BACKEND.load(artefact, "cpu")


def test_a_device_that_it_is_not_for(written: Path) -> None:
    with pytest.raises(TargetError, match="for tpu and cpu, wanted cuda"):
        BACKEND.load(written, "cuda")
    with pytest.raises(TargetError, match="JAX has no device 'toaster'"):
        BACKEND.load(written, "toaster")


def test_a_size_that_jax_cannot_name(tmp_path: Path) -> None:
    b = flashir.Builder("named")
    graph = b.finish(b.relu(b.input("x", "f32[mod, 2]")))
    with pytest.raises(TargetError, match="does not allow a size called mod"):
        BACKEND.export(graph, lowered(graph), {}, tmp_path, {})
    assert not (tmp_path / MAIN_FILE).exists()


@pytest.mark.parametrize("start", ["0", "2", "5*ceildiv(T, 5) + -3"])
def test_lengths_that_jax_cannot_compare(start: str, tmp_path: Path) -> None:
    model = loads(
        "model @m(%x: f32[B, T]) {\n"
        "  %y = pad(%x) {axis = 1, after = -1*T + 40*ceildiv(T, 40)}\n"
        f"  %z = slice(%y) {{axis = 1, start = {start}, stop = 5*ceildiv(T, 5)}}\n"
        "  return %z\n}"
    )
    flashir.export(model, tmp_path, target="jax:cpu")
    _, run = JaxBackend().load(tmp_path, "cpu")
    for length in (4, 5, 41):
        x = np.arange(2 * length, dtype=np.float32).reshape(2, length)
        assert np.array_equal(run([x]), interpret(model, {}, x)[0])


def test_a_model_without_parameters_and_with_known_sizes(tmp_path: Path) -> None:
    b = flashir.Builder("plain")
    graph = b.finish(b.relu(b.input("x", "f32[3, 2]")))
    exported = BACKEND.export(graph, lowered(graph), {}, tmp_path, {})
    x: Array = np.array([[-1, 1], [2, -2], [0, 3]], np.float32)
    assert np.array_equal(BACKEND.load(exported.path, "cpu")[1]([x]), np.maximum(x, 0))
    assert "no size is open: it accepts only inputs of these shapes" in exported.checks


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize("device", ["tpu-v4", "cuda"])
@pytest.mark.parametrize("task", ["lm", "mlm"])
@pytest.mark.parametrize("name", Zoo().models())
def test_every_system_takes_any_length_wherever_it_is_written_for(
    name: str, task: str, device: str, tmp_path: Path
) -> None:
    model = flashir.model(name, size="tiny", task=task)
    found = flashir.export(model, tmp_path, f"jax:{device}", seed=0)
    assert any(line.startswith("B and T open") for line in found.checks)
    settled, run = BACKEND.load(found.path, "cpu")
    params = flashir.init(settled)
    for batch, length in ((2, 1), (1, 150)):
        ids = [np.random.default_rng(0).integers(0, 9, (batch, length))]
        assert relative_error(run(ids), interpret(settled, params, *ids)[0]) < TOLERANCE


def test_a_length_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    model = flashir.model("flash-quad", **SMALL, max_len=8)
    path = BACKEND.export(model, lowered(model), unit(model), tmp_path, {}).path
    run = BACKEND.load(path, "cpu")[1]
    assert np.isfinite(run(tokens(model, 1, 8))).all()
    with pytest.raises(InputError, match="spans max_len = 8 positions, the sequence has 9"):
        run(tokens(model, 1, 9))


def test_a_graph_in_float64(tmp_path: Path) -> None:
    b = flashir.Builder("wide")
    graph = b.finish(b.rope(b.input("x", "f64[1, T, 8]"), axis=1))
    path = BACKEND.export(graph, lowered(graph), {}, tmp_path, {}).path
    x = np.random.default_rng(0).standard_normal((1, 9, 8))
    got = BACKEND.load(path, "cpu")[1]([x])
    assert got.dtype == np.float64
    assert np.abs(got - interpret(graph, {}, x)[0]).max() < 1e-12
