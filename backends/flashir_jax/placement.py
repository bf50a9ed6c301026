"""The placement of a model in training: on one device, or sharded over a mesh.

A mesh has three axes (`flashir_jax.mesh`): rows are sharded over `data` and `shards`, parameters and optimiser state
over `shards`, tokens over `sequence`. XLA partitions the program and sums gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flashir.backends.protocols import Array
from flashir.errors import InputError, TargetError
from flashir.ir import Node
from flashir.machine.processes import Processes
from flashir_jax.devices import device_of, devices_of
from flashir_jax.layout import Stack
from flashir_jax.mesh import AXES, NAME, SHARDS, Axes
from flashir_jax.sequence import TOKENS, Run, attend, summed

WHOLE = PartitionSpec()


class Placement:
    """Everything on one device, by default JAX's own."""

    is_first = True

    def __init__(self, device: Any = None) -> None:
        self._device = device

    def together(self) -> AbstractContextManager[Any]:
        """The context in which programs run. Raises TargetError if another process is gone."""
        context: AbstractContextManager[Any] = jax.default_device(self._device)
        return context

    def laid(self, stack: Stack, array: Array) -> Any:
        """Place a stacked parameter, or an array of the same layout. A copy, because the step donates its memory."""
        return jnp.array(array, device=self._device)

    def number(self, value: int) -> Any:
        """A number on all devices, int32 []."""
        return jnp.asarray(value, jnp.int32, device=self._device)

    def tokens(self, array: Array, missing: int = 0) -> Any:
        """An input, or labels: [b, t], [b, t, d] or [b]. Rows of `missing` may be added."""
        return array

    def whole(self, array: Any) -> Array:
        """A parameter, or an array of the same layout, as float32 in the first process; empty in the others."""
        return np.array(array, np.float32)

    def agreed(self, wish: bool) -> bool:
        """Whether any process passes True."""
        return wish

    def held(self, stack: Stack, array: Any) -> Any:
        """In a program: constrain a result to the placement of `laid`."""
        return array

    def used(self, array: Any) -> Any:
        """In a program: gather a parameter of one layer for its use."""
        return array

    def layer(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """In a program: wrap a layer to choose what is saved for the backward pass."""
        return layer

    def linear_attention(self, node: Node, run: Run, *operands: Any) -> Any:
        """In a program: the op `linear_attention`, if it is claimed. Sizes may be symbolic, as in an export."""
        shapes = tuple(value.type.shape for value in node.operands)
        return run(summed(node, shapes, str(node.attrs["lin_norm"])), operands)[0]


class Spread(Placement):
    """Sharded over a mesh of all devices of all processes, or of some devices of this one."""

    def __init__(self, mesh: Mesh, processes: Processes) -> None:
        super().__init__()
        self.mesh = mesh
        self.processes = processes
        self.is_first = processes.is_first
        self._gathered = jax.jit(lambda x: x, out_shardings=self._over(WHOLE))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn a closed or silent connection to another process into TargetError."""
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if self.processes.count == 1:
                raise
            raise TargetError(
                f"process {self.processes.rank} of {self.processes.count} has lost another one: {error}",
                where="jax",
                hint="find the one that failed; start all of them again from the last checkpoint",
            ) from error

    def laid(self, stack: Stack, array: Array) -> Any:
        """Every process holds the whole array, so nothing is sent."""
        return self._distributed(array, self._stacked(stack))

    def number(self, value: int) -> Any:
        """A number on all devices."""
        return self._distributed(np.asarray(value, np.int32), WHOLE)

    def tokens(self, array: Array, missing: int = 0) -> Any:
        """Pad rows to a multiple of the devices. Raises InputError if tokens cannot be sharded evenly."""
        data, shards, sequence = (self.mesh.shape[axis] for axis in AXES)
        rows, *rest = array.shape
        length = rest[0] if rest else 0
        if length % sequence:
            raise InputError(
                f"{length} tokens cannot be sharded evenly over {sequence} devices",
                where="jax",
                hint=f"use a length that is a multiple of {sequence}, in whole chunks",
            )
        added = ((0, -rows % (data * shards)), *[(0, 0)] * len(rest))
        spec = PartitionSpec(*tuple(TOKENS)[: array.ndim])
        return self._distributed(np.pad(array, added, constant_values=missing), spec)

    def whole(self, array: Any) -> Array:
        """Gather a sharded array in all processes, and return it in the first."""
        if not array.is_fully_addressable:
            array = self._gathered(array).addressable_data(0)
        return super().whole(array if self.is_first else ())

    def agreed(self, wish: bool) -> bool:
        """One vote per device, summed over all."""
        if self.processes.count == 1:
            return wish
        votes = self._distributed(np.full(self.mesh.size, wish), PartitionSpec(AXES))
        with self.together():
            return bool(np.any(self._gathered(votes).addressable_data(0)))

    def held(self, stack: Stack, array: Any) -> Any:
        """See Placement."""
        return lax.with_sharding_constraint(array, self._over(self._stacked(stack)))

    def used(self, array: Any) -> Any:
        """Gather the parameter; its gradient is reduce-scattered."""
        cut = self._cut(array.shape)
        return array if cut == WHOLE else _gathering(self._over(cut), self._over(WHOLE))(array)

    def layer(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """Gather parameters again in the backward pass; otherwise each device would hold those of all layers."""
        return layer if self.mesh.shape[SHARDS] == 1 else jax.checkpoint(layer, policy=_but_gathered, prevent_cse=False)

    def linear_attention(self, node: Node, run: Run, *operands: Any) -> Any:
        """Each device computes its own chunks."""
        return attend(self.mesh, node, run, *operands)

    def _stacked(self, stack: Stack) -> PartitionSpec:
        return PartitionSpec(*(None for _ in stack.rounds), *self._cut(stack.shape))

    def _cut(self, shape: tuple[int, ...]) -> PartitionSpec:
        """Shard the longest axis that divides evenly. Parameters without one are replicated."""
        shards = self.mesh.shape[SHARDS]
        axes = [axis for axis, size in enumerate(shape) if size % shards == 0 and shards > 1]
        if not axes:
            return WHOLE
        longest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*(SHARDS if axis == longest else None for axis in range(len(shape))))

    def _distributed(self, array: Array, spec: PartitionSpec) -> Any:
        return jax.make_array_from_callback(array.shape, self._over(spec), lambda index: array[index])

    def _over(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)


@cache
def _gathering(cut: NamedSharding, whole: NamedSharding) -> Callable[[Any], Any]:
    """Gather a sharded array; its gradient is reduce-scattered."""

    @jax.custom_vjp
    def gathered(array: Any) -> Any:
        return lax.with_sharding_constraint(lax.with_sharding_constraint(array, cut), whole)

    def there(array: Any) -> tuple[Any, None]:
        return gathered(array), None

    def back(_: None, slope: Any) -> tuple[Any]:
        return (lax.with_sharding_constraint(slope, cut),)

    gathered.defvjp(there, back)
    return gathered


def _but_gathered(primitive: Any, *_: Any, **__: Any) -> bool:
    """A policy of jax.checkpoint: save everything but gathered parameters, the only custom_vjp of our rules."""
    return str(primitive.name) != "custom_vjp_call"


def placement(device: str) -> Placement:
    """The placement from the environment: one device, or the mesh of FLASHIR_MESH.

    Several processes without a mesh shard over all their devices.

    Raises:
        SettingError: FLASHIR_MESH is invalid.
        TargetError: there are too few devices, or the processes do not find each other.
    """
    processes, axes = Processes.here(), Axes.here()
    if axes is None and processes.count == 1:
        return Placement(device_of(device))
    devices = devices_of(device)
    axes = axes or Axes(shards=len(devices))
    count = prod(axes.sizes)
    if count > len(devices) or (processes.count > 1 and count < len(devices)):
        raise TargetError(
            f"{NAME} asks for {count} devices, and {processes.count} processes have {len(devices)}",
            where="jax",
            hint="on a CPU, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N devices",
        )
    return Spread(Mesh(np.array(devices[:count]).reshape(axes.sizes), AXES), processes)
