"""Several processes train as one does; where one dies, all end, and torchrun says which it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from flashir.errors import SettingError
from flashir.machine.processes import Processes
from flashir.models.parameters import load_params
from tests.backends.torch import worker
from tests.backends.training import small
from tests.backends.work import task

ROOT = Path(__file__).parents[3]
LOSSES = 1e-5


def torchrun(count: int, given: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    file = Path(given["out"]) / "task.json"
    file.write_text(json.dumps(given))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, worker.__file__, str(file)], capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT
    )


def found(count: int, given: dict[str, Any]) -> list[dict[str, Any]]:
    ended = torchrun(count, given)
    assert not ended.returncode, ended.stderr
    return [json.loads((Path(given["out"]) / f"found-{rank}.json").read_text()) for rank in range(count)]


@pytest.mark.grid
@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "system", "settings", "how"),
    [
        (2, "flash", {}, {}),
        (2, "flash", {"task": "mlm"}, {"remat": True}),
        (2, "transformer++", {"task": "mlm"}, {"cuts": [0, 1, 4]}),
        (3, "flash", {"segments": True}, {"cuts": [0, 2, 4]}),
    ],
    ids=str,
)
def test_a_step_of_several_is_the_step_of_one(
    count: int, system: str, settings: dict[str, Any], how: dict[str, Any], tmp_path: Path
) -> None:
    """Losses of 20 steps; also rows that do not divide by the processes, and scalars, which none shards."""
    model = small(system, **settings)
    one = worker.run(task(model, tmp_path / "one", **how))
    several = found(count, task(model, tmp_path / "several", **how))
    assert several[0]["steps"] == several[-1]["steps"]
    assert several[0]["loss"] == several[-1]["loss"]
    assert several[0]["wishes"] == several[1]["wishes"] == [True, True, False]
    losses, norms = np.array(several[0]["steps"]).T
    wanted, lengths = np.array(one["steps"]).T
    print(f"largest difference: loss {abs(losses - wanted).max():.1e}, norm {abs(norms / lengths - 1).max():.1e}")
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=LOSSES)
    np.testing.assert_allclose(norms, lengths, rtol=1e-3)
    assert several[0]["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for file in ("params", "state"):
        ours, theirs = (load_params(tmp_path / each / f"{file}.safetensors") for each in ("one", "several"))
        assert list(ours) == list(theirs)
        for name, array in ours.items():
            np.testing.assert_allclose(theirs[name], array, rtol=0, atol=1e-3, err_msg=name)


@pytest.mark.grid
@pytest.mark.slow
def test_two_go_on_from_where_one_stopped_and_one_from_where_two_did(tmp_path: Path) -> None:
    model = small()
    straight = worker.run(task(model, tmp_path / "straight", seeds=list(range(6))))["steps"]
    for name, first, second in (("one, two", 1, 2), ("two, one", 2, 1)):
        before = task(model, tmp_path / name, seeds=[0, 1, 2])
        steps = found(first, before)[0]["steps"]
        files = {"params": f"{before['out']}/params.safetensors", "state": f"{before['out']}/state.safetensors"}
        after = task(model, tmp_path / f"{name}, after", seeds=[3, 4, 5], **files)
        steps += found(second, after)[0]["steps"]
        np.testing.assert_allclose(steps, straight, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_dies_stops_the_others_and_is_named(rank: int, tmp_path: Path) -> None:
    start = monotonic()
    looks_late = "--monitor-interval=5"  # torchrun ends the other process as soon as it sees the first one dead
    ended = torchrun(2, task(small(), tmp_path / "out", dies=rank), looks_late)
    assert monotonic() - start < 90
    assert ended.returncode
    told = " ".join(ended.stderr.split())
    assert f"process {1 - rank} of 2 has lost another one" in told
    assert f"rank : {rank} (local_rank: {rank}) exitcode : -9" in told
    assert not list((tmp_path / "out").glob("found-*"))


def test_processes_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert Processes.here() == Processes(0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Processes.here() == Processes(1, 2)
    assert not Processes.here().is_first
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(SettingError, match="RANK must be a number from 0 and below WORLD_SIZE, got '2' and '2'"):
        Processes.here()
