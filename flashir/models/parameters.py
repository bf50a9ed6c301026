"""Parameters of a model: made, checked, written and read. They are float32 arrays by full name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from flashir.arguments import typed
from flashir.errors import ParameterError, SettingError, option, suggest
from flashir.ir import Graph
from flashir.ir.op import ParamSpec
from flashir.ir.parameter_count import parameter_count
from flashir.ir.parameter_names import parameters
from flashir.machine.memory import memory_for
from flashir.ops.layers.relative_bias import SHORT_SPAN
from flashir.reference.arrays import Array, as_array, as_float
from flashir.transforms.settle_choices import settle, slots

Params = Mapping[str, npt.NDArray[np.float32]]

WRAPPERS = ("module.", "_orig_mod.", "model.")
"""What `DataParallel` and its kin, `torch.compile`, and classes around a model put before every name."""

LISTED = 5  # names that a warning shows


@typed
def init(model: Graph, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Fresh parameters, each drawn by its record: `mean + std * normal` (Codes 2 to 8).

    Every parameter has a stream of its own, from the seed and its name, so that models that share a parameter's
    name and shape share its values too. A chunk that is still `auto` counts as 256, the paper's.

    Raises:
        SettingError: the seed is no whole number from 0.
        ParameterError: this machine has no memory for them.
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise SettingError(f"seed must be a whole number from 0, got {seed!r}")

    def draw(name: str, spec: ParamSpec) -> npt.NDArray[np.float32]:
        if not spec.std:
            return np.full(spec.shape, spec.mean, np.float32)
        values = np.random.default_rng((seed, crc32(name.encode()))).standard_normal(spec.shape, np.float32)
        values *= np.float32(spec.std)
        values += np.float32(spec.mean)
        return values

    return _drawn(model, draw)


def unit(model: Graph, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Parameters at which every term of a model matters, to compare two ways of computing it.

    Those of `init` are so small that attention adds a millionth to the logits, where its errors hide. These are
    normal, each divided so that what it makes is of size one: matrices by the root of what they sum over, the two
    whose products are summed in a long relative bias by the fourth root.

    Raises ParameterError where this machine has no memory for them.
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
    """Each parameter as `draw` makes it. Raises ParameterError where this machine has no memory for them."""
    needed = parameter_count(model) * np.dtype(np.float32).itemsize
    with memory_for(f"the parameters of @{model.name}", needed, ParameterError, hint="use a smaller model"):
        return {name: draw(name, spec) for name, spec in parameters(model).items()}


def fitted(model: Graph, params: Mapping[str, Any], *, strict: bool = True) -> dict[str, Any]:
    """The parameters by the names of the model, as arrays of whatever type they have; what is no array stays as it is.

    A prefix that all names have from a wrapper, such as `module.` of `DataParallel` or `_orig_mod.` of `torch.compile`,
    is taken off with a warning where more of them are names of the model then.

    Args:
        model: its chunk may be open.
        params: arrays of numpy, PyTorch, JAX or ml_dtypes by name.
        strict: keep what the model does not have, for `checked` to refuse; else it is left out with a warning.

    Raises:
        ParameterError: they are no mapping.
    """
    if not isinstance(params, Mapping):
        raise ParameterError(f"must be arrays by name, got a {type(params).__name__}", where=_where(model))
    named = dict(params)
    prefixes = list(_prefixes(list(named)))
    if prefixes or not strict:
        wanted = _names(model)
        prefix = max(("", *prefixes), key=lambda prefix: sum(name.removeprefix(prefix) in wanted for name in named))
        if prefix:
            warnings.warn(f"the prefix {prefix!r} of all {len(named)} parameters was taken off", stacklevel=2)
            named = {name.removeprefix(prefix): array for name, array in named.items()}
        if not strict and (extra := [str(name) for name in named if name not in wanted]):
            shown = ", ".join(extra[:LISTED]) + (f", .. ({len(extra)} in all)" if len(extra) > LISTED else "")
            warnings.warn(f"@{model.name} has no parameters {shown}: they are left out", stacklevel=2)
            named = {name: array for name, array in named.items() if name in wanted}
    for name, array in named.items():
        with suppress(ValueError):
            named[name] = as_array(array)
    return named


def checked(model: Graph, params: Mapping[str, Any], *, strict: bool = True) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters as float32, in the order of the model; of `params` as `fitted` takes them.

    Raises:
        ParameterError: every one that is missing, misshapen, no number, or not finite; where `strict`, also every one
            that the model does not have.
    """
    wanted = parameters(model)
    given = fitted(model, params, strict=strict)
    problems = [f"{name} is missing: wanted shape {spec.shape}" for name, spec in wanted.items() if name not in given]
    extra = [name for name in given if name not in wanted]
    made = {}
    for name, spec in wanted.items():
        if name in given:
            try:
                made[name] = _float32(given[name], spec.shape)
            except ValueError as error:
                problems.append(f"{name} {error}")
    if problems or extra:
        leaves_out = option("strict", False, flag="--no-strict")
        hint = "" if problems else f"{leaves_out} leaves out what the model does not have"
        problems += [f"{name} is none of this model{_near(str(name), wanted)}" for name in extra]
        raise ParameterError(problems, where=_where(model), hint=hint)
    return made


