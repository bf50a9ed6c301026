"""Parameters: made the same for the same seed, written and read whole, damaged ones found."""

import json
from contextlib import suppress

import numpy as np
import pytest

import flashir
from flashir.backends.lowering import Lowering
from flashir.errors import ArtefactError, FlashirError, ParameterError, SettingError
from flashir.models.parameters import rechunked
from flashir.transforms.settle_choices import settle


@pytest.fixture(scope="module")
def model():
    return flashir.model("flash", size="tiny", chunk=16)


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "p.safetensors"
    flashir.save_params(flashir.init(model), path)
    return path


def test_a_seed_tells_every_parameter(model):
    once, again, other = flashir.init(model, seed=3), flashir.init(model, seed=3), flashir.init(model, seed=4)
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert not np.array_equal(once["embed.weight"], other["embed.weight"])
    assert all(array.dtype == np.float32 for array in once.values())


@pytest.mark.parametrize("seed", [-1, 1.5, "a", None, True])
def test_a_seed_is_a_whole_number(model, seed):
    with pytest.raises(SettingError, match=r"seed must be a whole number( from 0)?, got"):
        flashir.init(model, seed)


@pytest.mark.parametrize("width", [64, 256])
def test_a_matrix_starts_by_its_inputs(width):
    params = flashir.init(flashir.model("flash", d_model=width, depth=1, vocab=256, key_dim=16))
    for name, inputs in (("embed", width), ("layers.0.proj_in", width), ("layers.0.proj_out", 2 * width)):
        assert np.std(params[f"{name}.weight"]) == pytest.approx(inputs**-0.5, rel=0.1), name
    assert np.std(params["layers.0.offset_scale.gamma"]) == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(("name", "chunk"), [("flash", 8), ("flash", 64), ("flash", 256), ("flash-quad", 8)])
def test_scores_under_relu2_begin_with_a_gradient(name, chunk):
    """A bias around 0 leaves half of the distances without any, and the first steps may end the others."""
    model = flashir.model(name, d_model=16, depth=1, key_dim=8, **{"flash": {"chunk": chunk}}.get(name, {"max_len": 8}))
    for scheme, least in (("fan_in", 0.99), ("paper", 0.2)):
        bias = flashir.init(model, scheme=scheme)["layers.0.rel_bias.w"]
        assert least <= np.mean(bias > 0) <= (1 if scheme == "fan_in" else 0.8)
        assert chunk * np.mean(bias) ** 2 <= 1.2, "the local part is a mean at most"


def test_a_lowered_model_starts_as_its_blocks_do(model):
    lowered = Lowering("none").run(settle(model, {"chunk": 16, "cumsum": "scan"}))
    for scheme in ("fan_in", "paper"):
        blocks = flashir.init(settle(model, {"chunk": 16}), 3, scheme)
        for name, array in flashir.init(lowered, 3, scheme).items():
            assert np.array_equal(array, blocks[name]), name


def test_an_unknown_scheme_is_refused(model):
    with pytest.raises(FlashirError, match="scheme"):
        flashir.init(model, scheme="papr")


def test_the_scheme_of_the_paper_starts_every_weight_alike(model):
    params = flashir.init(model, scheme="paper")
    assert np.std(params["layers.0.proj_in.weight"]) == pytest.approx(0.02, rel=0.1)
    assert np.std(params["layers.0.proj_out.weight"]) == pytest.approx(0.02, rel=0.1)
    assert params["pos.scale"] == pytest.approx(64**-0.5)
    assert (params["layers.1.norm.scale"] == 1).all() and (params["layers.1.norm.bias"] == 0).all()
    assert not np.array_equal(params["layers.0.proj_in.weight"], params["layers.1.proj_in.weight"])


@pytest.mark.parametrize(
    ("name", "size", "millions"),
    [("flash", "base", 112), ("flash-quad", "base", 112), ("flash", "pg19", 496), ("flash-quad", "pg19", 496)],
)
@pytest.mark.parametrize("task", ["lm", "mlm"])
def test_the_paper_counts(name, size, millions, task):
    from flashir.ir.parameter_count import parameter_count

    assert round(parameter_count(flashir.model(name, size=size, task=task)) / 1e6) == millions


