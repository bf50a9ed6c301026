"""The protocol of a backend: what a plug-in package provides for one framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from flashir.errors import InputError
from flashir.ir.graph import Graph, Node
from flashir.transforms.pipeline import Pass

if TYPE_CHECKING:
    from flashir.backends.decoding import Decoding

Array = npt.NDArray[Any]
Params = Mapping[str, npt.NDArray[np.float32]]
Run = Callable[[Sequence[Array]], Array]
"""Arrays in the order of the graph's inputs -> the graph's one result."""

Gradients = Callable[[Sequence[Array], Array], dict[str, Array]]
"""Inputs as for a Run, and weights w in the shape of its result y -> the gradient of sum(w y) in each parameter.

Gradients are float32 by full name, in the shapes of the parameters; what the graph does not use may be left out.
"""

NO_LABEL = -1
"""Stands among labels where no token is wanted, as at what an MLM does not mask."""


@dataclass(frozen=True)
class Batch:
    """What a model is trained on at once.

    Args:
        inputs: in the order of the graph's inputs: ids int64 [b, t], and segment_ids int64 [b, t] where it has them.
        labels: the token wanted at each place, int64 [b, t]; `NO_LABEL` where none is.
    """

    inputs: tuple[Array, ...]
    labels: Array

    @property
    def wanted(self) -> int:
        """How many labels there are."""
        return int(np.count_nonzero(self.labels != NO_LABEL))


def count_labels(graph: Graph, batches: Sequence[Batch], least: int = 1) -> int:
    """How many labels there are in all, for a graph whose result is logits [b, t, v].

    Raises:
        InputError: there are fewer than `least`, or one is no token of the vocabulary.
    """
    vocab = graph.outputs[0].type.shape[-1]
    assert isinstance(vocab, int)
    for batch in batches:
        outside = (batch.labels != NO_LABEL) & ((batch.labels < 0) | (batch.labels >= vocab))
        if outside.any():
            first = tuple(int(index) for index in np.argwhere(outside)[0])
            raise InputError(
                f"{np.count_nonzero(outside)} labels lie outside 0 .. {vocab - 1}, the first at {first}: "
                f"{batch.labels[first]}",
                hint=f"where no token is wanted, the label is {NO_LABEL}",
            )
    total = sum(batch.wanted for batch in batches)
    if total < least:
        raise InputError("there is not one label to learn from", hint="give a step more rows, or longer ones")
    return total


@dataclass(frozen=True)
class AdamW:
    """How parameters follow their gradients, with the numbers of Table 6.

    Args:
        beta1, beta2: the shares that the means of gradients and of their squares keep of themselves.
        epsilon: is added to the root of the latter.
        weight_decay: times the learning rate, the share that a parameter loses in a step.
        clip: the largest L2 norm of the gradient in one parameter, that of one layer where it is a layer's; a longer
            one is scaled to it ("local gradient clipping"). None: as it comes.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    clip: float | None = None


@dataclass(frozen=True)
class Step:
    """What a step of an optimiser found.

    Args:
        loss: the mean cross-entropy in nats over all labels, before the step.
        gradient_norm: the L2 norm of the gradient in all parameters together, before any is clipped.
    """

    loss: float
    gradient_norm: float


class Trainer(Protocol):
    """A model in training: its parameters, and what the optimiser knows of them.

    On a processor, the same state and the same batches give the same bits.

    Where several processes train one model, all call each method at the same time and give it
    the same; each computes some of the rows. So a step of several is that of one, and what it finds is the same in all.
    """

    def step(self, batches: Sequence[Batch], learning_rate: float) -> Step:
        """One step of the optimiser, along the gradient of the mean cross-entropy over all labels of all batches.

        So a batch may be given in parts, to take less memory; parts may have different numbers of labels.

        Raises:
            InputError: there is not one label, or one is no token.
            TargetError: another process is gone.
        """
        ...

    def loss(self, batch: Batch) -> tuple[float, int]:
        """The sum of the cross-entropy in nats over the labels, and their number, which may be 0. Nothing changes.

        Raises:
            InputError: a label is no token.
            TargetError: another process is gone.
        """
        ...

    def agreed(self, wish: bool) -> bool:
        """Whether any of the processes wishes so, such as to stop because a signal reached it."""
        ...

    def params(self) -> dict[str, Array]:
        """The parameters by full name, float32 whatever the model computes in; nothing but in the first process."""
        ...

    def state(self) -> dict[str, Array]:
        """What the optimiser knows, the same on every backend, so that another can go on.

        `mean.<full name>` and `square.<full name>`, float32 in the shape of the parameter: the means of its gradients
        and of their squares. `count`, int64 []: the steps made. Nothing but in the first process.
        """
        ...


