"""A mesh of devices trains as one device does; what its devices send each other is what the decision says."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import SettingError
from flashir.models.parameters import load_params
from flashir_jax.claims import claims
from flashir_jax.functions import lower
from flashir_jax.mesh import Axes
from tests.backends.jax import worker
from tests.backends.training import LENGTH, small
from tests.backends.work import task

ROOT = Path(__file__).parents[3]
CHUNK = 5
LOSSES = 1e-5


def started(given: dict[str, Any], mesh: str, devices: int = 4, **environment: str) -> subprocess.Popen[str]:
    file = Path(given["out"]) / "task.json"
    file.write_text(json.dumps(given))
    flags = f"--xla_force_host_platform_device_count={devices}"
    own = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "FLASHIR_MESH": mesh, **environment}
    command = [sys.executable, worker.__file__, str(file)]
    return subprocess.Popen(command, env=own, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def found(given: dict[str, Any], mesh: str) -> dict[str, Any]:
    process = started(given, mesh)
    _, told = process.communicate(timeout=300)
    assert not process.returncode, told
    return read(given)


def read(given: dict[str, Any], rank: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((Path(given["out"]) / f"found-{rank}.json").read_text())
    return result


def check(one: dict[str, Any], ours: Path, several: dict[str, Any], theirs: Path) -> None:
    """Losses, norms, and what is left."""
    losses, norms = np.array(several["steps"]).T
    wanted, lengths = np.array(one["steps"]).T
    print(f"largest difference: loss {abs(losses - wanted).max():.1e}, norm {abs(norms / lengths - 1).max():.1e}")
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=LOSSES)
    np.testing.assert_allclose(norms, lengths, rtol=1e-5)
    assert several["loss"] == pytest.approx(one["loss"], rel=1e-6)
    for file in ("params", "state"):
        wanted_arrays, arrays = (load_params(folder / f"{file}.safetensors") for folder in (ours, theirs))
        assert list(wanted_arrays) == list(arrays)
        for name, array in wanted_arrays.items():
            np.testing.assert_allclose(arrays[name], array, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "system", "settings", "how"),
    [
        ("data=2,shards=2", "flash", {"chunk": CHUNK}, {}),
        ("sequence=4", "flash", {"chunk": CHUNK, "cumsum": "scan"}, {}),
        ("sequence=4", "flash", {"chunk": CHUNK, "cumsum": "matmul", "lin_norm": "chunk"}, {"remat": True}),
        ("sequence=4", "flash", {"chunk": CHUNK, "task": "mlm"}, {}),
        ("sequence=4", "flash", {"chunk": CHUNK, "cumsum": "matmul", "segments": True}, {}),
        ("shards=2,sequence=2", "flash", {"chunk": CHUNK}, {"cuts": [0, 3, 4]}),
        ("shards=4", "transformer++", {"task": "mlm"}, {"remat": True}),
    ],
    ids=str,
)
def test_a_step_of_a_mesh_is_the_step_of_one_device(
    mesh: str, system: str, settings: dict[str, Any], how: dict[str, Any], tmp_path: Path
) -> None:
    """Losses of 20 steps and the parameters after them; also rows that do not divide by the devices."""
    model = small(system, **settings)
    one = worker.run(task(model, tmp_path / "one", **how))
    several = found(task(model, tmp_path / "several", **how), mesh)
    check(one, tmp_path / "one", several, tmp_path / "several")


@pytest.mark.grid
@pytest.mark.slow
def test_a_run_goes_on_with_another_mesh(tmp_path: Path) -> None:
    model = small(chunk=CHUNK)
    straight = worker.run(task(model, tmp_path / "straight", seeds=list(range(6))))["steps"]
    first = task(model, tmp_path / "first", seeds=[0, 1])
    second = task(model, tmp_path / "second", seeds=[2, 3], **left(first))
    third = task(model, tmp_path / "third", seeds=[4, 5], **left(second))
    steps = [*found(first, "data=2,shards=2")["steps"], *found(second, "sequence=4")["steps"]]
    np.testing.assert_allclose([*steps, *worker.run(third)["steps"]], straight, rtol=1e-5)


def left(given: dict[str, Any]) -> dict[str, str]:
    return {name: f"{given['out']}/{name}.safetensors" for name in ("params", "state")}


@pytest.mark.slow
def test_what_devices_send(tmp_path: Path) -> None:
    """Along the sequence states alone, s x e a row and device; along the shards weights, on the way back too."""
    model = small(chunk=CHUNK, key_dim=16)
    sent = found(task(model, tmp_path / "sequence", seeds=[], program=True), "sequence=4")["program"]
    gathered = re.findall(r"= (\S+) (?:all-gather|collective-permute|all-to-all)\(", sent)
    assert [each.partition("{")[0] for each in gathered] == ["f32[4,4,16,128]"]  # [device, b, s, e]
    assert "all-reduce" in sent  # of gradients
    sent = found(task(model, tmp_path / "shards", seeds=[], program=True), "shards=4")["program"]
    weights = [line for line in sent.splitlines() if re.search(r"= f32\[64,272\]\S* all-gather\(", line)]
    assert ["transpose" in line for line in weights] == [False, True]


@pytest.mark.grid
@pytest.mark.slow
def test_several_processes_train_as_one(tmp_path: Path) -> None:
    """Two, of two devices each, by jax.distributed: rows over processes, states between them."""
    model = small(chunk=CHUNK)
    one = worker.run(task(model, tmp_path / "one"))
    for mesh in ("shards=4", "data=1,sequence=4"):
        given = task(model, tmp_path / mesh)
        processes = both(given, mesh)
        for process in processes:
            _, told = process.communicate(timeout=300)
            assert not process.returncode, told
        first, last = (read(given, rank) for rank in (0, 1))
        assert first == last
        assert first["wishes"] == [True, True, False]
        check(one, tmp_path / "one", first, tmp_path / mesh)


def both(given: dict[str, Any], mesh: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    common = {"WORLD_SIZE": "2", "JAX_COORDINATOR_ADDRESS": address}
    return [started(given, mesh, 2, RANK=str(rank), **common) for rank in (0, 1)]


def test_axes_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLASHIR_MESH", raising=False)
    assert Axes.here() is None
    monkeypatch.setenv("FLASHIR_MESH", "shards=4, data=2")
    assert Axes.here() == Axes(2, 4, 1)
    for wrong in ("", "2x2", "rows=2", "data=0", "data=2,data=2", "data=-1"):
        monkeypatch.setenv("FLASHIR_MESH", wrong)
        with pytest.raises(SettingError, match="FLASHIR_MESH must give axes among data, shards, sequence"):
            Axes.here()


def test_states_are_exchanged_where_rows_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op stays whole there, in causal models without segments, and nowhere else."""
    monkeypatch.setenv("FLASHIR_MESH", "sequence=4")
    assert {node.op for node in lower(small(chunk=CHUNK)).walk()} >= {"linear_attention"}
    for settings in ({"segments": True, "cumsum": "matmul"}, {"task": "mlm"}):
        assert "linear_attention" not in {node.op for node in lower(small(**settings)).walk()}
    node = next(node for node in lower(small(chunk=CHUNK)).walk() if node.op == "linear_attention")
    for mesh in ("sequence=1", "data=2,shards=2"):
        monkeypatch.setenv("FLASHIR_MESH", mesh)
        assert not claims(node, "cpu")


@pytest.mark.parametrize("cumsum", ["scan", pytest.param("matmul", marks=pytest.mark.slow)])
def test_what_runs_forward_has_one_device_whatever_the_mesh(
    cumsum: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of open length too; the export is checked against the interpreter as it is made."""
    monkeypatch.setenv("FLASHIR_MESH", "sequence=4")
    flashir.export(small(chunk=CHUNK, cumsum=cumsum), tmp_path / "out", target="jax:cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "chunk", "told"),
    [
        ("sequence=3", CHUNK, f"{LENGTH} tokens cannot be sharded evenly over 3 devices"),
        ("sequence=4", 8, "5 chunks of 8 tokens cannot be sharded evenly over 4 devices"),
        ("data=4,shards=2", CHUNK, "FLASHIR_MESH asks for 8 devices, and 1 processes have 4"),
    ],
)
def test_what_cannot_be_dealt_out_is_said(mesh: str, chunk: int, told: str, tmp_path: Path) -> None:
    process = started(task(small(chunk=chunk), tmp_path / "out", seeds=[0]), mesh)
    _, said = process.communicate(timeout=120)
    assert process.returncode
    assert told in said
