"""The checks of a JAX artefact before it is committed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flashir_jax.devices import platform_of
from flashir_jax.layout import stacked
from flashir_jax.stored import Loaded


def verify(loaded: Loaded, devices: tuple[str, ...]) -> tuple[str, ...]:
    """Check that the parameters of an artefact are those of its function.

    Returns a line for each check, those of `read` included.

    Raises:
        ArtefactError: a parameter is missing, or has another shape.
    """
    manifest, here = loaded.manifest, {platform_of(device) for device in devices}
    stacked(manifest.stacks(), loaded.params)
    first = next(iter(loaded.functions.values()))
    inputs = first.in_avals[len(manifest.layouts) :]
    return (
        f"jax.export: calling convention {first.calling_convention_version}, inputs {', '.join(map(str, inputs))}",
        _what_is_open([size for aval in inputs for size in aval.shape]),
        f"{len(loaded.params)} parameters as {len(manifest.layouts)} arrays, every digest verified",
        *_what_ran(loaded, here),
        *manifest.notes,
    )


def _what_is_open(shape: Sequence[Any]) -> str:
    """Which sizes of the inputs are symbolic, and how JAX limits them."""
    names = sorted({str(size) for size in shape if not isinstance(size, int)})
    if not names:
        return "no size is open: it accepts only inputs of these shapes"
    return f"{' and '.join(names)} open, any number from 1 on; for 0 the result is empty, without running the module"


def _what_ran(loaded: Loaded, here: set[str]) -> tuple[str, ...]:
    """Which platforms were not available for the check."""
    functions = loaded.manifest.functions
    absent = [platform for platform in functions if platform not in here]
    if not absent:
        return ()
    names, shared = " and ".join(functions), len(set(functions.values())) == 1
    what = f"one StableHLO module for {names}" if shared else f"a StableHLO module each for {names}"
    rest = "it runs" if shared else "only the other runs"
    return (f"{what}; {' and '.join(absent)} is not available, {rest} on cpu here",)
