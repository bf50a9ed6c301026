"""A decoder in two parts: what other hosts see of it, that it is of one piece, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import flashir
from flashir.errors import ArtefactError, FlashirError, InputError, SettingError, TargetError
from flashir.files.atomic import UNFINISHED
from flashir.generation.generate import decoder, generate, restored
from flashir.ir.parameter_names import parameters
from flashir.models.parameters import unit
from flashir_onnx import OnnxBackend, artefact
from flashir_onnx.artefact import DECODER_FILE, MODEL_FILE, PARTS, PREFILL_FILE, STEP_FILE
from flashir_onnx.verify import all_nodes
from tests.decode.support import ROOM, SMALL, ZOO, model

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 1]]
FILES = {MODEL_FILE, PREFILL_FILE, STEP_FILE}
MODELS = sorted(ZOO)
OTHERS = ("performer", "transformer++")


def export(out: Path, name: str = "flash", seed: int = 0, **more: Any) -> Path:
    graph = model(name)
    flashir.export(
        graph, out, params=unit(graph, seed), **{"decode": True, "split": True, "max_len": ROOM, "force": True, **more}
    )
    return out


def tokens(made: flashir.Decoder, count: int = 9) -> list[list[int]]:
    return [each.tolist() for each in generate(made, PROMPTS, tokens=count)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("decoder") / "out")


@pytest.fixture(scope="module")
def written(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The decoder of each model, written once, to be read alone."""
    folders = {"flash": out}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = export(tmp_path_factory.mktemp(name), name)
        return folders[name]

    return folder


def metadata(path: Path) -> dict[str, str]:
    return {each.key: each.value for each in onnx.load(path, load_external_data=False).metadata_props}


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(path, options)


# What is written


@pytest.mark.parametrize("name", [pytest.param(each, marks=[pytest.mark.slow] * (each != "flash")) for each in MODELS])
def test_what_is_read_back_goes_on_as_the_model_does(written: Callable[[str], Path], name: str) -> None:
    made = decoder(model(name), "onnx:cpu", unit(model(name)), max_len=ROOM)
    back = restored(written(name))
    assert tokens(back) == tokens(made)
    assert (back.limit, back.model) == (made.limit, made.model)


@pytest.mark.slow
@pytest.mark.parametrize("told", [{"segments": True}, pytest.param({"mask": True}, marks=pytest.mark.slow)])
def test_a_decoder_has_no_input_for_segments_or_a_mask(tmp_path: Path, told: dict[str, Any]) -> None:
    system, settings = ZOO["flash" if "segments" in told else "transformer++"]
    graph = flashir.model(system, **settings, **told)
    params = unit(graph)
    flashir.export(graph, tmp_path, params=params, decode=True, split=True, max_len=ROOM)
    names = [[each.name for each in session(tmp_path / file).get_inputs()] for file in (MODEL_FILE, PREFILL_FILE)]
    assert names == [["input_ids", "segment_ids" if "segments" in told else "mask"], ["input_ids", "lengths"]]
    wanted = tokens(decoder(flashir.model(system, **settings), "onnx:cpu", params, max_len=ROOM))
    assert tokens(restored(tmp_path)) == tokens(decoder(graph, "onnx:cpu", params, max_len=ROOM)) == wanted


@pytest.mark.parametrize("name", ["flash", pytest.param("combiner", marks=pytest.mark.slow)])
def test_the_model_alone_goes_on_too(tmp_path: Path, name: str) -> None:
    back = restored(export(tmp_path, name, decode=False), max_len=ROOM)
    assert tokens(back) == tokens(decoder(model(name), "onnx:cpu", unit(model(name)), max_len=ROOM))


def test_names_types_and_shapes(out: Path) -> None:
    states: list[tuple[str, str, list[Any]]] = [("position", "tensor(int64)", ["batch"])]
    for layer in ("layers.0", "layers.1"):
        shapes = {"sum": [8, 32], "quad_k": [5, 8], "lin_k": [5, 8], "v": [5, 32]}
        states += [(f"{layer}.{name}", "tensor(float)", ["batch", *shape]) for name, shape in shapes.items()]
    after = [("logits", "tensor(float)", ["batch", 11]), *((f"next.{name}", *rest) for name, *rest in states)]
    prefill, step = session(out / PREFILL_FILE), session(out / STEP_FILE)

    def shown(values: Any) -> list[tuple[str, str, list[Any]]]:
        return [(each.name, each.type, each.shape) for each in values]

    assert shown(prefill.get_outputs()) == shown(step.get_outputs()) == after
    assert shown(step.get_inputs()) == [("input_ids", "tensor(int64)", ["batch"]), *states]
    assert shown(prefill.get_inputs()) == [
        ("input_ids", "tensor(int64)", ["batch", "sequence"]),
        ("lengths", "tensor(int64)", ["batch"]),
    ]


