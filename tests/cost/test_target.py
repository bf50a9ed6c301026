"""Records of targets: read, checked as a whole, scaled to the machine at hand."""

import re

import pytest

from flashir.cost import target, target_names
from flashir.cost.catalogue import RECORDS
from flashir.cost.records import parse_record
from flashir.errors import TargetError

WRONG_NAMES = (
    "",
    "onnx",
    "onnx:",
    ":cpu",
    "onnx:cpu:x",
    "ONNX:CPU",
    "jax:tpu-v4x0",
    f"jax:tpu-v4x{10**9}",
    "../a:b",
    "a b:c",
)


@pytest.mark.parametrize("name", target_names())
def test_every_number_of_a_record_has_its_source(name):
    record = target(name)
    text = (RECORDS / f"{name.replace(':', '-', 1)}.toml").read_text()
    numbers = len(re.findall(r"\{ value = ", text))
    assert len(record.sources) == numbers
    assert all(source.strip() for source in record.sources.values())


def test_the_records_that_the_paper_and_its_readers_need_are_there():
    assert {"onnx:cpu", "jax:tpu-v4", "torch:v100", "torch:a100", "torch:h100", "torch:h200"} <= set(target_names())


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
    with pytest.raises(TargetError, match="of which there is one"):
        target("onnx:cpux2")


def test_rates_scale_with_the_cores():
    record = target("onnx:cpu")
    twice = record.scaled_to(int(record.cores) * 2)
    assert twice.peak["f32"] == pytest.approx(2 * record.peak["f32"])
    assert twice.vector == pytest.approx(2 * record.vector)
    assert twice.bandwidth == record.bandwidth


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
        ("recomputes", "recomputes = true\nepilogues = 1", "epilogues must be a bool, got 1"),
        ("name", 'name = "onnx cpu"', "a target must look like"),
        ("title", "title = ", "not TOML"),
        ("title", 'title = "t"\nspeed = 3', "no number 'speed'"),
    ],
)
def test_a_record_with_a_wrong_number_is_refused(line, wrong, told):
    text = (RECORDS / "onnx-cpu.toml").read_text()
    broken = re.sub(rf"(?m)^{line} = .*$", lambda _: wrong, text)
    assert broken != text
    with pytest.raises(TargetError, match=re.escape(told)):
        parse_record(broken, "onnx-cpu.toml")


def test_all_problems_of_a_record_are_listed_at_once():
    text = (RECORDS / "onnx-cpu.toml").read_text()
    broken = re.sub(r"(?m)^(bandwidth|cache|step) = .*\n", "", text)
    with pytest.raises(TargetError) as caught:
        parse_record(broken, "onnx-cpu.toml")
    assert len(caught.value.problems) == 3
