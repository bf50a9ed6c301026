"""The store keeps every trial, whoever writes; what is no store is refused by name; JSON there and back."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from threading import Barrier
from typing import BinaryIO

import pytest

import flashir
from flashir.errors import ArtefactError, FlashirError
from flashir.ir.settings import Settings
from flashir.planning.measurements.exchange import export_json, import_json
from flashir.planning.measurements.key import store_path
from flashir.planning.measurements.store import SCHEMA, Store, bucket, digest
from flashir.transforms.settle_choices import settle
from tests.tune.support import TRIAL, chosen, trial

PLACE = {"target": TRIAL.target, "device": TRIAL.device, "versions": TRIAL.versions}


def find(store: Store, **changes: object) -> list[object]:
    asked = {"training": False, "batch": 1, "seq_len": 512, **changes}
    return list(store.find([TRIAL.model], PLACE, **asked))  # type: ignore[arg-type]


def test_a_trial_is_found_under_what_it_holds_for() -> None:
    with Store(write=True) as store:
        store.add(TRIAL)
        assert find(store) == [TRIAL]
        assert find(store, seq_len=300) == [TRIAL]
        assert not find(store, seq_len=513)
        assert not find(store, seq_len=256)
        assert not find(store, batch=2)
        assert not find(store, training=True)
        for name in PLACE:
            other = {**PLACE, name: "another"}
            assert not store.find([TRIAL.model], other, training=False, batch=1, seq_len=512)
        assert not store.find(["1" * 64], PLACE, training=False, batch=1, seq_len=512)


@pytest.mark.parametrize(("length", "wanted"), [(1, (1, 1)), (2, (2, 2)), (3, (3, 4)), (4096, (2049, 4096))])
def test_lengths_share_a_bucket_up_to_a_power_of_two(length: int, wanted: tuple[int, int]) -> None:
    assert bucket(length) == wanted


def test_a_later_round_replaces_an_earlier_one_of_the_same_tuner_only() -> None:
    early, other = trial(tuning="1" * 16), trial(tuning="2" * 16)
    late = trial(tuning="1" * 16, runs=6, measured_ms=3.0)
    with Store(write=True) as store:
        store.add(early, other)
        store.add(late)
        store.add(early)
        assert find(store) == [other, late]


def test_reading_never_makes_a_file(cache: Path) -> None:
    with pytest.raises(ArtefactError, match="unable to open"):
        Store()
    assert not cache.exists()


def test_a_settled_model_is_known_however_it_came_to_be() -> None:
    auto = settle(flashir.model("flash", size="tiny"), chosen(128, "scan"))
    given = flashir.model("flash", size="tiny", chunk=128, cumsum="scan")
    renamed = flashir.loads(flashir.dumps(given).replace("@flash", "@mine"))
    assert digest(auto) == digest(given) == digest(renamed)
    assert digest(given) != digest(flashir.model("flash", size="tiny", chunk=64, cumsum="scan"))
    tiled = flashir.model("performer", size="tiny")
    assert len({digest(settle(tiled, Settings(tile=tile, cumsum="scan"))) for tile in (1, 16, 64)}) == 3


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"garbage" * 100, "not a database"),
        (b"SQLite format 3\x00" + b"\xff" * 4000, "damaged|not a database"),
    ],
)
def test_a_file_that_is_no_database_is_refused(cache: Path, content: bytes, complaint: str) -> None:
    cache.mkdir()
    store_path().write_bytes(content)
    for write in (False, True):
        with pytest.raises(ArtefactError, match=complaint) as raised:
            Store(write=write)
        assert str(store_path()) in str(raised.value)
        assert "move the file away" in raised.value.hint
    assert store_path().read_bytes() == content


def test_the_database_of_another_program_is_left_alone(cache: Path) -> None:
    cache.mkdir()
    with sqlite3.connect(store_path()) as other:
        other.execute("CREATE TABLE trials (somebody TEXT)")
    other.close()
    for write in (False, True):
        with pytest.raises(ArtefactError, match="not a store of flashir"):
            Store(write=write)


def test_another_schema_is_refused_with_both_numbers() -> None:
    with Store(write=True) as store:
        store.add(TRIAL)
    with sqlite3.connect(store_path()) as other:
        other.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    other.close()
    with pytest.raises(ArtefactError, match=f"must have schema {SCHEMA}, got {SCHEMA + 1}"):
        Store(write=True)


@pytest.mark.parametrize("harm", ["DROP TABLE trials", "ALTER TABLE trials DROP COLUMN spread_ms"])
def test_a_store_without_its_trials_is_started_anew(harm: str) -> None:
    with Store(write=True) as store:
        store.add(TRIAL)
    with sqlite3.connect(store_path()) as other:
        other.execute(harm)
    other.close()
    for write in (False, True):
        with pytest.raises(ArtefactError, match=r"trials must have the columns model, .*, date, sha256, got") as raised:
            Store(write=write)
        assert "move the file away" in raised.value.hint


def test_a_row_that_makes_no_sense_is_damage() -> None:
    with Store(write=True) as store:
        store.add(TRIAL)
        with sqlite3.connect(store_path()) as other:
            other.execute("UPDATE trials SET measured_ms = -1")
        other.close()
        with pytest.raises(ArtefactError, match="a trial is damaged"):
            store.all()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE trials SET measured_ms = 3.0 WHERE seq_len = 7",
        "UPDATE trials SET model = replace(model, '0', '1') WHERE seq_len = 7",
        "UPDATE trials SET sha256 = replace(sha256, substr(sha256, 1, 1), 'x') WHERE seq_len = 7",
        "DELETE FROM trials WHERE seq_len = 7",
        "DELETE FROM trials",
        "DELETE FROM whole",
        "INSERT INTO whole SELECT sha256 FROM whole",
    ],
)
def test_a_row_that_was_changed_or_is_gone_is_damage(change: str) -> None:
    with Store(write=True) as store:
        store.add(TRIAL, trial(seq_len=7))
    with sqlite3.connect(store_path()) as other:
        other.execute(change)
    other.close()
    for write in (False, True):
        with pytest.raises(ArtefactError, match="the store is damaged: ") as raised, Store(write=write) as store:
            find(store)
        assert str(store_path()) in str(raised.value) and "move the file away" in raised.value.hint


def test_a_store_of_the_schema_before_says_how_its_measurements_come_over(tmp_path: Path) -> None:
    with Store(write=True):
        pass
    with sqlite3.connect(store_path()) as other:
        other.execute("PRAGMA user_version = 2")
    other.close()
    with pytest.raises(
        ArtefactError, match=r"schema 4, got 2[\s\S]*import_json takes what export_json of that version wrote"
    ):
        Store()
    store_path().unlink()
    before = {name: value for name, value in asdict(TRIAL).items() if name != "choices"}
    before |= {"chunk": 64, "cumsum": "native", "tile": None}
    (tmp_path / "old.json").write_text(json.dumps({"format": "flashir-tune", "schema": 2, "trials": [before]}))
    assert import_json(tmp_path / "old.json") == 1
    with Store() as store:
        assert store.all() == [TRIAL]


def test_whole_numbers_and_negative_zeros_come_back_as_they_are_kept() -> None:
    with Store(write=True) as store:
        store.add(trial(measured_ms=3, predicted_ms=2, spread_ms=-0.0))
        (found,) = store.all()
    assert (found.measured_ms, found.predicted_ms, str(found.spread_ms)) == (3.0, 2.0, "0.0")


def test_an_export_that_was_changed_is_refused(tmp_path: Path) -> None:
    with Store(write=True) as store:
        store.add(TRIAL)
    export_json(file := tmp_path / "all.json")
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said))  # laid out anew, it says the same
    assert import_json(file) == 0
    said["trials"][0]["measured_ms"] = 1.5
    for changed in (said, {**said, "sha256": None}, {key: each for key, each in said.items() if key != "sha256"}):
        file.write_text(json.dumps(changed))
        with pytest.raises(ArtefactError, match="it is damaged, or was changed"):
            import_json(file)


def test_a_folder_in_place_of_the_store_is_refused(cache: Path) -> None:
    store_path().mkdir(parents=True)
    with pytest.raises(ArtefactError, match="cannot be used"):
        Store(write=True)


WRITER = """
import sys
import tempfile
from flashir.planning.measurements.store import Store
from tests.tune.support import trial
for n in range(25):
    with Store(write=True) as store:
        store.add(trial(tuning=sys.argv[1] * 16, seq_len=n + 1), trial(tuning=sys.argv[1] * 16, seq_len=n + 101))
