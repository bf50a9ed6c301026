"""Artefacts for JAX from strangers: refused by their name, and a function calls nothing in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from flashir.errors import ArtefactError
from flashir_jax.artefact import Manifest, read_manifest
from flashir_jax.export import imported

GOOD: dict[str, Any] = {
    "schema": 1,
    "metadata": {},
    "notes": [],
    "functions": {"cpu": "0" * 64},
    "parameters": "1" * 64,
    "layouts": {"x": {"shape": [2], "dtype": "f32", "rounds": []}},
}

MANIFESTS: dict[str, Any] = {
    "no functions": {**GOOD, "functions": {}},
    "a file above": {**GOOD, "parameters": "../../../../x"},
    "another file above": {**GOOD, "functions": {"cpu": "/etc/passwd" + "0" * 53}},
    "a negative size": {**GOOD, "layouts": {"x": {"shape": [-1], "dtype": "f32", "rounds": []}}},
    "a size of many digits": {**GOOD, "layouts": {"x": {"shape": [10**30], "dtype": "f32", "rounds": []}}},
    "metadata of another shape": {**GOOD, "metadata": {"flashir.model": {}}},
    "a list": [],
    "a new field": {**GOOD, "more": 1},
}


@pytest.mark.parametrize("name", [*MANIFESTS, "deep", "nothing"])
def test_manifests(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.jax"
    made = {"deep": "[" * 100_000, "nothing": ""}.get(name) if name not in MANIFESTS else json.dumps(MANIFESTS[name])
    path.write_text(str(made))
    with pytest.raises(ArtefactError) as caught:
        read_manifest(path)
    assert caught.value.where == str(path)
    assert Manifest


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"\xff" * 1000, bytes(range(256)) * 8])
def test_what_is_no_function(content: bytes) -> None:
    with pytest.raises(ArtefactError, match="cannot read the function"):
        imported(content, "f.stablehlo")


def test_a_function_calls_nothing_by_name() -> None:
    """A callback into the process that made it is a call of an address in this one."""

    def back(x: Any) -> Any:
        return jax.pure_callback(np.sin, x, x)

    size = jax.ShapeDtypeStruct((2,), jnp.float32)
    checks = [
        export.DisabledSafetyCheck.custom_call(name)
        for name in ("xla_ffi_python_cpu_callback", "xla_python_cpu_callback")
    ]
    try:
        made = export.export(jax.jit(back), disabled_checks=checks)(size).serialize()
    except NotImplementedError:
        pytest.skip("this JAX does not serialise it")
    with pytest.raises(ArtefactError, match="the function calls xla_"):
        imported(made, "f.stablehlo")
    plain = export.export(jax.jit(jnp.sin))(size).serialize()
    assert imported(plain, "f.stablehlo").platforms == ("cpu",)
