"""flashir bench: a run from end to end, the same run shown again, its page, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from flashir.bench.record import Row, read_record
from flashir.cli import console
from flashir.cli.bench_page import page
from flashir.cli.bench_page.plot import Axis, Point, Series, plot, round_numbers
from flashir.cli.bench_table import show_record
from tests.bench.test_record import FAILED, MEASURED, record
from tests.cli.conftest import Cli
from tests.cli.test_page import HOSTILE, checked

SMALL = ("--size", "tiny", "-s", "depth=1", "--lengths", "64", "--rounds", "2")


@pytest.mark.slow
def test_from_end_to_end(cli: Cli, tmp_path: Path) -> None:
    made = cli.json("bench", "flash", *SMALL, "--chunks", "32,64", "--cumsum", "scan", "-o", tmp_path)
    assert [(row["chunk"], row["cumsum"], len(row["samples_ms"])) for row in made["rows"]] == [
        (32, "scan", 2),
        (64, "scan", 2),
    ]
    row = made["rows"][0]
    assert row["median_ms"] > 0 and row["tokens_per_second"] > 0 and row["predicted_ms"] > row["floor_ms"] > 0
    assert row["baseline_bytes"] and row["fraction"] == pytest.approx(row["floor_ms"] / row["median_ms"])
    assert made["settings"]["systems"] == ["flash"] and made["settings"]["size"] == "tiny" and made["complete"]
    assert sorted(map(str, tmp_path.iterdir())) == sorted([made["results"], made["report"]])
    again = cli.json("bench", "--show", made["results"])
    assert again["rows"] == made["rows"] and again["machine"] == made["machine"]
    assert "Cost against chunk size" in Path(made["report"]).read_text(encoding="utf-8")


def test_a_run_is_shown_again(cli: Cli, tmp_path: Path) -> None:
    left_out = Row("combiner", "jax:cpu", 1, 2048, left_out="needs 9.00 GiB, and 1.00 GiB are free")
    record(MEASURED, FAILED, left_out).write(tmp_path / "run.json")
    out = cli.ok("bench", "--show", tmp_path / "run.json", "-o", tmp_path / "site")
    assert re.search(r"flash +onnx:cpu +2 +512 +64 scan +4 ms +25% +256,000 +50 B +3 ms +25%", out)
    assert "failed: plain, torch:cpu, 1 x 1024: its process was ended by SIGKILL" in out
    assert "left out: combiner, jax:cpu, 1 x 2048: needs 9.00 GiB" in out
    (report,) = (tmp_path / "site").iterdir()
    assert report.name == "bench-20261124-123355.html"
    assert "its process was ended by SIGKILL" in report.read_text(encoding="utf-8")


def test_a_case_that_fails_is_told_and_the_exit_code_is_1(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashir.bench.process.COMMAND", (sys.executable, "-c", "raise SystemExit('no luck')"))
    result = cli("bench", "flash", *SMALL, "-o", tmp_path)
    assert result.exit_code == 1 and "1 of 1 cases failed" in result.stderr
    assert re.search(r"(?m)^1 case, \d+ samples? of each: about \d+ s by the cost model\n", result.stderr)
    assert "failed: flash" in result.stdout and "no luck" in result.stdout
    (path,) = tmp_path.glob("*.json")
    assert read_record(path).rows[0].failed.endswith("code 1: no luck")


def test_a_folder_that_cannot_be_written_is_told_before_the_first_round(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = cli("bench", "flash", *SMALL, "-o", tmp_path / "file" / "out")
    assert result.exit_code == 2 and result.stdout == "" and "cannot write" in result.stderr
    assert "compiling" not in result.stderr and "round" not in result.stderr


@pytest.mark.parametrize(("line", "shown"), [((), "roofline"), (("--json",), '"samples_ms": [')])
def test_what_cannot_be_written_at_the_end_is_shown_all_the_same(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...], shown: str
) -> None:
    out = tmp_path / "out"
    breaks = f"import pathlib, shutil; shutil.rmtree({str(out)!r}); pathlib.Path({str(out)!r}).touch()"
    monkeypatch.setattr("flashir.bench.process.COMMAND", pretender(f"if number == 2: {breaks}"))
    result = cli("bench", "flash", *SMALL, *line, "-o", out)
    assert result.exit_code == 2 and shown in result.stdout and "cannot write" in result.stderr
    if line:
        found = json.loads(result.stdout)
        assert (found["results"], found["report"]) == (None, None) and found["rows"][0]["samples_ms"] == [1.0, 1.0]


def test_a_case_that_hangs_is_a_row(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashir.bench.process.COMMAND", pretender("if number == 2: __import__('time').sleep(3600)"))
    result = cli("bench", "flash", *SMALL, "--limit", "2", "-o", tmp_path)
    assert result.exit_code == 1 and "no answer within 2 s" in result.stdout
    (path,) = tmp_path.glob("*.json")
    assert read_record(path).rows[0].samples_ms == (1.0,) and read_record(path).complete


def pretender(also: str = "pass") -> tuple[str, ...]:
    """A worker that measures nothing, and does something else as it is asked for the sample of a number."""
    code = f"""
