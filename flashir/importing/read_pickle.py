"""PyTorch pickles, read as tensors alone: no code in them runs, and none of them takes more memory than its file has.

A file is looked through before PyTorch reads it, and PyTorch reads it with `weights_only`.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashir.errors import ParameterError, TargetError
from flashir.files.foreign import guarded, opened
from flashir.machine.memory import total_memory

PROBLEM = "cannot read the tensors"
HINT = "save it as safetensors, where it is yours: safetensors.torch.save_file(model.state_dict(), 'p.safetensors')"


def read_pickle(path: Path) -> Any:
    """What a file of `torch.save` holds: tensors, in lists and tables, and plain values.

    Raises:
        TargetError: PyTorch is not installed.
        ParameterError: it is no such file, or not all of one; it would run code, or take more memory than there is.
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
            said = torch.load(file, map_location="cpu", weights_only=True)
        _check_size(said, size, path)
        return said


def _check_archive(path: Path) -> None:
    """Raises ParameterError where an archive is packed, which PyTorch never does, so that it could become anything."""
    if not zipfile.is_zipfile(path):
        return
    with guarded(path, ParameterError, PROBLEM), zipfile.ZipFile(path) as archive:
        packed = [entry.filename for entry in archive.infolist() if entry.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise ParameterError(f"{PROBLEM}: {packed[0]} in it is compressed, which PyTorch never does", where=str(path))


def _check_size(said: Any, size: int, path: Path) -> None:
    """Raises ParameterError where tensors claim more than the file holds, as by strides of 0."""
    import torch

    for name, each in _leaves(said):
        if isinstance(each, torch.Tensor) and each.numel() * each.element_size() > size:
            raise ParameterError(f"{PROBLEM}: {name} has {each.numel():,} numbers, more than the file", where=str(path))


def _leaves(said: Any, name: str = "") -> Any:
    if isinstance(said, Mapping):
        for key, each in said.items():
            yield from _leaves(each, f"{name}.{key}" if name else str(key))
    elif isinstance(said, list | tuple):
        for index, each in enumerate(said):
            yield from _leaves(each, f"{name}[{index}]")
    else:
        yield name, said
