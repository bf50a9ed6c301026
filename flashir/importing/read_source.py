"""Where tensors of another package's model come from: a module, a file, a folder, or a table of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flashir.arguments import shown
from flashir.errors import InputError, ParameterError
from flashir.files.foreign import SMALL, parse_json, read_bytes
from flashir.importing.importer import Array, Held
from flashir.importing.read_module import is_module, read_module
from flashir.importing.read_pickle import read_pickle
from flashir.models.weight_file import INDEX, read
from flashir.reference.arrays import as_array

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
CONFIG = "config.json"
AROUND = ("state_dict", "model_state_dict", "model")
"""Under what a file may keep its tensors, beside other things."""

WRAPPERS = ("module.", "_orig_mod.")
"""What `DataParallel` and `torch.compile` put before every name."""

KINDS = "a module of PyTorch, a .safetensors file or its .index.json, a .pt, .pth, .ckpt or .bin file, a folder of them"


def read_source(source: Any, prefix: str = "") -> Held:
    """The tensors of a source.

    Args:
        source: a live module, a path, or tensors by name.
        prefix: what stands before the names that are meant; others are left out.

    Raises:
        InputError: it is none of these, or a folder with no file, or with several.
        ParameterError: the file cannot be read, is damaged or not all there, would run code, or holds no tensors.
        SettingError: a module has hooks.
    """
    if is_module(source):
        return read_module(source, prefix)
    if isinstance(source, Mapping):
        return _named(source, "tensors by name", prefix, {})
    if not isinstance(source, str | Path):
        raise InputError(f"a model is imported from {KINDS}, got {shown(source)}")
    path = Path(source)
    said: Mapping[str, Any] = {}
    if path.is_dir():
        path, said = _in_folder(path)
    if path.suffix == ".safetensors" or path.name.endswith(INDEX):
        return _named(read(path), str(path), prefix, said)
    if path.suffix not in PICKLES:
        raise InputError(f"this is none of {KINDS}", where=str(path))
    return _named(read_pickle(path), str(path), prefix, said)


def _in_folder(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The file of tensors in a folder, and what its config.json says."""
    indices = sorted(folder.glob(f"*{INDEX}"))
    whole = [path for path in sorted(folder.glob("*.safetensors")) if not (indices and "-of-" in path.name)]
    found = indices + whole or [path for kind in PICKLES for path in sorted(folder.glob(f"*{kind}"))]
    if len(found) != 1:
        several = f"several: {', '.join(path.name for path in found)}" if found else f"none of {KINDS}"
        raise InputError(f"the folder must have one file of tensors, it has {several}", where=str(folder))
    config = folder / CONFIG
    if not config.is_file():
        return found[0], {}
    content = read_bytes(config, InputError, largest=SMALL)
    return found[0], parse_json(content, config, InputError, dict[str, Any])


def _named(said: Any, where: str, prefix: str, config: Mapping[str, Any]) -> Held:
    """Tensors by name, out of what is around them."""
    notes = []
    while isinstance(said, Mapping) and (key := next((each for each in AROUND if _is_table(said.get(each))), None)):
        notes.append(f"the tensors are those under {key!r}")
        said = said[key]
    if not isinstance(said, Mapping) or not said:
        raise ParameterError(f"it holds no tensors by name, but {shown(said)}", where=where)
    arrays: dict[str, Array] = {}
    problems = []
    for name, each in said.items():
        try:
            array = as_array(each)
            if array.dtype == object or array.dtype.kind in "US":
                raise ValueError(f"must be a tensor, got {shown(each)}")
            arrays[str(name)] = array
        except ValueError as error:
            problems.append(f"{name} {error}")
    if problems:
        raise ParameterError(problems, where=where, hint="import a file that holds a state_dict alone")
    if prefix:
        inside = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        if not inside:
            begins = sorted({name.split(".")[0] for name in arrays})
            told = f"no name begins with {prefix!r}; they begin with {', '.join(begins[:10])}"
            raise ParameterError(told, where=where)
        if left := len(arrays) - len(inside):
            notes.append(f"{left} tensors that do not begin with {prefix!r} are left out")
        arrays = inside
    while wrapper := next((each for each in WRAPPERS if all(name.startswith(each) for name in arrays)), ""):
        notes.append(f"the prefix {wrapper!r} of all names was taken off")
        arrays = {name.removeprefix(wrapper): array for name, array in arrays.items()}
    return Held(arrays, where, config, notes=tuple(notes))


def _is_table(said: Any) -> bool:
    """Whether this is a table with a tensor in it."""
    return isinstance(said, Mapping) and any(
        hasattr(each, "shape") or isinstance(each, np.ndarray) for each in said.values()
    )
