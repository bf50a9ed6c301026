"""Archives that are damaged, cut, foreign or hostile: refused by an error of their own, before any of it runs."""

from __future__ import annotations

import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import flashir
from flashir.errors import ArtefactError, FlashirError
from flashir_torch import TorchBackend
from flashir_torch.archive import seal
from tests.backends.torch.support import flash, lowered, tokens, unit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
BACKEND = TorchBackend()
MODEL = flash(4, "matmul", depth=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One artefact, which tests copy."""
    return BACKEND.export(MODEL, lowered(MODEL), unit(MODEL), tmp_path_factory.mktemp("whole"), {})


def refused(path: Path) -> ArtefactError:
    with pytest.raises(ArtefactError) as found:
        BACKEND.load(path, "cpu")
    return found.value


def test_the_artefact_itself_is_read(whole: Path) -> None:
    model, run = BACKEND.load(whole.parent, "cpu")
    ids = tokens(MODEL, 2, 9)
    wanted = BACKEND.compile(lowered(MODEL), unit(MODEL), "cpu")(ids)
    assert model == MODEL
    np.testing.assert_allclose(run(ids), wanted, rtol=1e-4, atol=1e-5)


def test_a_flipped_bit_is_seen_wherever_it_is(whole: Path, tmp_path: Path) -> None:
    content, rng = whole.read_bytes(), random.Random(0)
    path = tmp_path / "model.pt2"
    for position in (0, len(content) - 1, len(content) - 70, *(rng.randrange(len(content)) for _ in range(60))):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert str(path) in str(refused(path))


def test_truncation_and_growth_are_seen(whole: Path, tmp_path: Path) -> None:
    content = whole.read_bytes()
    path = tmp_path / "model.pt2"
    cuts = (content[:n] for n in (0, 1, 78, 79, 80, len(content) // 2, len(content) - 64, len(content) - 1))
    for damaged in (*cuts, content + b"\0", content + content, b"\0" + content):
        path.write_bytes(damaged)
        refused(path)


def test_what_is_no_artefact(tmp_path: Path) -> None:
    refused(tmp_path / "model.pt2")
    refused(tmp_path)
    (tmp_path / "model.pt2").mkdir()
    refused(tmp_path / "model.pt2")
    for name, content in (("text", b"hello"), ("pickle", pickle.dumps({"a": 1})), ("json", b"{}")):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)


def rebuilt(whole: Path, path: Path, change: Callable[[dict[str, bytes]], Any]) -> Path:
    """The artefact with other files in it, and a seal that fits: what somebody with a text editor could make."""
    with zipfile.ZipFile(whole) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with path.open("w+b") as file:
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        seal(file)
    return path


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "ran")


def find(files: dict[str, bytes], ending: str) -> str:
    return next(name for name in files if name.endswith(ending))


def hostile(name: str, trace: Path) -> Callable[[dict[str, bytes]], Any]:
    """A change that makes an archive run code when it is loaded without care."""
    bomb, code = pickle.dumps(Bomb(trace)), f"__import__('pathlib').Path({str(trace)!r}).write_text('ran')"

    def pickled_weight(files: dict[str, bytes]) -> None:
        config = find(files, "model_weights_config.json")
        content = json.loads(files[config])
        for entry in content["config"].values():
            entry["use_pickle"] = True
            files[find(files, entry["path_name"])] = bomb
        files[config] = json.dumps(content).encode()

    def expression(key: str) -> Callable[[dict[str, bytes]], None]:
        def change(files: dict[str, bytes]) -> None:
            program = find(files, "models/model.json")
            content = json.loads(files[program])
            _replace(content, key, [code] if key == "guards_code" else code)
            files[program] = json.dumps(content).encode()

        return change

    return {
        "pickled weight": pickled_weight,
        "sample inputs": lambda files: files.update({find(files, "sample_inputs/model.pt"): bomb}),
        "another member": lambda files: files.update({"archive/data/constants/custom_obj_0": bomb}),
        "aoti": lambda files: files.update({"archive/data/aotinductor/model/x.so": b"\x7fELF"}),
        "a path out": lambda files: files.update({"archive/../../../x": b"x"}),
        "expr_str": expression("expr_str"),
        "guards_code": expression("guards_code"),
    }[name]


def _replace(content: Any, key: str, value: Any) -> None:
    if isinstance(content, dict):
        if key in content:
            content[key] = value
        for inner in content.values():
            _replace(inner, key, value)
    elif isinstance(content, list):
        for inner in content:
            _replace(inner, key, value)


KINDS = ("pickled weight", "sample inputs", "another member", "aoti", "a path out", "expr_str", "guards_code")


@pytest.mark.parametrize("name", KINDS)
def test_no_archive_runs_code(name: str, whole: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = rebuilt(whole, tmp_path / "model.pt2", hostile(name, trace))
    error = refused(path)
    assert str(path) in str(error)
    assert not trace.exists()


def test_an_archive_cannot_say_two_things(whole: Path, tmp_path: Path) -> None:
    """One with two directories, of which python's reader takes the last, and PyTorch's the one it is pointed to."""
    path, trace = tmp_path / "model.pt2", tmp_path / "trace"
    evil = rebuilt(whole, tmp_path / "evil", hostile("expr_str", trace)).read_bytes()
    good = rebuilt(whole, tmp_path / "good", lambda files: None).read_bytes()
    first, second = evil.rfind(b"PK\5\6"), good.rfind(b"PK\5\6")
    end = bytearray(good[second : second + 22])
    end[16:20], end[20:22] = evil[first + 16 : first + 20], b"\0\0"
    with path.open("w+b") as file:
        file.write(evil[:first] + good[:second] + end)
        seal(file)
    refused(path)
    assert not trace.exists()


def test_the_same_files_sealed_again_are_read(whole: Path, tmp_path: Path) -> None:
    """So that the test above fails for what was changed, and for nothing else."""
    path = rebuilt(whole, tmp_path / "model.pt2", lambda files: None)
    assert BACKEND.load(path, "cpu")[0] == MODEL


@pytest.mark.parametrize(
    "member", ["models/model.json", "model_weights_config.json", "weight_0", "extra/flashir.model"]
)
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1", b"\xff\xfe"])
def test_files_that_are_missing_or_broken(member: str, content: bytes | None, whole: Path, tmp_path: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        name = find(files, member)
        if content is None:
            del files[name]
        else:
            files[name] = content

    if (member, content) == ("weight_0", b""):
        pytest.skip("PyTorch reads what is empty as zeros")
    path = rebuilt(whole, tmp_path / "model.pt2", change)
    with pytest.raises(FlashirError):
        BACKEND.load(path, "cpu")


def test_a_refusal_at_the_last_moment_leaves_the_old_one(whole: Path, tmp_path: Path) -> None:
    old = whole.read_bytes()
    (tmp_path / "model.pt2").write_bytes(old)

    def check(run: Any) -> None:
        assert run(tokens(MODEL, 1, 3)).shape == (1, 3, 11)
        raise ArtefactError("no")

    with pytest.raises(ArtefactError, match="no"):
        BACKEND.export(MODEL, lowered(MODEL), unit(MODEL, 1), tmp_path, {}, check)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_bytes() == old


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(ArtefactError, match="cannot write"):
        BACKEND.export(MODEL, lowered(MODEL), unit(MODEL), tmp_path / "out", {})


def test_the_model_is_readable_by_pytorch_alone(whole: Path) -> None:
    extra = {"flashir.model": ""}
    program = torch.export.load(whole, extra_files=extra)
    assert flashir.loads(extra["flashir.model"]) == MODEL
    for shape in ((1, 1), (3, 13), (2, 0), (0, 4)):
        assert program.module()(torch.zeros(shape, dtype=torch.int64)).shape == (*shape, 11)