import json, sys
for number, line in enumerate(sys.stdin):
    {also}
    print(json.dumps({{"baseline_bytes": 1}} if number == 0 else {{"ms": 1.0, "peak_bytes": 2}}), flush=True)
"""
    return (sys.executable, "-c", code)


@pytest.mark.slow
def test_every_backend_that_trains(cli: Cli, tmp_path: Path) -> None:
    line = ("bench", "flash", *SMALL, "--training", "--target", "torch:cpu", "--target", "jax:cpu", "--tokens", "128")
    made = cli.json(*line, "-o", tmp_path)
    assert [(row["target"], row["batch"], row["training"]) for row in made["rows"]] == [
        ("torch:cpu", 2, True),
        ("jax:cpu", 2, True),
    ]
    assert all(row["median_ms"] > 0 and not row["failed"] for row in made["rows"])


def test_all_that_is_wrong_is_told_at_once(cli: Cli) -> None:
    line = (
        "bench",
        "flsh",
        "transformer",
        "-s",
        "dpth=3",
        "--lengths",
        "0",
        "--target",
        "onx:cpu",
        "--target",
        "onnx:cpu",
    )
    message = cli.fails(
        *line, "--training", "--rounds", "0", "--limit", "0", "--batch", "3", "--tokens", "9", "--chunks", "x"
    )
    for words in (
        "--lengths must be whole numbers from 1",
        "--chunks must be whole numbers from 1",
        "--rounds must be a whole number from 1",
        "--limit must be a whole number from 1",
        "--batch or --tokens, not both",
        "did you mean 'flash'",
        "no setting 'dpth'",
        "unknown target 'onx:cpu'",
        "onnx:cpu cannot train",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("flash", "--lengths", "many"), "--lengths must be whole numbers from 1"),
        (("transformer++", "--chunks", "64"), "transformer++: no model has a chunk to set"),
        (("flash", "--cumsum", "skan"), "cumsum must be one of scan, matmul, native"),
        (("--show", "no.json"), "no.json"),
        (("flash", "--show", "no.json"), "--show runs nothing"),
        (("flash", "--cumsum", ""), "cumsum must be one of scan, matmul, native"),
        (("flash", "--chunks", ""), "--chunks must be whole numbers from 1"),
        (("flash", "--tokens", "10", "--lengths", "64"), "a batch of 10 tokens has no room for a row of 64"),
        (("--show", "r.json", "--rounds", "3", "-s", "a=1"), "so it takes no --set, --rounds"),
        (
            ("flash", "--published", "lm", "-o", "x", "--target", "foo", "--lengths", "5", "--training"),
            "so it takes no SYSTEM, --target, --lengths, --training, --out",
        ),
    ],
)
def test_a_mistake_is_one_message(cli: Cli, line: tuple[str, ...], said: str) -> None:
    assert said in cli.fails("bench", *line)


def test_settings_are_for_models_of_the_zoo(cli: Cli, fir: Path) -> None:
    assert "size cannot be set" in cli.fails("bench", fir, "--size", "tiny")


def test_a_file_that_is_no_run(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps({"format": "flashir-tune"}))
    assert "no record of `flashir bench`" in cli.fails("bench", "--show", tmp_path / "bad.json")


def test_the_page_is_whole_and_needs_no_network() -> None:
    rows = [replace(MEASURED, system=name, seq_len=length) for name in ("flash", "plain") for length in (512, 1024)]
    text = page(record(*rows, replace(rows[0], chunk=128), FAILED))
    seen = checked(text).seen
    assert text.count('class="plot"') == 5  # length, two of chunks, predicted time and memory
    assert not re.search(r"(https?:)?//[a-z]", text)
    assert not [attrs for _, attrs in seen if {"src", "href"} & set(attrs)] and "script" not in {tag for tag, _ in seen}
    names = [attrs["id"] for _, attrs in seen if "id" in attrs]
    assert len(names) == len(set(names)) == 10
    for tag, attrs in seen:
        if tag == "svg" and attrs.get("class") == "plot":
            assert set((attrs["aria-labelledby"] or "").split()) <= set(names)


def test_names_are_escaped() -> None:
    row = replace(MEASURED, system=HOSTILE, target=HOSTILE, cumsum=HOSTILE, floor=HOSTILE, chunk=128)
    rows = (row, replace(row, seq_len=1024), replace(row, chunk=64), replace(FAILED, system=HOSTILE, failed=HOSTILE))
    made = record(*rows)
    made = replace(made, settings={"size": HOSTILE}, machine=replace(made.machine, processor=HOSTILE, commit=HOSTILE))
    seen = checked(page(made)).seen
    assert not {"img", "script"} & {tag for tag, _ in seen}
    assert not [attrs for _, attrs in seen if any(name.startswith("on") for name in attrs)]


def test_a_run_without_a_single_sample_has_a_page() -> None:
    assert "its process was ended" in page(record(FAILED))


def test_points_stand_where_their_numbers_say() -> None:
    ends = [Point(1.0, 10.0, "one"), Point(100.0, 1000.0, "two")]
    text = plot("p", "t", "a", [Series("s", 0, [ends[0], Point(10.0, 100.0), ends[1]])], Axis("x"), Axis("y"))
    places = [(float(x), float(y)) for x, y in re.findall(r"translate\(([\d.]+) ([\d.]+)\)\"/>", text)]
    (x1, y1), (x2, y2), (x3, y3) = places
    assert x1 < x2 < x3 and y1 > y2 > y3
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and y1 - y2 == pytest.approx(y2 - y3, abs=0.2)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.9, 11, [1, 2, 5, 10]), (3, 4, []), (0.02, 300, [0.1, 1, 10, 100]), (90, 130, [100])],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert round_numbers(low, high) == pytest.approx(wanted)


def test_a_narrow_terminal_has_fewer_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    monkeypatch.setattr(console, "out", lambda: Console(file=screen, force_terminal=True, width=70, no_color=True))
    show_record(record(MEASURED, replace(MEASURED, seq_len=1024)))
    lines = re.sub(r"\x1b\[[\d;]*m", "", screen.getvalue()).splitlines()
    assert lines[1].startswith("onnx:cpu, batch 2, a processor x2")
    assert all(len(line) <= 70 for line in lines) and "…" not in screen.getvalue()
    assert not {"tokens/s", "spread"} & set(lines[3].split()) and "roofline" in lines[3]
    assert lines[-1] == "a wider terminal, or a pipe, also shows tokens/s and spread"


def test_a_published_table_stands_beside_its_predictions(cli: Cli) -> None:
    assert "median error" in cli("bench", "--published", "lm").stdout
    found = json.loads(cli("bench", "--published", "lm", "--json").stdout)
    assert found["source"] == "Table 12" and len(found["rows"]) == 35


@pytest.mark.parametrize("words", [("flash", "--published", "lm"), ("--published", "lmm")])
def test_a_published_table_stands_alone(cli: Cli, words: tuple[str, ...]) -> None:
    refused = cli("bench", *words)
    assert refused.exit_code == 2 and "Traceback" not in refused.stderr
