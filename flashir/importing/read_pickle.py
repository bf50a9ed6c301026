"""Read only tensors from PyTorch pickles, without running code, and with no more memory than the size of the file.

A file is checked before PyTorch reads it with `weights_only`.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flashir.errors import ParameterError, TargetError
from flashir.files.foreign import guarded, opened
from flashir.machine.memory import total_memory

PROBLEM = "cannot read the tensors"
_CODE = re.compile(r"GLOBAL ([\w.]+)")
HINT = "save it as safetensors, where it is yours: safetensors.torch.save_file(model.state_dict(), 'p.safetensors')"


def read_pickle(path: Path) -> Any:
    """Read a file of `torch.save`: tensors in lists and dicts, and plain values.

    Raises:
        TargetError: PyTorch is not installed.
        ParameterError: it is not such a file, is truncated, would run code, or does not fit in memory.
    """
    try:
        import torch
    except ImportError as error:
        problem = "PyTorch reads pickles, and is not installed"
        raise TargetError(problem, where=str(path), hint="pip install 'flashir[torch]'") from error
    with opened(path, ParameterError, problem=PROBLEM) as file:
        size = os.fstat(file.fileno()).st_size
        if size > total_memory():
            raise ParameterError(f"{PROBLEM}: it has {size:,} bytes, more than this machine's memory", where=str(path))
        _check_archive(path)
        with guarded(path, ParameterError, PROBLEM, HINT):
            content = _loaded(torch, file)
        _check_size(content, size, path)
        return content


def _loaded(torch: Any, file: Any) -> Any:
    """The content of a file. Raises ValueError that says what is wrong: PyTorch's own words are about its options."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        if code := _CODE.search(str(error)):
            raise ValueError(f"it holds {code[1]} besides tensors, and reading that runs code") from error
        raise ValueError("this is not a file of torch.save, or it is truncated") from error


def _check_archive(path: Path) -> None:
    """Raise ParameterError for a compressed archive, whose content could have any size. PyTorch never writes one."""
    if not zipfile.is_zipfile(path):
        return
    with guarded(path, ParameterError, PROBLEM), zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ParameterError(f"{PROBLEM}: {packed[0]} in it is compressed, which PyTorch never does", where=str(path))


def _check_size(content: Any, size: int, path: Path) -> None:
    """Raise ParameterError if a tensor is larger than the file, for example by strides of 0."""
    import torch

    for name, leaf in _leaves(content):
        if isinstance(leaf, torch.Tensor) and leaf.numel() * leaf.element_size() > size:
            raise ParameterError(f"{PROBLEM}: {name} has {leaf.numel():,} numbers, more than the file", where=str(path))


def _leaves(content: Any) -> Iterator[tuple[str, Any]]:
    """What is in no container, with its name. A pickle may hold one container in many places, and in itself."""
    seen, pending = {id(content)}, [("", content)]
    while pending:
        name, item = pending.pop()
        if isinstance(item, Mapping):
            inside = [(f"{name}.{key}" if name else str(key), value) for key, value in item.items()]
        elif isinstance(item, list | tuple):
            inside = [(f"{name}[{index}]", value) for index, value in enumerate(item)]
        else:
            yield name, item
            continue
        pending += [(place, value) for place, value in inside if id(value) not in seen]
        seen.update(id(value) for _, value in inside)