def test_written_and_read_they_are_the_same(model, file):
    params = flashir.init(model)
    found = flashir.load_params(file)
    assert set(found) == set(params)
    assert all(np.array_equal(found[name], params[name]) for name in params)


def test_any_flipped_bit_is_found(file):
    content = bytearray(file.read_bytes())
    sound = flashir.load_params(file)
    random = np.random.default_rng(0)
    for position in random.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(random.integers(8))
        file.write_bytes(damaged)
        found = _loaded_or_none(file)
        if found is not None:  # a bit of the header that says nothing, such as the padding
            assert all(np.array_equal(found[name], sound[name]) for name in sound)


def _loaded_or_none(file):
    with suppress(ParameterError):
        return flashir.load_params(file)
    return None


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_cut_short_is_found(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ParameterError, match="cannot read the parameters"):
        flashir.load_params(file)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ParameterError, match=r"nothing\.safetensors"):
        flashir.load_params(tmp_path / "nothing.safetensors")


def test_a_file_of_someone_else_has_no_digests_and_is_read(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.ones(3, np.float32)}, str(tmp_path / "x.safetensors"))
    assert np.array_equal(flashir.load_params(tmp_path / "x.safetensors")["x"], np.ones(3))


def test_a_place_that_cannot_be_written_is_told(model, tmp_path):
    with pytest.raises(ArtefactError, match="cannot write"):
        flashir.save_params(flashir.init(model), tmp_path)


def test_rechunking_keeps_the_weights_of_distances_that_both_have(model):
    params = flashir.init(model)
    name = "layers.0.rel_bias.w"
    smaller, larger = rechunked(params, 8), rechunked(params, 32)
    assert np.array_equal(smaller[name], params[name][8:-8])
    assert np.array_equal(larger[name][16:-16], params[name]) and not larger[name][:16].any()
    with pytest.raises(ParameterError, match="cannot become the bias of chunks of 512"):
        rechunked(params, 512)


class TestCheckpoint:
    def test_what_was_saved_is_loaded(self, model, tmp_path):
        params = flashir.init(model)
        folder = flashir.save_checkpoint(model, params, tmp_path / "ckpt")
        found = flashir.load_checkpoint(folder)
        assert found.model == model
        assert all(np.array_equal(found.params[name], params[name]) for name in params)

    def test_an_open_chunk_is_refused(self, tmp_path):
        auto = flashir.model("flash", size="tiny")
        with pytest.raises(ArtefactError, match="chunk must be chosen"):
            flashir.save_checkpoint(auto, flashir.init(auto), tmp_path / "ckpt")

    def test_another_checkpoint_is_not_overwritten(self, model, tmp_path):
        flashir.save_checkpoint(model, flashir.init(model), tmp_path)
        with pytest.raises(ArtefactError, match="there is a checkpoint already"):
            flashir.save_checkpoint(model, flashir.init(model, 1), tmp_path)

    @pytest.mark.parametrize("name", ["model.fir", "params.safetensors"])
    def test_damage_is_found_and_named(self, model, tmp_path, name):
        flashir.save_checkpoint(model, flashir.init(model), tmp_path)
        path = tmp_path / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(ArtefactError, match=f"{name} is damaged"):
            flashir.load_checkpoint(tmp_path)
        path.unlink()
        with pytest.raises(ArtefactError, match=f"{name} is missing"):
            flashir.load_checkpoint(tmp_path)

    def test_a_folder_or_manifest_of_something_else_is_no_checkpoint(self, tmp_path):
        with pytest.raises(ArtefactError, match="cannot read"):
            flashir.load_checkpoint(tmp_path)
        (tmp_path / "manifest.json").write_text(json.dumps({"files": []}))
        with pytest.raises(ArtefactError, match=r"manifest.json is damaged"):
            flashir.load_checkpoint(tmp_path)
