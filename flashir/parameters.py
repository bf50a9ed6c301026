"""Parameters of a model: made, checked, written and read. They are float32 arrays by full name."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from flashir.errors import ParameterError, SettingError, suggest
from flashir.ir import Graph
from flashir.ir.naming import parameters

Params = Mapping[str, npt.NDArray[np.float32]]
DIGESTS = "flashir.sha256"


def init(model: Graph, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Fresh parameters, each drawn by its record: `mean + std * normal` (Codes 2 to 8).

    Every parameter has a stream of its own, from the seed and its name, so that models that share a parameter's
    name and shape share its values too. A chunk that is still `auto` counts as 256, the paper's.

    Raises:
        SettingError: the seed is no whole number from 0.
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise SettingError(f"seed must be a whole number from 0, got {seed!r}")
    made = {}
    for name, spec in parameters(model).items():
        if spec.std:
            values = np.random.default_rng((seed, crc32(name.encode()))).standard_normal(spec.shape, np.float32)
            values *= np.float32(spec.std)
            values += np.float32(spec.mean)
        else:
            values = np.full(spec.shape, spec.mean, np.float32)
        made[name] = values
    return made


def unit(model: Graph, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Parameters at which every term of a model matters, to compare two ways of computing it.

    Those of `init` are so small that attention adds a millionth to the logits, where its errors hide. These are
    normal, each divided so that what it makes is of size one: matrices by the root of what they sum over, the two
    whose products are summed in a long relative bias by the fourth root.
    """
    made = {}
    for name, spec in parameters(model).items():
        summed = spec.shape[0] if name.endswith(".weight") and "embed" not in name and spec.shape else 1
        size = spec.shape[0] ** 0.25 if name.endswith(("rel_bias.a", "rel_bias.b")) else summed**0.5
        values = np.random.default_rng((seed, crc32(name.encode()))).standard_normal(spec.shape, np.float32)
        made[name] = np.asarray(values / np.float32(max(size, 1)), np.float32)
    return made


def checked(model: Graph, params: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters as float32, in the order of the model.

    Raises:
        ParameterError: every one that is missing, extra, misshapen, no number, or not finite.
    """
    wanted = parameters(model)
    problems = [f"{name} is missing: wanted shape {spec.shape}" for name, spec in wanted.items() if name not in params]
    problems += [f"{name} is none of this model{suggest(str(name), wanted)}" for name in params if name not in wanted]
    made = {}
    for name, spec in wanted.items():
        if name in params:
            try:
                made[name] = _float32(params[name], spec.shape)
            except ValueError as error:
                problems.append(f"{name} {error}")
    if problems:
        raise ParameterError(problems, where=f"parameters of @{model.name}")
    return made


def save_params(params: Mapping[str, npt.NDArray[Any]], path: str | Path) -> None:
    """Write a safetensors file, with a SHA-256 of every tensor in its metadata.

    Raises:
        ArtefactError: the file cannot be written; what stood there before is whole.
    """
    from flashir.files import atomic_write

    arrays = {name: np.asarray(array, order="C") for name, array in params.items()}
    digests = {name: _digest(array) for name, array in arrays.items()}
    atomic_write(Path(path), lambda file: _save_file(arrays, file.name, {DIGESTS: json.dumps(digests)}))


def load_params(path: str | Path) -> dict[str, npt.NDArray[Any]]:
    """Read a safetensors file; where it carries digests, as those of `save_params` do, every tensor is verified.

    Raises:
        ParameterError: the file cannot be read, is cut short, or a tensor is damaged.
    """
    from safetensors import SafetensorError, safe_open

    arrays: dict[str, npt.NDArray[Any]] = {}
    try:
        with safe_open(str(path), "numpy") as file:
            digests = json.loads((file.metadata() or {}).get(DIGESTS, "{}"))
            arrays.update((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise ParameterError(f"cannot read the parameters: {error}", where=str(path)) from None
    damaged = list(_damaged(arrays, digests))
    if damaged:
        raise ParameterError(damaged, where=str(path), mend="the file changed since it was written; get a good copy")
    return arrays


def rechunked(params: Params, chunk: int) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters for another chunk: short relative biases keep the distances that both have, the rest is 0.

    Raises:
        ParameterError: one of the chunks is short, the other long (512 or more), which have other parameters (Code 4).
    """
    from flashir.ops.bias import SHORT_SPAN

    made = dict(params)
    for name, array in params.items():
        if name.endswith(("rel_bias.a", "rel_bias.w")) and name.endswith("w") != (chunk < SHORT_SPAN):
            raise ParameterError(f"{name} cannot become the bias of chunks of {chunk}", mend="train it for that chunk")
        if name.endswith("rel_bias.w"):
            change = chunk - (len(array) + 1) // 2
            made[name] = np.pad(array, change) if change >= 0 else np.ascontiguousarray(array[-change:change])
    return made


def _float32(given: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The array in float32. Raises ValueError with what is wrong with it."""
    try:
        array = np.asarray(given)
    except ValueError:
        raise ValueError(f"must be an array of shape {shape}, got rows of several lengths") from None
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"must hold floating-point numbers, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"must have shape {shape}, got {array.shape}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and so found below
        made = np.asarray(array, np.float32)
    finite = np.isfinite(made)
    if not finite.all():
        first = tuple(int(index) for index in np.argwhere(~finite)[0])
        count = finite.size - np.count_nonzero(finite)
        raise ValueError(f"has {count} numbers that are not finite, the first at {first}")
    return made


def _save_file(arrays: Mapping[str, npt.NDArray[Any]], path: str, metadata: dict[str, str]) -> None:
    """Write a safetensors file. Raises OSError, which the library tells in words alone."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(dict(arrays), path, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _digest(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


def _damaged(arrays: Mapping[str, npt.NDArray[Any]], digests: Mapping[str, str]) -> Iterator[str]:
    for name, digest in digests.items():
        if name not in arrays:
            yield f"{name} is missing"
        elif _digest(arrays[name]) != digest:
            yield f"{name} is damaged: its SHA-256 is not the one that was written with it"
