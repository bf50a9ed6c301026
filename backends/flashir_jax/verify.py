"""What an artefact must be, and what it is when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flashir.backend import Verified
from flashir.errors import ArtefactError, TargetError
from flashir.ir import Graph
from flashir_jax.artefact import FUNCTION, PARAMETERS, Manifest, file_of, read_manifest, read_params
from flashir_jax.export import callable_of, imported, specs
from flashir_jax.layout import stacked
from flashir_jax.session import Session, platform_of


def verify(path: Path, devices: tuple[str, ...]) -> Verified:
    """Read a whole artefact, and compare what its parts say of each other.

    Raises:
        ArtefactError: a file is missing or damaged, or they do not belong together.
    """
    manifest = read_manifest(path)
    function = _function(path, manifest)
    params = read_params(file_of(path, manifest, PARAMETERS))
    stacked(manifest.stacks(), params)
    here = {platform_of(device) for device in devices}
    absent = [platform for platform in manifest.platforms if platform not in here]
    inputs = ", ".join(str(each) for each in function.in_avals[len(manifest.parameters) :])
    checks = [
        f"jax.export: calling convention {function.calling_convention_version}, inputs {inputs}",
        f"{len(params)} parameters as {len(manifest.parameters)} arrays, every digest verified",
    ]
    if absent:
        checks.append(
            f"one StableHLO module for {' and '.join(manifest.platforms)}; {' and '.join(absent)} is not at hand, "
            f"so the module has been run on {' and '.join(p for p in manifest.platforms if p in here)} alone"
        )
    return Verified((*checks, *manifest.notes))


def session(path: Path, manifest: Manifest, model: Graph, device: str) -> Session:
    """The function of an artefact with its parameters on a device.

    Raises:
        ArtefactError: the files do not belong together.
        TargetError: the device is not at hand, or the artefact is not for it.
    """
    if platform_of(device) not in manifest.platforms:
        raise TargetError(
            f"the artefact is for {' and '.join(manifest.platforms)}, wanted {device}",
            where=str(path),
            mend=f"export the model for jax:{device}",
        )
    stacks = manifest.stacks()
    arrays = stacked(stacks, read_params(file_of(path, manifest, PARAMETERS)))
    return Session(callable_of(_function(path, manifest), model), model, stacks, arrays, device)


def _function(path: Path, manifest: Manifest) -> Any:
    file = file_of(path, manifest, FUNCTION)
    function = imported(file.read_bytes(), str(file))
    wanted = {name: (spec.shape, spec.dtype) for name, spec in specs(manifest.stacks()).items()}
    leaves = function.in_avals[: len(wanted)]
    taken = {name: (leaf.shape, leaf.dtype) for name, leaf in zip(sorted(wanted), leaves)}  # as JAX orders a dict
    if taken != wanted or set(function.platforms) != set(manifest.platforms):
        raise ArtefactError("the function does not take the parameters of the artefact", where=str(file))
    return function
