"""Read the tensors of another package's model from a module, a file, a folder, or a dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashir.arguments import shown
from flashir.errors import InputError, ParameterError
from flashir.files.foreign import SMALL, parse_json, read_bytes
from flashir.importing.importer import Held
from flashir.importing.named_arrays import is_tensor, named_arrays
from flashir.importing.read_module import is_module, read_module
from flashir.importing.read_pickle import read_pickle
from flashir.models.weight_file import INDEX, read

PICKLES = (".pt", ".pth", ".ckpt", ".bin")
CONFIG = "config.json"
AROUND = ("state_dict", "model_state_dict", "model")
"""Keys under which a file may store its tensors."""

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that `DataParallel` and `torch.compile` add to every name."""

KINDS = "a module of PyTorch, a .safetensors file or its .index.json, a .pt, .pth, .ckpt or .bin file, a folder of them"


def read_source(source: Any, prefix: str = "", formats: Sequence[str] = ()) -> Held:
    """The tensors of a source.

    Args:
        source: a live module, a path, or tensors by name.
        prefix: the prefix of the names to read; others are left out.
        formats: what else a model can be imported from, for messages.

    Raises:
        InputError: the source is something else, or a folder without exactly one file of tensors.
        ParameterError: the file cannot be read, is damaged or truncated, would run code, or holds no tensors.
        SettingError: a module has no submodule under the prefix.
    """
    if is_module(source):
        return read_module(source, prefix)
    if isinstance(source, Mapping):
        return _named(source, "tensors by name", prefix, {})
    kinds = ", ".join((KINDS, *formats))
    if not isinstance(source, str | Path):
        raise InputError(f"a model is imported from {kinds}, got {shown(source)}")
    path = Path(source)
    if not path.exists():
        raise InputError("there is no such file or folder", where=str(path))
    config: Mapping[str, Any] = {}
    if path.is_dir():
        path, config = _in_folder(path, kinds)
    if path.suffix == ".safetensors" or path.name.endswith(INDEX):
        return _named(read(path), str(path), prefix, config)
    if path.suffix not in PICKLES:
        raise InputError(f"this is none of {kinds}", where=str(path))
    return _named(read_pickle(path), str(path), prefix, config)


def _in_folder(folder: Path, kinds: str) -> tuple[Path, Mapping[str, Any]]:
    """The file of tensors in a folder, and the content of its config.json."""
    indices = sorted(folder.glob(f"*{INDEX}"))
    whole = [path for path in sorted(folder.glob("*.safetensors")) if not (indices and "-of-" in path.name)]
    files = indices + whole or [path for kind in PICKLES for path in sorted(folder.glob(f"*{kind}"))]
    if len(files) != 1:
        if not files:
            raise InputError(
                "the folder has no file of tensors", where=str(folder), hint=f"a model is imported from {kinds}"
            )
        several = ", ".join(path.name for path in files)
        raise InputError(f"the folder must have one file of tensors, it has several: {several}", where=str(folder))
    config = folder / CONFIG
    if not config.is_file():
        return files[0], {}
    content = read_bytes(config, InputError, largest=SMALL)
    return files[0], parse_json(content, config, InputError, dict[str, Any])


def _named(content: Any, where: str, prefix: str, config: Mapping[str, Any]) -> Held:
    """Extract the tensors by name from their containers."""
    notes = []
    for _ in AROUND:  # a dict may contain itself
        if not isinstance(content, Mapping) or not (key := next((k for k in AROUND if _is_table(content.get(k))), "")):
            break
        notes.append(f"the tensors are those under {key!r}")
        content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise ParameterError(f"it holds no tensors by name, but a {type(content).__name__}", where=where)
    arrays = named_arrays(content, where)
    if prefix:
        inside = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        if not inside:
            begins = sorted({name.split(".")[0] for name in arrays})
            problem = f"no name begins with {prefix!r}; they begin with {', '.join(begins[:10])}"
            raise ParameterError(problem, where=where)
        if left := len(arrays) - len(inside):
            notes.append(f"{left} tensors that do not begin with {prefix!r} are left out")
        arrays = inside
    while wrapper := next((w for w in WRAPPERS if all(name.startswith(w) for name in arrays)), ""):
        notes.append(f"the prefix {wrapper!r} of all names was removed")
        arrays = {name.removeprefix(wrapper): array for name, array in arrays.items()}
    return Held(arrays, where, config, notes=tuple(notes))


def _is_table(content: Any) -> bool:
    """Whether this is a dict that contains a tensor."""
    return isinstance(content, Mapping) and any(map(is_tensor, content.values()))
