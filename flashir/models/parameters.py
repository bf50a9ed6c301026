"""Initialise, check, write and read the parameters of a model: float32 arrays by full name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args
from zlib import crc32

import numpy as np
import numpy.typing as npt

from flashir.arguments import typed
from flashir.errors import ParameterError, SettingError, option, suggest
from flashir.ir import Graph
from flashir.ir.op import ParamSpec, Scheme
from flashir.ir.parameter_count import parameter_count
from flashir.ir.parameter_names import parameters
from flashir.machine.memory import memory_for
from flashir.ops.layers.relative_bias import SHORT_SPAN
from flashir.reference.arrays import Array, as_array, as_float
from flashir.transforms.settle_choices import settle, slots

Params = Mapping[str, npt.NDArray[np.float32]]

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""The prefixes that `DataParallel` and its kin, `torch.compile`, and wrapper classes add to every name."""

LISTED = 5  # a warning shows at most so many names


@typed
def init(model: Graph, seed: int = 0, scheme: Scheme = "fan_in") -> dict[str, npt.NDArray[np.float32]]:
    """Initialise the parameters: `mean + std * normal`, with the mean and std of each record.

    Every parameter has its own random stream from the seed and its name. So models that share the name and shape of a
    parameter share its values. A chunk that is still `auto` counts as 256, the value of the paper.

    Args:
        model: the model.
        seed: a whole number from 0.
        scheme: `fan_in` starts a matrix at 1 / sqrt(its inputs), and the last norm at 1 / sqrt(width), so that layers
            keep the size of their input and logits begin small at any width; and a relative bias above 0, so that
            scores begin with a gradient. `paper` starts every weight at 0.02 and every norm at 1 (Codes 4, 5, 6, 8).

    Raises:
        SettingError: the seed is not a non-negative integer, or the scheme is unknown.
        ParameterError: the parameters do not fit in the memory of this machine.
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise SettingError(f"seed must be a whole number from 0, got {seed!r}")
    if scheme not in get_args(Scheme):
        raise SettingError(f"unknown scheme {scheme!r}{suggest(scheme, get_args(Scheme))}")

    def draw(name: str, spec: ParamSpec) -> npt.NDArray[np.float32]:
        mean, std = spec.start(scheme)
        if not std:
            return np.full(spec.shape, mean, np.float32)
        values = np.random.default_rng((seed, crc32(name.encode()))).standard_normal(spec.shape, np.float32)
        values *= np.float32(std)
        values += np.float32(mean)
        return values

    return _drawn(model, draw)


def unit(model: Graph, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Parameters of unit scale, to compare two implementations of a model.

    The parameters of `init` are so small that attention adds only a millionth to the logits, which hides its errors.
    These are normal, scaled so that every result has size one: a matrix is divided by the root of the size that it
    sums over, and the two factors of a long relative bias by its fourth root.

    Raises ParameterError if they do not fit in the memory of this machine.
    """

    def draw(name: str, spec: ParamSpec) -> npt.NDArray[np.float32]:
        summed = spec.shape[0] if name.endswith(".weight") and "embed" not in name and spec.shape else 1
        size = spec.shape[0] ** 0.25 if name.endswith(("rel_bias.a", "rel_bias.b")) else summed**0.5
        values = np.random.default_rng((seed, crc32(name.encode()))).standard_normal(spec.shape, np.float32)
        return np.asarray(values / np.float32(max(size, 1)), np.float32)

    return _drawn(model, draw)


def _drawn(
    model: Graph, draw: Callable[[str, ParamSpec], npt.NDArray[np.float32]]
) -> dict[str, npt.NDArray[np.float32]]:
    """Draw every parameter. Raises ParameterError if they do not fit in the memory of this machine."""
    needed = parameter_count(model) * np.dtype(np.float32).itemsize
    with memory_for(f"the parameters of @{model.name}", needed, ParameterError, hint="use a smaller model"):
        return {name: draw(name, spec) for name, spec in parameters(model).items()}


