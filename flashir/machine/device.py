"""The device of a target, if this machine has it."""

from __future__ import annotations

from flashir.backends.registry import backend_of
from flashir.errors import TargetError
from flashir.machine.targets import target as find_target


def available_device(target: str) -> str:
    """The device of a target, `cpu` for `onnx:cpu`. Raises TargetError if it is not available."""
    device, backend = find_target(target).device, backend_of(target)
    available = backend.devices()
    if device not in available:
        raise TargetError(
            f"{target} cannot run here: the available devices for {backend.name} are {', '.join(available)}",
            hint=f"choose an available target, such as {backend.name}:{next(iter(available), 'cpu')}; "
            "`flashir plan` needs no device",
        )
    return device
