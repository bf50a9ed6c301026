"""Models for user code: a PyTorch module, or pure JAX functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flashir.arguments import typed
from flashir.backends.registry import backend_of
from flashir.errors import TargetError
from flashir.ir import Graph
from flashir.models.checkpoint import load_checkpoint
from flashir.models.parameters import Params, checked
from flashir.planning.plan import plan
from flashir.planning.workload import Workload
from flashir.transforms.settle_choices import same_function, settle


@dataclass(frozen=True)
class Settled:
    """A model with all choices settled that change its function.

    Args:
        model: the model; its strategies may be open.
        target: the target of the plan.
        workload: the workload of the plan.
        planned: the model with all choices settled for the target.
    """

    model: Graph
    target: str
    workload: Workload
    planned: Graph = field(repr=False)

    @staticmethod
    def of(model: Graph, target: str, workload: Workload, params: Mapping[str, Any] | None = None) -> Settled:
        """Plan a model. Raises the errors of `flashir.plan`."""
        best = plan(model, target, workload.batch, workload.seq_len, params=params)
        model = settle(model, same_function(model, best.settings))
        return Settled(model, target, workload, best.graph)

    def on(self, target: str) -> Graph:
        """The model planned for another target. Raises the errors of `flashir.plan`."""
        if target == self.target:
            return self.planned
        return plan(self.model, target, self.workload.batch, self.workload.seq_len).graph


@runtime_checkable
class Native(Protocol):
    """A backend whose framework is used to write models."""

    def native(self, model: Settled, params: Params | None) -> Any:
        """A model in the form of the framework.

        Args:
            model: the model, with its chunk settled.
            params: parameters by full name; None to initialise them.
        """
        ...


@typed
def torch_module(
    model_or_checkpoint: Graph | str | Path,
    params: Mapping[str, Any] | None = None,
    *,
    target: str = "torch:cpu",
    batch: int = 1,
    seq_len: int = 4096,
) -> Any:
    """A model as a PyTorch module, to train, to compile, or to use in another module.

        net = flashir.torch_module(flashir.model("flash", size="tiny"))
        logits = net(torch.randint(256, (2, 100)))     # float32 [b, t, vocab], for any b and t

    Its `state_dict` has the names of `flashir.init`. `forward` takes the inputs of the model by position or by name;
    several results are a tuple. `.to` another device or dtype regenerates its code.

    Args:
        model_or_checkpoint: a graph, or the folder of a checkpoint or run.
        params: parameters by full name; None for those of the checkpoint, or `init(model, seed=0)`.
        target: the target for planning an open chunk: `torch:` and a device, available or not.
        batch, seq_len: the typical workload; other batches and lengths work too.

    Raises:
        SettingError, TargetError: as for `flashir.plan`, or PyTorch is not installed.
        ParameterError: parameters are missing, unexpected, misshapen or not finite.
        ArtefactError: the folder is not a checkpoint, or is damaged.
    """
    return _native(model_or_checkpoint, params, "torch", target, Workload(batch, seq_len))


@typed
def jax_function(
    model_or_checkpoint: Graph | str | Path,
    params: Mapping[str, Any] | None = None,
    *,
    target: str = "jax:cpu",
    batch: int = 1,
    seq_len: int = 4096,
) -> tuple[Callable[..., dict[str, Any]], Callable[..., Any]]:
    """A model as two pure JAX functions, for `jit`, `grad` or `vmap`.

        init, apply = flashir.jax_function(flashir.model("flash", size="tiny"))
        params = init(jax.random.key(0))               # arrays by the names of `flashir.init`
        logits = jax.jit(apply)(params, ids)           # float32 [b, t, vocab]

    `init` takes a key, or an integer as in `flashir.init`. It returns existing parameters if there are any.

    Args:
        model_or_checkpoint: a graph, or the folder of a checkpoint or run.
        params: parameters by full name; None for those of the checkpoint, or new ones.
        target: the target of the plan: `jax:` and a device, available or not.
        batch, seq_len: the typical workload; other batches and lengths work too.

    Raises:
        SettingError, TargetError: as for `flashir.plan`, or JAX is not installed.
        ParameterError: parameters are missing, unexpected, misshapen or not finite.
        ArtefactError: the folder is not a checkpoint, or is damaged.
    """
    init, apply = _native(model_or_checkpoint, params, "jax", target, Workload(batch, seq_len))
    return init, apply


def _native(
    source: Graph | str | Path, params: Mapping[str, Any] | None, wanted: str, target: str, work: Workload
) -> Any:
    backend = backend_of(target)
    if backend.name != wanted or not isinstance(backend, Native):
        raise TargetError(f"wanted a target of {wanted}, got {target}", hint=f"such as {wanted}:cpu")
    if not isinstance(source, Graph):
        loaded = load_checkpoint(source)
        source, params = loaded.model, loaded.params if params is None else params
    model = Settled.of(source, target, work, params)
    return backend.native(model, None if params is None else checked(model.model, params))
