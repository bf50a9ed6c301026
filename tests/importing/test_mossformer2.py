"""MossFormer2 of ClearVoice: separation, and the mask net of enhancement, as models of flashir."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import flashir
from flashir.errors import InputError, ParameterError
from flashir.reference.compare import relative_error
from tests.importing.support import drawn, structure

FAMILY = "mossformer2"
SIZES: dict[str, Any] = {
    "dim": 8, "channels_in": 8, "channels_out": 8, "speakers": 2, "depth": 2, "query_key_dim": 6, "rope_dims": 4,
    "kernel": 5, "inner": 12, "memory": 7, "window": 4,
}  # fmt: skip
NETS = {"MossFormer2_SS": {"dilated": True}, "MossFormer2_SE": {"dilated": False, "channels_in": 5, "channels_out": 9}}


def weights(name: str) -> dict[str, Any]:
    return drawn(FAMILY, name, SIZES | NETS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_a_model_is_what_it_was(name: str) -> None:
    state = weights(name)
    made = flashir.convert(state)
    assert made.structure == name
    assert made.options["depth"] == 2 and made.options["kernel"] == 5 and made.options["memory"] == 7
    kind, settings = structure(FAMILY, name), dict(made.options)
    run = flashir.compile(made.model, target="onnx:cpu", params=made.params)
    for length in kind.lengths(settings)[:3]:
        (x,) = kind.inputs(settings, 2, length, np.random.default_rng(length))
        assert relative_error(run(x), kind.reference(state, settings)(x)) <= 5e-4


def test_separation_gives_as_many_samples_as_it_got() -> None:
    made = flashir.convert(weights("MossFormer2_SS"), verify="off")
    for samples in (17, 18, 19, 20):
        (waves,) = flashir.interpret(made.model, made.params, np.ones((1, samples)))
        assert waves.shape == (1, samples, 2)


def test_what_cannot_be_is_refused() -> None:
    state = weights("MossFormer2_SS")
    rates = "mask_net.mdl.intra_mdl.mossformerM.layers.1.rotary_pos_emb.freqs"
    with pytest.raises(ParameterError, match=f"{rates} must be the frequencies"):
        flashir.convert(state | {rates: state[rates] * 2})
    with pytest.raises(ParameterError, match=r"enc\.conv1d\.weight must be"):
        flashir.convert(state | {"enc.conv1d.weight": np.zeros((8, 4), np.float32)})
    with pytest.raises(InputError, match="belong to no known model"):
        flashir.convert({name.replace("fsmn.", "fsnn."): array for name, array in state.items()})


def test_the_net_alone_is_found_under_a_prefix() -> None:
    state = {f"mossformer.{name}": array for name, array in weights("MossFormer2_SE").items()}
    assert flashir.convert(state, prefix="mossformer.", verify="off").structure == "MossFormer2_SE"
