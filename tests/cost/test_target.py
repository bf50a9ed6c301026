"""Records of targets: read, checked as a whole, scaled to the machine at hand."""

import re
from dataclasses import replace

import pytest

from flashir.cost.target_files import parse_record
from flashir.errors import TargetError
from flashir.machine import targets as catalogue
from flashir.machine.targets import record_files, target, target_names

(ONNX,) = record_files()["onnx:cpu"]
WRONG_NAMES = (
    "",
    "onnx",
    "onnx:",
    ":cpu",
    "onnx:cpu:x",
    "ONNX:CPU",
    "jax:tpu-v4x0",
    f"jax:tpu-v4x{10**9}",
    f"jax:tpu-v4x{'9' * 5000}",
    "jax:tpu-v4x\N{ARABIC-INDIC DIGIT THREE}",
    "../a:b",
    "a b:c",
)


@pytest.mark.parametrize("name", target_names())
def test_every_number_of_a_record_has_its_source(name):
    record = target(name, calibrated=False)
    (path,) = record_files()[name]
    text = path.read_text()
    numbers = len(re.findall(r"\{ value = ", text))
    assert len(record.sources) == numbers
    assert all(source.strip() for source in record.sources.values())


def test_the_records_that_the_paper_and_its_readers_need_are_there():
    cards = {f"torch:{card}" for card in ("v100", "a100", "h100", "h200", "rtx-4090", "l4", "l40s", "a10", "mi300x")}
    processors = {f"onnx:{name}" for name in ("cpu", "apple-m2", "graviton3", "xeon-icx", "xeon-spr")}
    assert cards | processors | {"jax:tpu-v4", "jax:tpu-v5e", "jax:tpu-v6e"} <= set(target_names())


def test_a_count_of_devices_is_part_of_the_name():
    record = target("jax:tpu-v4x32")
    assert (record.name, record.backend, record.device, record.devices) == ("jax:tpu-v4x32", "jax", "tpu-v4", 32)


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_malformed_name_is_refused(name):
    with pytest.raises(TargetError, match="must look like"):
        target(name)


def test_an_unknown_target_comes_with_a_suggestion():
    with pytest.raises(TargetError, match="did you mean 'torch:h100'"):
        target("torch:h10")


def test_the_machine_at_hand_is_one():
    with pytest.raises(TargetError, match="so there is only one"):
        target("onnx:cpux2")


def test_rates_scale_with_the_cores():
    record = target("onnx:cpu")
    twice = record.scaled_to(int(record.cores) * 2)
    assert twice.peak["f32"] == pytest.approx(2 * record.peak["f32"])
    assert twice.vector == pytest.approx(2 * record.vector)
    assert twice.bandwidth == record.bandwidth


def test_a_number_that_a_record_has_not_is_what_counts_for_it():
    record = replace(target("onnx:cpu"), peak={"f32": 1e11}, slowdown={})
    assert (record.number("peak.f16"), record.number("slowdown.scan"), record.number("fresh")) == (1e11, 1.0, 1e18)


