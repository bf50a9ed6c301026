"""Where a model in training lies: on one device, or over a mesh of them. Nothing else of training knows.

A mesh has three axes (`flashir_jax.mesh`): rows are dealt out over `data` and `shards`, parameters and what the
optimiser knows of them are cut over `shards`, tokens over `sequence`. XLA divides the program and adds up gradients.
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
    """All on one device; without one, on that which JAX takes."""

    is_first = True

    def __init__(self, device: Any = None) -> None:
        self._device = device

    def together(self) -> AbstractContextManager[Any]:
        """Where programs run. Raises TargetError where another process is gone."""
        found: AbstractContextManager[Any] = jax.default_device(self._device)
        return found

    def laid(self, stack: Stack, array: Array) -> Any:
        """A parameter, or what lies like one, stacked. A copy, for the step takes its memory."""
        return jnp.array(array, device=self._device)

    def number(self, value: int) -> Any:
        """One that all devices know, int32 []"""
        return jnp.asarray(value, jnp.int32, device=self._device)

    def tokens(self, array: Array, missing: int = 0) -> Any:
        """[b, t] as it is fed; rows may be added, of what is missing."""
        return array

    def whole(self, array: Any) -> Array:
        """A parameter, or what lies like one, as a float32 array; nothing of it but in the first process."""
        return np.array(array, np.float32)

    def agreed(self, wish: bool) -> bool:
        """Whether any process wishes so."""
        return wish

    def held(self, stack: Stack, array: Any) -> Any:
        """Within a program: what it makes lies as `laid` lays it."""
        return array

    def used(self, array: Any) -> Any:
        """Within a program: a parameter, in one round, where it is used."""
        return array

    def layer(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """Within a program: a layer, and what of it is kept for the way back."""
        return layer

    def linear_attention(self, node: Node, run: Run, *operands: Any) -> Any:
        """Within a program: the op, where it is claimed. Sizes may be open, as in an export."""
        shapes = tuple(value.type.shape for value in node.operands)
        return run(summed(node, shapes, str(node.attrs["lin_norm"])), operands)[0]


class Spread(Placement):
    """A mesh, of all devices of all processes or of some that this one has."""

    def __init__(self, mesh: Mesh, processes: Processes) -> None:
        super().__init__()
        self.mesh = mesh
        self.processes = processes
        self.is_first = processes.is_first
        self._gathered = jax.jit(lambda x: x, out_shardings=self._over(WHOLE))

    @contextmanager
    def together(self) -> Iterator[None]:
        """A connection that is closed, or silent for long, means that a process is gone."""
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if self.processes.count == 1:
                raise
            raise TargetError(
                f"process {self.processes.rank} of {self.processes.count} has lost another one: {error}",
                where="jax",
                hint="see which one failed; start all again from the last checkpoint",
            ) from error

    def laid(self, stack: Stack, array: Array) -> Any:
        """Every process has the whole, so that none is sent."""
        return self._made(array, self._stacked(stack))

    def number(self, value: int) -> Any:
        """In all of them."""
        return self._made(np.asarray(value, np.int32), WHOLE)

    def tokens(self, array: Array, missing: int = 0) -> Any:
        """Rows that lack to a multiple of the devices are added. Raises InputError where tokens lack."""
        data, shards, sequence = (self.mesh.shape[axis] for axis in AXES)
        rows, length = array.shape
        if length % sequence:
            raise InputError(
                f"{length} tokens cannot be dealt out evenly to {sequence} devices",
                where="jax",
                hint=f"use a length that is a multiple of {sequence}, in whole chunks",
            )
        added = ((0, -rows % (data * shards)), (0, 0))
        return self._made(np.pad(array, added, constant_values=missing), TOKENS)

    def whole(self, array: Any) -> Array:
        """Gathered in all, where it is in several, and kept in the first."""
        if not array.is_fully_addressable:
            array = self._gathered(array).addressable_data(0)
        return super().whole(array if self.is_first else ())

    def agreed(self, wish: bool) -> bool:
        """One vote a device, the sum in all."""
        if self.processes.count == 1:
            return wish
        votes = self._made(np.full(self.mesh.size, wish), PartitionSpec(AXES))
        with self.together():
            return bool(np.any(self._gathered(votes).addressable_data(0)))

    def held(self, stack: Stack, array: Any) -> Any:
        """See Placement."""
        return lax.with_sharding_constraint(array, self._over(self._stacked(stack)))

    def used(self, array: Any) -> Any:
        """Gathered; on the way back each device keeps its part of the sum of gradients."""
        cut = self._cut(array.shape)
        return array if cut == WHOLE else _gathering(self._over(cut), self._over(WHOLE))(array)

    def layer(self, layer: Callable[..., Any]) -> Callable[..., Any]:
        """Parameters are gathered again, for all layers' together would be whole on each device."""
        return layer if self.mesh.shape[SHARDS] == 1 else jax.checkpoint(layer, policy=_but_gathered, prevent_cse=False)

    def linear_attention(self, node: Node, run: Run, *operands: Any) -> Any:
        """Each device has its chunks."""
        return attend(self.mesh, node, run, *operands)

    def _stacked(self, stack: Stack) -> PartitionSpec:
        return PartitionSpec(*(None for _ in stack.rounds), *self._cut(stack.shape))

    def _cut(self, shape: tuple[int, ...]) -> PartitionSpec:
        """The longest axis that can be cut evenly is; small parameters that have none are whole on each device."""
        shards = self.mesh.shape[SHARDS]
        axes = [axis for axis, size in enumerate(shape) if size % shards == 0 and shards > 1]
        if not axes:
            return WHOLE
        longest = max(axes, key=lambda axis: shape[axis])
        return PartitionSpec(*(SHARDS if axis == longest else None for axis in range(len(shape))))

    def _made(self, array: Array, spec: PartitionSpec) -> Any:
        return jax.make_array_from_callback(array.shape, self._over(spec), lambda index: array[index])

    def _over(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)


@cache
def _gathering(cut: NamedSharding, whole: NamedSharding) -> Callable[[Any], Any]:
    """What is cut -> the whole, whose gradient is cut again: gathered, and summed up and scattered."""

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
    """A policy of jax.checkpoint: keep all but what is gathered, which alone is a custom_vjp among our rules."""
    return str(primitive.name) != "custom_vjp_call"


def placement(device: str) -> Placement:
    """Where to train, from the environment: one device, or the mesh of FLASHIR_MESH.

    Several processes without a mesh shard over all devices that they have.

    Raises:
        SettingError: FLASHIR_MESH is no mesh.
        TargetError: there are not as many devices, or the processes do not find each other.
    """
    processes, axes = Processes.here(), Axes.here()
    if axes is None and processes.count == 1:
        return Placement(device_of(device))
    found = devices_of(device)
    axes = axes or Axes(shards=len(found))
    count = prod(axes.sizes)
    if count > len(found) or (processes.count > 1 and count < len(found)):
        raise TargetError(
            f"{NAME} asks for {count} devices, and {processes.count} processes have {len(found)}",
            where="jax",
            hint="on a processor, XLA_FLAGS=--xla_force_host_platform_device_count=N makes N of one",
        )
    return Spread(Mesh(np.array(found[:count]).reshape(axes.sizes), AXES), processes)