@pytest.mark.parametrize(
    "name", ["flash", *(pytest.param(name, marks=pytest.mark.slow) for name in ("flash-quad-long-bias", "transformer"))]
)
def test_the_metadata_describe_the_states(written: Callable[[str], Path], name: str) -> None:
    folder = written(name)
    found = metadata(folder / STEP_FILE)
    step = session(folder / STEP_FILE)
    described = json.loads(found["flashir.state"])
    assert [each["input"] for each in described] == [each.name for each in step.get_inputs()[1:]]
    assert [each["output"] for each in described] == [each.name for each in step.get_outputs()[1:]]
    assert [each["shape"] for each in described] == [each.shape for each in step.get_inputs()[1:]]
    assert {each["dtype"] for each in described} == {"int64", "float32"}
    assert (found["flashir.vocab"], found["flashir.max_len"]) == ("11", str(ROOM))
    assert flashir.loads(found["flashir.model"]) == model(name)
    assert metadata(folder / PREFILL_FILE)["flashir.state"] == found["flashir.state"]


def test_what_nothing_limits_has_no_max_len(tmp_path: Path) -> None:
    export(tmp_path, max_len=None)
    assert "flashir.max_len" not in metadata(tmp_path / STEP_FILE)
    assert restored(tmp_path).limit is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float16"])
def test_weights_are_there_once(tmp_path: Path, dtype: str) -> None:
    graph = flashir.model("flash", **SMALL | {"d_model": 128, "vocab": 256}, chunk=8, key_dim=32)
    flashir.export(graph, tmp_path, decode=True, split=True, dtype=dtype)
    models = [onnx.load(tmp_path / name, load_external_data=False) for name in sorted(FILES)]
    (data,) = tmp_path.glob("model-*.data")
    needed = sum(np.prod(spec.shape) for spec in parameters(graph).values()) * np.dtype(dtype).itemsize
    assert data.stat().st_size < 1.1 * needed + 40 * 4096
    places = [
        {each.name: {pair.key: pair.value for pair in each.external_data} for each in made.graph.initializer}
        for made in models
    ]
    outside = [{name: place for name, place in each.items() if place} for each in places]
    assert outside[0] == outside[1] == outside[2]
    assert {place["location"] for place in outside[0].values()} == {data.name}


def test_a_portable_decoder_has_operators_of_the_standard_alone(tmp_path: Path) -> None:
    export(tmp_path, portable=True)
    for name in FILES:
        assert {node.domain for node in all_nodes(onnx.load(tmp_path / name))} == {""}
    assert tokens(restored(tmp_path)) == tokens(decoder(model("flash"), params=unit(model("flash"))))


@pytest.mark.parametrize("name", ["flash-overlap-shift-t5", pytest.param("combiner", marks=pytest.mark.slow)])
def test_every_state_may_be_written_where_it_stands(written: Callable[[str], Path], name: str) -> None:
    """Bound to the memory of its input, each output is what it is in memory of its own."""
    folder = written(name)
    step = session(folder / STEP_FILE)
    ids, lengths = np.array([row + [0] * (7 - len(row)) for row in PROMPTS]), np.array([3, 1, 7])
    _, *states = session(folder / PREFILL_FILE).run(None, {"input_ids": ids, "lengths": lengths})
    names = [each.name for each in step.get_inputs()[1:]]
    apart, here = states, [ort.OrtValue.ortvalue_from_numpy(np.array(state)) for state in states]
    binding = step.io_binding()
    for each, value in zip(names, here, strict=True):
        binding.bind_ortvalue_input(each, value)
        binding.bind_ortvalue_output(f"next.{each}", value)
    for token in range(1, 10):
        new = np.full(3, token)
        wanted, *apart = step.run(None, {"input_ids": new, **dict(zip(names, apart, strict=True))})
        binding.bind_cpu_input("input_ids", new)
        binding.bind_output("logits")
        step.run_with_iobinding(binding)
        np.testing.assert_array_equal(binding.get_outputs()[-1].numpy(), wanted)
        for value, state in zip(here, apart, strict=True):
            np.testing.assert_array_equal(value.numpy(), state)


def test_each_model_is_checked_and_said_to_be(tmp_path: Path) -> None:
    checks = flashir.export(model("flash"), tmp_path, decode=True, split=True).checks
    for said in (
        "prefill.onnx: ONNX checker",
        "step.onnx: ONNX checker",
        "2 prompts and 4 tokens after each by the decoder",
    ):
        assert any(said in line for line in checks), said