@pytest.mark.parametrize(
    ("line", "wrong", "told"),
    [
        ("bandwidth", "", "bandwidth is missing"),
        ("bandwidth", 'bandwidth = { value = -1, source = "s" }', "bandwidth must be a number from"),
        ("bandwidth", 'bandwidth = { value = 1e30, source = "s" }', "bandwidth must be a number from"),
        ("bandwidth", 'bandwidth = { value = nan, source = "s" }', "bandwidth must be a number from"),
        ("bandwidth", 'bandwidth = { value = true, source = "s" }', "bandwidth must be a number from"),
        ("bandwidth", 'bandwidth = { value = "fast", source = "s" }', "bandwidth must be a number from"),
        ("bandwidth", 'bandwidth = { value = 1e10, source = " " }', "bandwidth must say its source"),
        ("bandwidth", "bandwidth = 1e10", "bandwidth must be {value"),
        ("tile", 'tile = { value = [1, 2], source = "s" }', "tile must hold three sizes"),
        ("launch", 'launch = { value = 5, source = "s" }', "launch must be a number from"),
        ("fuses", "fuses = 1", "fuses must be a bool"),
        ("epilogues", "epilogues = 1", "epilogues must be a bool, got 1"),
        ("name", 'name = "onnx cpu"', "a target must look like"),
        ("title", "title = ", "not TOML"),
        ("title", 'title = "t"\nspeed = 3', "no number 'speed'"),
        ("title", f"title = {'9' * 5000}", "not TOML"),
        ("title", f"title = {'[' * 5000}", "not TOML"),
        ("f32", "", "peak.f32 is missing"),
        ("f16", 'f17 = { value = 1e11, source = "s" }', "there is no peak.f17; did you mean 'f1"),
        ("f16", 'i32 = { value = 1e11, source = "s" }', "there is no peak.i32"),
        (
            "f16",
            'f16 = { value = 1e15, source = "s" }',
            "peak.f16 must be 0.001 to 1000 times peak.f32, 2e+11, got 1e+15",
        ),
        ("f32", 'f32 = { value = 1e16, source = "s" }', "peak.f16 must be 0.001 to 1000 times peak.f32"),
        ("cumsum", 'cumsumm = { value = 2, source = "s" }', "there is no slowdown.cumsumm; did you mean 'cumsum'"),
        (
            "tile",
            'tile = { value = [1, 128.5, 1], source = "s" }',
            "tile must be a whole number from 1 to 4096, got 128.5",
        ),
        ("cache", 'cache = { value = 1e11, source = "s" }', "cache must not be larger than memory, 1.7"),
        (
            "cache_bandwidth",
            'cache_bandwidth = { value = 1e8, source = "s" }',
            "cache_bandwidth must not be below bandwidth",
        ),
        ("name", 'name = "onnx:cpux4"', "name must be 'onnx:cpu', as its file is called, got 'onnx:cpux4'"),
        ("name", 'name = "jax:banana"', "name must be 'onnx:cpu', as its file is called, got 'jax:banana'"),
    ],
)
def test_a_record_with_a_wrong_number_is_refused(line, wrong, told):
    text = ONNX.read_text()
    broken = re.sub(rf"(?m)^{line} = .*$", lambda _: wrong, text)
    assert broken != text
    with pytest.raises(TargetError, match=re.escape(told)):
        parse_record(broken, "onnx-cpu.toml")


def test_all_problems_of_a_record_are_listed_at_once():
    text = ONNX.read_text()
    broken = re.sub(r"(?m)^(bandwidth|cache|step) = .*\n", "", text)
    with pytest.raises(TargetError) as caught:
        parse_record(broken, "onnx-cpu.toml")
    assert len(caught.value.problems) == 3


def test_one_fault_is_one_problem():
    text = ONNX.read_text()
    for line, wrong in (
        ("tile", "tile = { value = [1, 16, 1] }"),
        ("tile", 'tile = { value = [1, 16, 1], source = "" }'),
        ("tile", "tile = 128"),
        ("name", 'name = "onnx:cpux4"'),
        ("bandwidth", 'bandwidth = { value = 1e30, source = "s" }'),
        ("memory", ""),
    ):
        with pytest.raises(TargetError) as caught:
            parse_record(re.sub(rf"(?m)^{line} = .*$", lambda _: wrong, text), "onnx-cpu.toml")  # noqa: B023
        assert len(caught.value.problems) == 1, caught.value


def test_a_record_without_any_peak_is_refused():
    text = ONNX.read_text()
    for wrong in ("peak = {}\n", ""):
        broken = wrong + re.sub(r"(?s)\[peak\].*?(?=\[slowdown\])", "", text)
        with pytest.raises(TargetError, match=r"peak(.f32)? is missing"):
            parse_record(broken, "onnx-cpu.toml")


def test_a_record_in_the_file_of_another_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "jax-banana.toml"
    path.write_text(ONNX.read_text())
    monkeypatch.setattr(catalogue, "record_files", lambda: {"jax:banana": (path,)})
    with pytest.raises(TargetError, match=r"jax-banana.toml: name must be 'jax:banana'"):
        target("jax:banana")