@typed
def save_params(params: Mapping[str, Any], path: str | Path) -> None:
    """Write a safetensors file, with a SHA-256 of every tensor in its metadata.

    Args:
        params: arrays of numpy, PyTorch, JAX or ml_dtypes by name; bfloat16 is written as the same float32.
        path: the file.

    Raises:
        ParameterError: every one that is no array, or has a type that the format does not have.
        ArtefactError: the file cannot be written; what stood there before is whole.
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
    """Read a safetensors file; where it carries digests, as those of `save_params` do, every tensor is verified.

    A bfloat16 is read as float32, which holds each of them; other types are read as they are.

    Raises:
        ParameterError: the file cannot be read, is another kind of file, is cut short, has a tensor of float8 or of
            another type that is not read, or one that is damaged.
    """
    from flashir.models.weight_file import read

    return read(Path(path))


def rechunked(params: Params, chunk: int) -> dict[str, npt.NDArray[np.float32]]:
    """The parameters for another chunk: short relative biases keep the distances that both have, the rest is 0.

    Raises:
        ParameterError: one of the chunks is short, the other long (512 or more), which have other parameters (Code 4).
    """
    made = dict(params)
    for name, array in params.items():
        if name.endswith(("rel_bias.a", "rel_bias.w")) and name.endswith("w") != (chunk < SHORT_SPAN):
            raise ParameterError(f"{name} cannot become the bias of chunks of {chunk}", hint="train it for that chunk")
        if name.endswith("rel_bias.w"):
            change = chunk - (len(array) + 1) // 2
            made[name] = np.pad(array, change) if change >= 0 else np.ascontiguousarray(array[-change:change])
    return made


def _names(model: Graph) -> set[str]:
    """The names of the parameters; where a choice that changes the function is open, those of any value of it."""
    changing = [slot for slot in slots(model) if slot.is_open and slot.choice.changes_function]
    settled = [settle(model, {slot.name: value}) for slot in changing for value in slot.candidates]
    return {name for graph in settled or [model] for name in parameters(graph)}


def _prefixes(names: Sequence[Any]) -> Iterator[str]:
    """What wrappers may have put before all names: `module.`, and `module._orig_mod.` where they lie in each other."""
    prefix = ""
    while more := next((each for each in WRAPPERS if names and _all_begin(names, prefix + each)), ""):
        prefix += more
        yield prefix


def _all_begin(names: Sequence[Any], prefix: str) -> bool:
    return all(isinstance(name, str) and name.startswith(prefix) for name in names)


def _near(name: str, wanted: Iterable[str]) -> str:
    """A name of the model that is nearly the same, as a question; nothing where none is."""
    told = suggest(name, wanted)
    return told if "did you mean" in told else ""


def _where(model: Graph) -> str:
    return f"parameters of @{model.name}"


def _float32(given: Any, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """The array in float32. Raises ValueError with what is wrong with it."""
    made = as_float(given, np.float32)
    if made.shape != shape:
        raise ValueError(f"must have shape {shape}, got {made.shape}")
    finite = np.isfinite(made)
    if not finite.all():
        first = tuple(int(index) for index in np.argwhere(~finite)[0])
        count = finite.size - np.count_nonzero(finite)
        raise ValueError(f"has {count} numbers that are not finite, the first at {first}")
    return made