"""


@pytest.mark.slow
def test_four_writers_at_once_lose_no_trial(cache: Path) -> None:
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, name], env=env, cwd=root) for name in "abcd"]
    assert [each.wait(timeout=120) for each in writers] == [0, 0, 0, 0]
    with Store() as store:
        assert len(store.all()) == 4 * 25 * 2


def test_a_store_may_be_opened_while_another_makes_it(tmp_path: Path) -> None:
    openers = 6

    def opened(path: Path, start: Barrier, write: bool) -> list[object]:
        start.wait()
        with Store(path, write=write) as store:
            return list(store.all())

    with ThreadPoolExecutor(openers) as pool:
        for attempt in range(25):
            (path := tmp_path / f"{attempt}.sqlite").touch()
            start = Barrier(openers)
            found = [pool.submit(opened, path, start, index % 2 == 0) for index in range(openers)]
            assert [each.result() for each in found] == [[]] * openers


def test_json_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = [trial(choices="{}"), trial(seq_len=7, choices='{"tile":64}'), trial(training=True)]
    with Store(write=True) as store:
        store.add(*trials)
        kept = store.all()
    assert export_json(tmp_path / "all.json") == 3
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "elsewhere"))
    assert import_json(tmp_path / "all.json") == 3
    with Store() as store:
        assert store.all() == kept
    assert import_json(tmp_path / "all.json") == 0


def test_files_of_several_people_are_merged_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each measured on a device of its own, one of them the same candidate twice; no trial replaces another's."""
    people = {
        "hers": [trial(device="a", tuning="0" * 15 + "1"), trial(device="a", tuning="0" * 15 + "2", measured_ms=9.0)],
        "his": [trial(device="b", tuning="0" * 15 + "3", measured_ms=1.0)],
    }
    files = [tmp_path / f"{name}.json" for name in people]
    for name, file in zip(people, files, strict=True):
        monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / name))
        with Store(write=True) as store:
            store.add(*people[name])
        export_json(file)
    monkeypatch.setenv("FLASHIR_CACHE", str(tmp_path / "all"))
    damaged = tmp_path / "damaged.json"
    damaged.write_text(files[0].read_text().replace('"device": "a"', '"device": "c"'))
    with pytest.raises(FlashirError, match=r"damaged\.json: it is damaged[\s\S]*absent\.json: cannot read"):
        import_json(files[1], damaged, tmp_path / "absent.json")
    assert not store_path().exists()
    assert import_json(*files) == 3 and import_json(*files) == 0
    with Store() as store:
        assert sorted(each.tuning for each in store.all()) == sorted(
            each.tuning for trials in people.values() for each in trials
        )


