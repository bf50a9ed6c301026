"""Imported models against the packages themselves, where they are installed: pip install --no-deps FLASH-pytorch .."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import flashir
from flashir.errors import SettingError

NEEDED = {"flash-pytorch": "flash_pytorch", "gau-alpha": "gau_alpha", "mossformer2": "clearvoice"}


def need(package: str) -> None:
    if package == "gau_alpha":
        experiment("draw").stand_in_for_transformers()
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def experiment(name: str) -> Any:
    return importlib.import_module(f"flashir_import.experiments.{name}")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", NEEDED)
def test_a_random_model_is_what_it_was(family: str, seed: int) -> None:
    need(NEEDED[family])
    found = experiment("agreement").agreement(family, seed, ("onnx:cpu", "torch:cpu", "jax:cpu"))
    assert max(found.values()) <= (5e-4 if family == "mossformer2" else 2e-5)


@pytest.mark.slow
def test_foreign_parts_of_a_live_module_are_told_all_at_once() -> None:
    need("flash_pytorch")
    import torch
    from flash_pytorch import FLASHTransformer
    from rotary_embedding_torch import RotaryEmbedding

    module = FLASHTransformer(num_tokens=7, dim=16, depth=2, group_size=4, query_key_dim=8)
    module.layers[0].norm = torch.nn.RMSNorm(16)
    module.layers[1].rotary_pos_emb = RotaryEmbedding(dim=8, use_xpos=True)
    module.layers[1].attn_fn = torch.nn.GELU()
    with pytest.raises(SettingError) as caught:
        flashir.convert(module)
    for part in ("layers.0.norm is a RMSNorm", "layers.1.attn_fn is a GELU"):
        assert part in caught.value.message


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True])
def test_an_exported_decoder_gives_the_tokens_of_the_package(tmp_path: Path, split: bool) -> None:
    """Greedily, 40 of them, across the borders of groups; what runs is the artefact alone."""
    need("flash_pytorch")
    import torch
    from flash_pytorch import FLASHTransformer

    module = FLASHTransformer(num_tokens=64, dim=32, depth=2, group_size=8, query_key_dim=16, causal=True)
    module = experiment("draw").randomised(module, 5)
    converted = flashir.convert(module)
    flashir.export(converted.model, tmp_path / "out", "onnx:cpu", converted.params, decode=True, split=split)
    extend = in_two_parts(tmp_path / "out") if split else in_one(tmp_path / "out" / "decoder.onnx")
    ids = [3, 1, 4, 1, 5]
    logits, states = extend(ids, 0, ())
    for _ in range(40):
        with torch.no_grad():
            wanted = int(module(torch.tensor([ids]))[0, -1].argmax())
        token = int(logits.argmax())
        assert token == wanted
        ids.append(token)
        logits, states = extend([token], len(ids) - 1, states)


Extend = Callable[[list[int], int, Sequence[Any]], tuple[Any, Sequence[Any]]]
"""Tokens, the position of the first, states -> logits of the last, states."""


def in_one(file: Path) -> Extend:
    session = ort.InferenceSession(file)
    held = session.get_inputs()[2:]

    def extend(ids: list[int], first: int, states: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        states = states or [np.zeros([1, *state.shape[1:]], np.float32) for state in held]
        feeds = {"input_ids": np.array([ids]), "position_ids": np.arange(first, first + len(ids))[None]}
        logits, *states = session.run(None, feeds | dict(zip((state.name for state in held), states, strict=True)))
        return logits, states

    return extend


def in_two_parts(folder: Path) -> Extend:
    prefill, step = (ort.InferenceSession(folder / f"{name}.onnx") for name in ("prefill", "step"))
    names = [state.name for state in step.get_inputs()[1:]]

    def extend(ids: list[int], first: int, states: Sequence[Any]) -> tuple[Any, Sequence[Any]]:
        if states:
            logits, *states = step.run(None, {"input_ids": np.array(ids), **dict(zip(names, states, strict=True))})
        else:
            logits, *states = prefill.run(None, {"input_ids": np.array([ids]), "lengths": np.array([len(ids)])})
        return logits, states

    return extend


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_file_of_torch_onnx_is_raised_and_runs_as_the_module(tmp_path: Path, seed: int) -> None:
    need("flash_pytorch")
    need("onnxscript")
    import torch
    from flash_pytorch import FLASHTransformer

    settings = {"causal": seed == 0, "norm_type": ("layernorm", "scalenorm")[seed], "laplace_attn_fn": seed == 1}
    module = FLASHTransformer(num_tokens=31, dim=16, depth=2, group_size=8, query_key_dim=12, **settings)
    module = experiment("draw").randomised(module, seed)
    raised = flashir.convert(experiment("onnx_files").export_torch(module, tmp_path))
    ids = np.random.default_rng(0).integers(0, 31, (2, 19))
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids)).numpy()
    got = flashir.compile(raised.model, target="onnx:cpu", params=raised.params)(ids)
    assert np.abs(got - wanted).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.slow
def test_an_imported_model_learns_as_the_package_does() -> None:
    need("flash_pytorch")
    from flashir.compare.tasks import Recall
    from flashir.train.recipe import Recipe

    learning = experiment("learning")
    task, recipe = Recall(), Recipe(seq_len=96, tokens=8 * 96, steps=20, learning_rate=1e-2)
    module = learning.rival(width=32, depth=2, keys=16, chunk=task.chunk, vocab=task.vocab, seed=0)
    losses = np.array(list(learning.Pair(module, task, recipe).losses()))
    assert np.ptp(losses[:, 0]) > 0.1 and np.max(np.abs(losses[:, 0] - losses[:, 1])) < 1e-5
