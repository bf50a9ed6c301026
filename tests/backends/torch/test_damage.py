"""Archives that are damaged, cut, foreign or hostile: refused by an error of their own, before any of it runs."""

from __future__ import annotations

import pickle
import random
import time
import zipfile
from itertools import product
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
from tests.hostile.torch_archives import actions, excesses, find, rebuilt

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
BACKEND = TorchBackend()
MODEL = flash(4, "matmul", depth=1, use_global=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One artefact, which tests copy."""
    return BACKEND.export(MODEL, lowered(MODEL), unit(MODEL), tmp_path_factory.mktemp("whole"), {}).path


def refused(path: Path) -> ArtefactError:
    with pytest.raises(ArtefactError) as found:
        BACKEND.load(path, "cpu")
    return found.value


@pytest.mark.slow
def test_the_artefact_itself_is_read(whole: Path) -> None:
    model, run = BACKEND.load(whole.parent, "cpu")
    ids = tokens(MODEL, 2, 9)
    wanted = BACKEND.compile(lowered(MODEL), unit(MODEL), "cpu")(ids)
    assert model == MODEL
    np.testing.assert_allclose(run(ids), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
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


ACTIONS, EXCESSES = tuple(actions(Path())), tuple(excesses())
SECONDS = 60
LATE = {
    "a tensor of 10^15 at the end",
    "an outer product",
    "numbers up to 10^14",
    "a tensor that is widened",
    "a tensor that is padded",
}
"""What is found only where a program is read to its end, as "a tensor of 10^15" is."""


@pytest.mark.parametrize("name", ACTIONS)
def test_no_archive_acts(name: str, whole: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = rebuilt(whole, tmp_path / "model.pt2", actions(trace)[name])
    error = refused(path)
    assert str(path) in str(error) and len(str(error)) < 3000
    assert not trace.exists()


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x in LATE else ()) for x in EXCESSES])
def test_no_archive_takes_all_time_or_memory(name: str, whole: Path, tmp_path: Path) -> None:
    path = rebuilt(whole, tmp_path / "model.pt2", excesses()[name])
    began = time.process_time()
    error = refused(path)
    assert time.process_time() - began < SECONDS
    assert str(path) in str(error) and len(str(error)) < 3000


def test_an_archive_is_not_unpacked(whole: Path, tmp_path: Path) -> None:
    """One of a few bytes could be of any size then."""
    bloated = lambda files: files.update({find(files, "extra/flashir.model"): b" " * 10**8})  # noqa: E731
    path = rebuilt(whole, tmp_path / "model.pt2", bloated, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**7
    assert "larger than it is" in str(refused(path))
    with pytest.raises(ArtefactError, match="larger than it is"):
        BACKEND.metadata(path)


def test_an_archive_cannot_say_two_things(whole: Path, tmp_path: Path) -> None:
    """One with two directories, of which python's reader takes the last, and PyTorch's the one it is pointed to."""
    path, trace = tmp_path / "model.pt2", tmp_path / "trace"
    evil = rebuilt(whole, tmp_path / "evil", actions(trace)["expr_str"]).read_bytes()
    good = rebuilt(whole, tmp_path / "good", lambda files: None).read_bytes()
    first, second = evil.rfind(b"PK\5\6"), good.rfind(b"PK\5\6")
    end = bytearray(good[second : second + 22])
    end[16:20], end[20:22] = evil[first + 16 : first + 20], b"\0\0"
    with path.open("w+b") as file:
        file.write(evil[:first] + good[:second] + end)
        seal(file)
    refused(path)
    assert not trace.exists()


@pytest.mark.slow
def test_the_same_files_sealed_again_are_read(whole: Path, tmp_path: Path) -> None:
    """So that the test above fails for what was changed, and for nothing else."""
    path = rebuilt(whole, tmp_path / "model.pt2", lambda files: None)
    assert BACKEND.load(path, "cpu")[0] == MODEL


MEMBERS = ("models/model.json", "model_weights_config.json", "weight_0", "extra/flashir.model")
CONTENTS = (None, b"", b"{}", b"[1", b"\xff\xfe")


@pytest.mark.parametrize(
    ("member", "content"),
    [
        pytest.param(member, content, marks=pytest.mark.slow if member == MEMBERS[-1] and content is not None else ())
        for member, content in product(MEMBERS, CONTENTS)
    ],
)
def test_files_that_are_missing_or_broken_are_refused(
    member: str, content: bytes | None, whole: Path, tmp_path: Path
) -> None:
    def change(files: dict[str, bytes]) -> None:
        name = find(files, member)
        if content is None:
            del files[name]
        else:
            files[name] = content

    path = rebuilt(whole, tmp_path / "model.pt2", change)
    with pytest.raises(FlashirError):
        BACKEND.load(path, "cpu")


@pytest.mark.slow
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
    b = flashir.Builder("small")
    small = b.finish(b.relu(b.input("x", "f32[3]")))
    with pytest.raises(ArtefactError, match="cannot write"):
        BACKEND.export(small, lowered(small), {}, tmp_path / "out", {})


@pytest.mark.slow
def test_the_model_is_readable_by_pytorch_alone(whole: Path) -> None:
    extra = {"flashir.model": ""}
    program = torch.export.load(whole, extra_files=extra)
    assert flashir.loads(extra["flashir.model"]) == MODEL
    for shape in ((1, 1), (3, 13), (2, 0), (0, 4)):
        assert program.module()(torch.zeros(shape, dtype=torch.int64)).shape == (*shape, 11)