@pytest.mark.parametrize("name", ["flash", pytest.param("transformer", marks=pytest.mark.slow)])
def test_states_hold_keys_and_values_in_float16_if_asked_to(tmp_path: Path, name: str) -> None:
    graph = model(name)
    made = flashir.export(graph, tmp_path, params=unit(graph), decode=True, max_len=ROOM, states="float16")
    described = json.loads(metadata(tmp_path / DECODER_FILE)["flashir.state"])
    assert {each["input"].rpartition(".")[2] for each in described if each["dtype"] == "float32"} <= {"sum"}
    assert {each["dtype"] for each in described} == {"float16", "float32"} - ({"float32"} if name != "flash" else set())
    (said,) = (each for each in made.compared if "states in f16" in each.what)
    assert 1e-6 < said.error < 1e-2
    assert len(tokens(restored(tmp_path))) == len(tokens(decoder(graph, params=unit(graph), max_len=ROOM)))


# Of one piece


def test_damage_is_seen_in_any_file(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "copy")
    random = np.random.default_rng(0)
    for file in sorted((tmp_path / "copy").iterdir()):
        whole = file.read_bytes()
        for place in random.integers(0, len(whole), 8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(random.integers(8))
            file.write_bytes(damaged)
            with pytest.raises(ArtefactError, match=r"damaged|not the file|no flashir model|no ONNX model"):
                restored(tmp_path / "copy")
        file.unlink()
        with pytest.raises(ArtefactError, match=file.name):
            restored(tmp_path / "copy")
        file.write_bytes(whole)
    restored(tmp_path / "copy")


def test_a_step_of_another_export_is_refused(out: Path, tmp_path: Path) -> None:
    other = export(tmp_path / "other", seed=1)
    shutil.copy(out / STEP_FILE, other / STEP_FILE)
    shutil.copy(next(out.glob("*.data")), other)
    with pytest.raises(ArtefactError, match=r"step\.onnx: it is not the file that model\.onnx was written with"):
        restored(other)


def killed(number: int, monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    """An export of other parameters that is killed after so many of its files have got their names."""
    replaced = Path.replace

    class Killed(BaseException):
        pass

    def replace(path: Path, target: Path) -> Path:
        nonlocal number
        if path.name.endswith(UNFINISHED) and target.suffix == ".onnx":
            if not number:
                raise Killed
            number -= 1
        return replaced(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # nobody cleans up after a kill
        patch.setattr(artefact, "_sweep", lambda _: None)
        with pytest.raises(Killed):
            export(out, seed=1)


@pytest.mark.slow
def test_a_kill_leaves_the_old_decoder_or_the_new_one(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (tokens(decoder(model("flash"), params=unit(model("flash"), seed))) for seed in (0, 1))
    assert old != new
    for number, wanted in enumerate((old, new, new)):
        folder = tmp_path / str(number)
        shutil.copytree(out, folder)
        killed(number, monkeypatch, folder)
        assert tokens(restored(folder)) == wanted
    export(folder, seed=2)
    assert len(list(folder.iterdir())) == 4


def test_an_export_that_fails_its_check_leaves_the_old_one(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(out, tmp_path / "out")
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    monkeypatch.setattr("flashir_onnx.in_place._read_first", lambda step, *_: step.node.pop())  # no result any more
    with pytest.raises(ArtefactError):
        export(tmp_path / "out", seed=1)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_wrong_steps_are_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is one of numbers: a step that forgets a little of a state does not pass."""
    plain: Any = OnnxBackend.export_decoder

    def forgetful(self: OnnxBackend, whole: Any, graph: Any, decoding: Any, params: Any, *rest: Any) -> Any:
        *where, examine = rest

        def check(run: Any, prefill: Any, step: Any) -> None:
            examine(run, prefill, lambda ids, kept: (step(ids, kept)[0] * 1.001, kept))

        return plain(self, whole, graph, decoding, params, *where, check)

    monkeypatch.setattr(OnnxBackend, "export_decoder", forgetful)
    with pytest.raises(ArtefactError, match="differs from the interpreter"):
        export(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_parts_of_a_former_decoder_go_and_files_of_others_stay(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    export(tmp_path, decode=False)
    assert {file.name for file in tmp_path.iterdir()} == {MODEL_FILE, "notes.txt"}
    (tmp_path / STEP_FILE).write_bytes(b"not ours")
    export(tmp_path, decode=False)
    assert {file.name for file in tmp_path.iterdir()} == {MODEL_FILE, STEP_FILE, "notes.txt"}


def test_model_onnx_names_the_others(out: Path) -> None:
    named = json.loads(metadata(out / MODEL_FILE)[PARTS])
    assert named == {name: metadata(out / name)["flashir.sha256"] for name in (PREFILL_FILE, STEP_FILE)}


# What is refused


@pytest.mark.parametrize("name", ["flash", *(pytest.param(x, marks=pytest.mark.slow) for x in OTHERS)])
def test_states_of_another_batch_are_refused_by_the_file_itself(written: Callable[[str], Path], name: str) -> None:
    """Never broadcast, whichever has more rows."""
    folder = written(name)
    prefill, step = session(folder / PREFILL_FILE), session(folder / STEP_FILE)
    names = [each.name for each in step.get_inputs()[1:]]
    for rows, ids in ((3, 1), (1, 3)):
        _, *states = prefill.run(None, {"input_ids": np.ones((rows, 4), np.int64), "lengths": np.full(rows, 4)})
        given = {"input_ids": np.ones(ids, np.int64), **dict(zip(names, states, strict=True))}
        with pytest.raises(Exception, match="as_many_rows_as_ids"):
            step.run(None, given)
        for state in names[1:] if rows == 1 else ():
            one = {key: np.repeat(value[:1], 1 + (key == state), 0) for key, value in given.items()}
            with pytest.raises(Exception, match="states_have_as_many_rows_as_ids"):
                step.run(None, one)
    with pytest.raises(Exception, match="as_many_rows_as_ids"):
        prefill.run(None, {"input_ids": np.ones((3, 4), np.int64), "lengths": np.array([4])})


def test_states_of_another_model_are_refused(out: Path, tmp_path: Path) -> None:
    one, other = restored(out), restored(export(tmp_path, "flash-local"))
    state, _ = one.start(PROMPTS)
    with pytest.raises(InputError, match="belongs to another decoder"):
        other.extend(state, [1, 2, 3])
    _, *states = session(out / PREFILL_FILE).run(
        None, {"input_ids": np.ones((1, 4), np.int64), "lengths": np.array([4])}
    )
    step = session(tmp_path / STEP_FILE)
    names = [each.name for each in step.get_inputs()[1:]]
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        step.run(None, {"input_ids": np.ones(1, np.int64), **dict(zip(names, states))})


def test_learned_positions_end_where_they_end(tmp_path: Path) -> None:
    short = flashir.model("transformer", **SMALL, heads=2, max_len=6)
    flashir.export(short, tmp_path, params=unit(short), decode=True, split=True, max_len=ROOM)
    back = restored(tmp_path)
    assert (back.limit, metadata(tmp_path / STEP_FILE)["flashir.max_len"]) == (6, "6")
    with pytest.raises(InputError, match="row 0 would have 7 tokens, this decoder can hold 6"):
        back.start([[1] * 7])
    state, _ = back.start([[1] * 6])
    with pytest.raises(InputError, match="7 tokens"):
        back.extend(state, [1])
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        session(tmp_path / PREFILL_FILE).run(None, {"input_ids": np.ones((1, 7), np.int64), "lengths": np.array([7])})


@pytest.mark.parametrize(
    ("system", "settings", "more", "kind", "said"),
    [
        ("flash", {"task": "mlm"}, {}, SettingError, "not causal"),
        ("transformer++", {"heads": 2}, {}, SettingError, "max_len must say how many"),
        ("flash", {}, {"target": "torch:cpu"}, TargetError, "the backend 'torch' writes no decoder"),
    ],
)
def test_what_cannot_be_continued_is_refused_before_anything_is_written(
    tmp_path: Path, system: str, settings: dict[str, Any], more: dict[str, Any], kind: type[FlashirError], said: str
) -> None:
    with pytest.raises(kind, match=said) as told:
        flashir.export(flashir.model(system, **SMALL, **settings), tmp_path / "out", decode=True, **more)
    assert told.value.where
    assert not (tmp_path / "out").exists()


def test_one_half_is_no_model(out: Path) -> None:
    with pytest.raises(ArtefactError, match="a file of a decoder"):
        OnnxBackend().load(out / STEP_FILE, "cpu")


def test_what_was_settled_stays(out: Path) -> None:
    with pytest.raises(SettingError, match="fixed at export"):
        restored(out, max_len=5)


def test_a_bare_model_without_room_says_so(tmp_path: Path) -> None:
    export(tmp_path, "transformer++", decode=False)
    with pytest.raises(SettingError, match="max_len"):
        restored(tmp_path)