@runtime_checkable
class Backend(Protocol):
    """One framework. A backend is made without arguments, and imports its framework only when it runs something.

    `claims` and `passes` shape the lowering; `compile` turns the lowered graph into something that runs.
    """

    name: ClassVar[str]
    extra: ClassVar[str]
    """The extra of `pip install 'flashir[extra]'` that brings the framework; empty where the base install has it."""

    def versions(self) -> dict[str, str]:
        """The versions of the libraries that speed and results depend on. Raises TargetError where one is missing."""
        ...

    def devices(self) -> tuple[str, ...]:
        """The devices at hand on this machine, such as `("cpu",)`."""
        ...

    def claims(self, node: Node) -> bool:
        """Whether this backend does the node natively."""
        ...

    def passes(self) -> tuple[Pass, ...]:
        """What this backend wants done to a lowered graph, beyond what all want."""
        ...

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """A lowered graph as something that runs on a device at hand. Raises TargetError, ParameterError."""
        ...


@runtime_checkable
class PerDevice(Backend, Protocol):
    """A backend for which devices differ in what it claims, or exports."""

    def on(self, device: str) -> Backend:
        """This backend for a device, at hand or not, such as `tpu-v4`."""
        ...


DeviceState = Sequence[Any]
"""Results that stay where a backend computed them, to be given back to it. Only it knows what they are."""

StepFn = Callable[[Sequence[Array], DeviceState], tuple[Array, DeviceState]]
"""The first inputs of a graph as arrays, the others as they were kept -> its first result, and the others kept.

What is given as kept may be used up by the call.
"""


@dataclass(frozen=True)
class StoredDecoder:
    """A decoder as an artefact holds it.

    Args:
        model: at the level of blocks.
        limit: how long a sequence may become; None where nothing limits it.
        prefill, step: as `hosted` has them.
    """

    model: Graph
    limit: int | None
    prefill: StepFn
    step: StepFn


@runtime_checkable
class StatefulBackend(Backend, Protocol):
    """A backend that can also keep what a graph makes until the next call, as a decoder does with its states."""

    def continuing(self, graphs: Sequence[Graph], params: Params, device: str) -> tuple[StepFn, ...]:
        """Lowered graphs that hand results to each other, of the same parameters. Raises as `compile`."""
        ...


@runtime_checkable
class Resident(Protocol):
    """A Run of a backend for devices that have a memory of their own."""

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """Arrays in the order of the graph's inputs -> the graph's one result."""

    def resident(self, arrays: Sequence[Array]) -> Callable[[], object]:
        """The same on inputs that lie on the device before it is called; waited for. Raises as a run does."""


@runtime_checkable
class Portable(Backend, Protocol):
    """A backend that claims operators which not every runtime of its format has."""

    def portable(self) -> Backend:
        """This backend without them."""
        ...


@runtime_checkable
class Differentiable(Backend, Protocol):
    """A backend that can also differentiate what it runs."""

    def gradients(self, graph: Graph, params: Params, device: str) -> Gradients:
        """How the parameters of a lowered graph move its result. Raises as `compile`."""
        ...