def test_a_store_that_is_not_there_exports_nothing(tmp_path: Path) -> None:
    assert export_json(tmp_path / "none.json") == 0
    assert import_json(tmp_path / "none.json") == 0


def test_an_import_says_all_that_is_wrong_and_imports_nothing(tmp_path: Path) -> None:
    good = asdict(TRIAL)
    bad = [good, {**good, "runs": 0}, {**good, "model": "x"}, {**good, "measured_ms": "fast"}, 7]
    file = tmp_path / "bad.json"
    file.write_text(json.dumps({"format": "flashir-tune", "schema": SCHEMA + 1, "trials": bad}))
    with pytest.raises(ArtefactError) as raised:
        import_json(file)
    problems = "\n".join(raised.value.problems)
    assert len(raised.value.problems) == 5
    for word in (
        f"schema must be 2 or 3 or {SCHEMA}",
        "trial 1",
        "runs",
        "trial 2",
        "model",
        "trial 3",
        "measured_ms",
        "trial 4",
    ):
        assert word in problems
    assert not store_path().exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"\xff\xfe", b"[]", b"{}", b'{"format": 1}', b"[" * 100_000, b'{"trials": [NaN]}'],
)
def test_garbage_is_no_export(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "garbage.json").write_bytes(content)
    with pytest.raises(ArtefactError, match="no export of a store"):
        import_json(tmp_path / "garbage.json")


def test_an_import_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="cannot read"):
        import_json(tmp_path / "nowhere.json")


def test_a_store_without_room_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> BinaryIO:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(ArtefactError, match="No space left on device") as raised:
        Store(tmp_path / "a" / "b" / "store.sqlite", write=True)
    assert "FLASHIR_CACHE" in str(raised.value) and not list(tmp_path.iterdir())