def fitted(model: Graph, params: Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
    """The parameters as NumPy arrays of their own dtype, by the names of the model. Other objects stay as they are.

    If all names have the prefix of a wrapper, such as `module.` of `DataParallel` or `_orig_mod.` of `torch.compile`,
    and more of them match the model without it, the prefix is removed with a warning.

    Args:
        model: the model; its chunk may be open.
        params: arrays of NumPy, PyTorch, JAX or ml_dtypes by name.
        strict: keep parameters that the model does not have, for `checked` to refuse. Otherwise they are left out with
            a warning.

    Raises:
        ParameterError: `params` is not a mapping.
    """
    if not isinstance(params, Mapping):
        raise ParameterError(f"must be arrays by name, got a {type(params).__name__}", where=_where(model))
    named = dict(params)
    prefixes = list(_prefixes(list(named)))
    if prefixes or not strict:
        known = possible_names(model)
        prefix = max(("", *prefixes), key=lambda prefix: sum(name.removeprefix(prefix) in known for name in named))
        if prefix:
            warnings.warn(f"the prefix {prefix!r} of all {len(named)} parameters was removed", stacklevel=2)
            named = {name.removeprefix(prefix): array for name, array in named.items()}
        if not strict and (extra := [str(name) for name in named if name not in known]):
            listed = ", ".join(extra[:LISTED]) + (f", .. ({len(extra)} in all)" if len(extra) > LISTED else "")
            warnings.warn(f"@{model.name} has no parameters {listed}: they are left out", stacklevel=2)
            named = {name: array for name, array in named.items() if name in known}
    for name, array in named.items():
        with suppress(ValueError):
            named[name] = as_array(array)
    return named


def checked(model: Graph, params: Mapping[str, Any], *, strict: bool = True) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters as float32 in the order of the model, after `fitted`.

    Raises:
        ParameterError: lists every parameter that is missing, misshapen, not a float array, or not finite, and if
            `strict` every unexpected one.
    """
    specs = parameters(model)
    named = fitted(model, params, strict=strict)
    problems = [f"{name} is missing: wanted shape {spec.shape}" for name, spec in specs.items() if name not in named]
    extra = [name for name in named if name not in specs]
    arrays = {}
    for name, spec in specs.items():
        if name in named:
            try:
                arrays[name] = _float32(named[name], spec.shape)
            except ValueError as error:
                problems.append(f"{name} {error}")
    if problems or extra:
        leaves_out = option("strict", False, flag="--no-strict")
        hint = "" if problems else f"{leaves_out} ignores parameters that the model does not have"
        problems += [f"unexpected parameter {name}{_near(str(name), specs)}" for name in extra]
        raise ParameterError(problems, where=_where(model), hint=hint)
    return arrays


@typed
def save_params(params: Mapping[str, Any], path: str | Path) -> None:
    """Write a safetensors file, with a SHA-256 of every tensor in its metadata.

    Args:
        params: arrays of NumPy, PyTorch, JAX or ml_dtypes by name; bfloat16 is written as float32.
        path: the file.

    Raises:
        ParameterError: lists every value that is not an array, or has a dtype that the format does not support.
        ArtefactError: the file cannot be written; an existing file stays unchanged.
    """
    from flashir.models.weight_file import write

    if not isinstance(params, Mapping):
        raise ParameterError(f"must be arrays by name, got a {type(params).__name__}", where=str(path))
    arrays, problems = {}, []
    for name, array in params.items():
        try:
            arrays[str(name)] = as_array(array)
        except ValueError as error:
            problems.append(f"{name} {error}")
    if problems:
        raise ParameterError(problems, where=str(path))
    write(Path(path), arrays)


@typed
def load_params(path: str | Path) -> dict[str, Array]:
    """Read a safetensors file. If it has digests, as written by `save_params`, every tensor is verified.

    A bfloat16 tensor is read as float32, other tensors in their own dtype.

    Raises:
        ParameterError: the file cannot be read, is another kind of file or truncated, or has a tensor that is damaged
            or of an unsupported dtype such as float8.
    """
    from flashir.models.weight_file import read

    return read(Path(path))


def rechunked(params: Params, chunk: int) -> dict[str, npt.NDArray[np.float32]]:
    """Adapt parameters to another chunk: short relative biases keep the common distances and are 0 elsewhere.

    Raises:
        ParameterError: one chunk is short and the other long (512 or more); these have different parameters (Code 4).
    """
    adapted = dict(params)
    for name, array in params.items():
        if name.endswith(("rel_bias.a", "rel_bias.w")) and name.endswith("w") != (chunk < SHORT_SPAN):
            raise ParameterError(f"{name} cannot become the bias of chunks of {chunk}", hint="train it for that chunk")
        if name.endswith("rel_bias.w"):
            change = chunk - (len(array) + 1) // 2
            adapted[name] = np.pad(array, change) if change >= 0 else np.ascontiguousarray(array[-change:change])
    return adapted


def possible_names(model: Graph) -> set[str]:
    """The names of the parameters, for every value of an open choice that changes the function."""
    changing = [slot for slot in slots(model) if slot.is_open and slot.choice.changes_function]
    settled = [settle(model, {slot.name: value}) for slot in changing for value in slot.candidates]
    return {name for graph in settled or [model] for name in parameters(graph)}


def _prefixes(names: Sequence[Any]) -> Iterator[str]:
    """Prefixes of all names that come from wrappers: `module.`, then `module._orig_mod.` for nested wrappers."""
    prefix = ""
    while more := next((wrapper for wrapper in WRAPPERS if names and _all_begin(names, prefix + wrapper)), ""):
        prefix += more
        yield prefix


def _all_begin(names: Sequence[Any], prefix: str) -> bool:
    return all(isinstance(name, str) and name.startswith(prefix) for name in names)


def _near(name: str, known: Iterable[str]) -> str:
    """A suggestion of a similar name of the model, or nothing."""
    suggestion = suggest(name, known)
    return suggestion if "did you mean" in suggestion else ""


def _where(model: Graph) -> str:
    return f"parameters of @{model.name}"


def _float32(param: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The array in float32. Raises ValueError if it does not fit."""
    array = as_float(param, np.float32)
    if array.shape != shape:
        raise ValueError(f"must have shape {shape}, got {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(index) for index in np.argwhere(~finite)[0])
        count = finite.size - np.count_nonzero(finite)
        raise ValueError(f"has {count} numbers that are not finite, the first at {first}")
    return array
