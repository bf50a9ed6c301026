"""Verify an artefact, and load it as a session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashir.backends.protocols import Verified
from flashir.errors import ArtefactError, TargetError
from flashir.ir import Graph
from flashir.models.parameters import load_params
from flashir_jax.artefact import FUNCTION, PARAMETERS, Manifest, file_name, read_manifest
from flashir_jax.devices import platform_of
from flashir_jax.export import callable_of, imported, specs
from flashir_jax.layout import stacked
from flashir_jax.session import Session


def verify(path: Path, devices: tuple[str, ...]) -> Verified:
    """Read a whole artefact, and check that its files fit together.

    Raises:
        ArtefactError: a file is missing or damaged, or the files do not belong together.
    """
    manifest = read_manifest(path)
    modules = {digest: _function(path, manifest, platform) for platform, digest in manifest.functions.items()}
    params = load_params(path.with_name(file_name(PARAMETERS, manifest.parameters)))
    stacked(manifest.stacks(), params)
    first = next(iter(modules.values()))
    inputs = first.in_avals[len(manifest.layouts) :]
    checks = (
        f"jax.export: calling convention {first.calling_convention_version}, inputs {', '.join(map(str, inputs))}",
        _what_is_open([size for aval in inputs for size in aval.shape]),
        f"{len(params)} parameters as {len(manifest.layouts)} arrays, every digest verified",
        *_what_ran(manifest, {platform_of(device) for device in devices}),
        *manifest.notes,
    )
    return Verified(checks, tuple(path.with_name(name) for name in manifest.files()))


def _what_is_open(shape: Sequence[Any]) -> str:
    """Which sizes of the inputs are symbolic, and how JAX limits them."""
    names = sorted({str(size) for size in shape if not isinstance(size, int)})
    if not names:
        return "no size is open: it accepts only inputs of these shapes"
    return f"{' and '.join(names)} open, any number from 1 on; for 0 the result is empty, without running the module"


def _what_ran(manifest: Manifest, here: set[str]) -> tuple[str, ...]:
    """Which platforms were not available for the check."""
    absent = [platform for platform in manifest.functions if platform not in here]
    if not absent:
        return ()
    names, shared = " and ".join(manifest.functions), len(set(manifest.functions.values())) == 1
    what = f"one StableHLO module for {names}" if shared else f"a StableHLO module each for {names}"
    rest = "it runs" if shared else "only the other runs"
    return (f"{what}; {' and '.join(absent)} is not available, {rest} on cpu here",)


def session(path: Path, manifest: Manifest, model: Graph, device: str) -> Session:
    """The function of an artefact with its parameters on a device.

    Raises:
        ArtefactError: the files do not belong together.
        TargetError: the device is not available, or the artefact is not for it.
    """
    platform = platform_of(device)
    if platform not in manifest.functions:
        raise TargetError(
            f"the artefact is for {' and '.join(manifest.functions)}, wanted {device}",
            where=str(path),
            hint=f"export the model for jax:{device}",
        )
    stacks = manifest.stacks()
    arrays = stacked(stacks, load_params(path.with_name(file_name(PARAMETERS, manifest.parameters))))
    return Session(callable_of(_function(path, manifest, platform), model), model, stacks, arrays, device)


def _function(path: Path, manifest: Manifest, platform: str) -> Any:
    file = path.with_name(file_name(FUNCTION, manifest.functions[platform]))
    function = imported(file.read_bytes(), str(file))
    expected = {name: (spec.shape, spec.dtype) for name, spec in specs(manifest.stacks()).items()}
    leaves = function.in_avals[: len(expected)]
    actual = {
        name: (leaf.shape, leaf.dtype) for name, leaf in zip(sorted(expected), leaves)
    }  # JAX sorts the keys of a dict
    if actual != expected or platform not in function.platforms:
        raise ArtefactError("the function does not take the parameters of the artefact", where=str(file))
    return function
