"""Load an artefact: its model, its functions and its parameters, and all of them as a session."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashir.backends.protocols import MODEL_TEXT, Params
from flashir.errors import ArtefactError, TargetError
from flashir.ir import Graph, loads
from flashir.models.parameters import load_params
from flashir_jax.artefact import FUNCTION, PARAMETERS, Manifest, file_name, read_manifest
from flashir_jax.devices import platform_of
from flashir_jax.export import callable_of, imported, specs
from flashir_jax.layout import stacked
from flashir_jax.session import Session


@dataclass(frozen=True)
class Loaded:
    """A loaded artefact.

    Args:
        model: the model at the level of blocks.
        manifest: its main file.
        functions: the exported function for each platform.
        params: the parameters by full name.
        path: the path of its main file.
    """

    model: Graph
    manifest: Manifest
    functions: Mapping[str, Any]
    params: Params
    path: Path

    def session(self, device: str) -> Session:
        """The function with its parameters on a device.

        Raises:
            ArtefactError: the parameters are not those of the function.
            TargetError: the device is not available, or the artefact is not for it.
        """
        platform = platform_of(device)
        if platform not in self.functions:
            raise TargetError(
                f"the artefact is for {' and '.join(self.functions)}, wanted {device}",
                where=str(self.path),
                hint=f"export the model for jax:{device}",
            )
        stacks = self.manifest.stacks()
        call = callable_of(self.functions[platform], self.model)
        return Session(call, self.model, stacks, stacked(stacks, self.params), device)


def read(path: Path) -> Loaded:
    """Load an artefact after verifying every digest, and check that its files fit together.

    Raises:
        ArtefactError: a file is missing or damaged, or the files do not belong together.
        IRError: another version of flashir wrote the text of the model.
    """
    manifest = read_manifest(path)
    model = loads(manifest.metadata[MODEL_TEXT], str(path))
    modules = {digest: _function(path, manifest, digest) for digest in set(manifest.functions.values())}
    functions = {platform: modules[digest] for platform, digest in manifest.functions.items()}
    for platform, function in functions.items():
        if platform not in function.platforms:
            raise ArtefactError(f"the function is not for {platform}", where=str(path))
    params = load_params(path.with_name(file_name(PARAMETERS, manifest.parameters)))
    return Loaded(model, manifest, functions, params, path)


def _function(path: Path, manifest: Manifest, digest: str) -> Any:
    """The function of a file. Raises ArtefactError if it does not take the parameters of the manifest."""
    file = path.with_name(file_name(FUNCTION, digest))
    function = imported(file.read_bytes(), str(file))
    expected = {name: (spec.shape, spec.dtype) for name, spec in specs(manifest.stacks()).items()}
    leaves = function.in_avals[: len(expected)]
    actual = {
        name: (leaf.shape, leaf.dtype) for name, leaf in zip(sorted(expected), leaves)
    }  # JAX sorts the keys of a dict
    if actual != expected:
        raise ArtefactError("the function does not take the parameters of the artefact", where=str(file))
    return function