@runtime_checkable
class Trainable(Backend, Protocol):
    """A backend that can also train: forward, backward and the step of an optimiser."""

    def trainer(
        self,
        graph: Graph,
        params: Params,
        device: str,
        optimiser: AdamW,
        *,
        state: Mapping[str, Array] | None = None,
        remat: bool = False,
    ) -> Trainer:
        """A lowered graph whose result is logits [b, t, v], in training.

        Args:
            graph: lowered; what it computes in is the compute type, parameters are float32 all the same.
            params: by full name; they stay as they are.
            device: where to train.
            optimiser: how parameters follow their gradients.
            state: what a trainer knew after some steps, to go on from there.
            remat: compute each layer again on the way back instead of keeping what it made.

        Raises:
            TargetError, ParameterError: as `compile`, and where the state is not that of these parameters.
        """
        ...


@dataclass(frozen=True)
class Verified:
    """One line for each check that an artefact passed, for people to read; and its files beside the main one."""

    checks: tuple[str, ...]
    beside: tuple[Path, ...] = ()


@runtime_checkable
class Exporter(Backend, Protocol):
    """A backend that can also write a model to disk, and read it back."""

    main_file: ClassVar[str]
    """The name of an artefact's main file, such as `model.onnx`. The suffix is of this backend alone."""

    def export(
        self,
        model: Graph,
        graph: Graph,
        params: Params,
        out: Path,
        metadata: Mapping[str, str],
        check: Callable[[Run], object] | None = None,
    ) -> Path:
        """Write the artefact into the folder `out`, whole or not at all, and return its main file.

        It is verified before it replaces what was there: whatever fails, the old artefact stays whole.

        Args:
            model: the model at the level of blocks, choices made; its text goes into the artefact.
            graph: the same model lowered.
            params: by full name.
            out: the folder; made where it is missing.
            metadata: what else the artefact shall carry.
            check: is given the artefact as something that runs, before it is committed; what it raises prevents that.

        Raises:
            TargetError: the graph holds what the format cannot say.
            ParameterError: a parameter does not fit the element type it is written in.
            ArtefactError: the files cannot be written, or do not pass the format's own checks.
        """
        ...

    def verify(self, path: Path) -> Verified:
        """Check an artefact with the tools of its own format, as `export` does. Raises ArtefactError: what is wrong."""
        ...

    def metadata(self, path: Path) -> dict[str, str]:
        """What an artefact carries: the text of the model as `flashir.model`, and what `export` was given.

        The digest of the main file is verified; nothing is made to run. Raises ArtefactError where the file is missing,
        damaged, or was not written by flashir.
        """
        ...

    def load(self, path: Path, device: str, *, lean: bool = False) -> tuple[Graph, Run]:
        """The model that an artefact holds, at the level of blocks, and the artefact itself as something that runs.

        Args:
            path: the main file, or the folder it is in.
            device: where to run, as in `compile`.
            lean: take as little memory as possible, at the price of speed.

        Raises:
            ArtefactError: a file is missing, damaged (every digest is verified), or was not written by flashir.
            IRError: the text of the model is not of this version of flashir.
            TargetError: the device is not at hand.
        """
        ...

    def stored(self, path: Path) -> tuple[Graph, Params]:
        """The model that an artefact holds, and its parameters.

        Raises:
            ArtefactError, IRError: as `load`; and where the parameters cannot be told from what is written.
        """
        ...


@runtime_checkable
class DecoderExporter(Exporter, Protocol):
    """An exporter that can also write what continues sequences beside a model, and read it back."""

    decoder_files: ClassVar[tuple[str, ...]]
    """The names of the files that hold prefill and step."""

    def export_decoder(
        self,
        model: Graph,
        graph: Graph,
        decoding: Decoding,
        params: Params,
        out: Path,
        metadata: Mapping[str, str],
        check: Callable[[Run, StepFn, StepFn], object] | None = None,
    ) -> Path:
        """Write the model and the graphs of a decoder, with weights that all share, committed as one.

        Args:
            model, graph, params, out, metadata: as for `export`.
            decoding: its graphs as `hosted` makes them, lowered; `max_len` is how long a sequence may become.
            check: is given the model, prefill and step as things that run, before they are committed.

        Raises:
            TargetError, ParameterError, ArtefactError: as `export`.
        """
        ...

    def load_decoder(self, path: Path, device: str) -> StoredDecoder | None:
        """The decoder that an artefact holds; None where it holds the model alone. Raises as `load`."""
        ...
