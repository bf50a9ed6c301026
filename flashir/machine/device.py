"""The device that a target names, where this machine has it."""

from __future__ import annotations

from flashir.backends.registry import backend_of
from flashir.errors import TargetError
from flashir.machine.targets import target as find_target


def device_at_hand(target: str) -> str:
    """The device of a target, `cpu` of `onnx:cpu`. Raises TargetError where this machine has none."""
    device, found = find_target(target).device, backend_of(target)
    at_hand = found.devices()
    if device not in at_hand:
        raise TargetError(
            f"{target} cannot run here: the devices at hand for {found.name} are {', '.join(at_hand)}",
            hint=f"choose a target that is there, such as {found.name}:{next(iter(at_hand), 'cpu')}; "
            "`flashir plan` needs no device",
        )
    return device
