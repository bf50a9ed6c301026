"""The protocol of a backend: what a plug-in package provides for one framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from flashir.backends.decoding import Decoding, Extending
from flashir.backends.training import AdamW, Trainer
from flashir.ir.graph import Graph, Node
from flashir.ir.types import DType
from flashir.transforms.pipeline import Pass

Array = npt.NDArray[Any]
Params = Mapping[str, npt.NDArray[np.float32]]
MODEL_TEXT = "flashir.model"
"""The metadata key of an artefact for the text of its model, which every backend writes."""
DECODER_PARTS = "flashir.parts"
"""The metadata key of an artefact with a decoder, for its further files as JSON: their names, or digests by name."""

Run = Callable[[Sequence[Array]], Array]
"""Arrays in the order of the graph's inputs -> the single result of the graph."""

Gradients = Callable[[Sequence[Array], Array], dict[str, Array]]
"""Inputs as for a Run, and weights w in the shape of its result y -> the gradient of sum(w y) for each parameter.

Gradients are float32 by full name, in the shapes of the parameters. Unused parameters may be missing.
"""


@runtime_checkable
class Backend(Protocol):
    """One framework. A backend is constructed without arguments, and imports its framework only to run something.

    `claims` and `passes` define the lowering; `compile` turns the lowered graph into a function.
    """

    name: ClassVar[str]
    extra: ClassVar[str]
    """The extra of `pip install 'flashir[extra]'` that installs the framework; empty if the base install has it."""

    def versions(self) -> dict[str, str]:
        """The versions of the libraries that speed and results depend on. Raises TargetError if one is missing."""
        ...

    def devices(self) -> tuple[str, ...]:
        """The available devices of this machine, such as `("cpu",)`."""
        ...

    def claims(self, node: Node) -> bool:
        """Whether this backend implements the node natively."""
        ...

    def passes(self) -> tuple[Pass, ...]:
        """Further passes on a lowered graph, specific to this backend."""
        ...

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """Compile a lowered graph for an available device. Raises TargetError, ParameterError."""
        ...


@runtime_checkable
class PerDevice(Backend, Protocol):
    """A backend whose claims or exports depend on the device."""

    def on(self, device: str) -> Backend:
        """This backend for a device such as `tpu-v4`, available or not."""
        ...


@runtime_checkable
class HasTypes(Backend, Protocol):
    """A backend that does not compute in every float type."""

    def check_types(self, dtypes: Iterable[DType], device: str) -> None:
        """Raise TargetError that lists the types in which a device of this machine does not compute."""
        ...


DeviceState = Sequence[Any]
"""Results that stay on the device, to be passed back to the backend. Their types are opaque to others."""

StepFn = Callable[[Sequence[Array], DeviceState], tuple[Array, DeviceState]]
"""The first inputs of a graph as arrays, and its other inputs as device state -> its first result, and the new state.

The call may consume the state that it is given. Without state, that of every row is zero.
"""


@dataclass(frozen=True)
class StoredDecoder:
    """A decoder loaded from an artefact.

    Args:
        model: the model at the level of blocks.
        limit: the longest sequence in tokens; None for no limit.
        functions: `(extend,)`, or `(prefill, step)` of a decoder in two parts, with the interface of `hosted`.
    """

    model: Graph
    limit: int | None
    functions: tuple[StepFn, ...]


@runtime_checkable
class StatefulBackend(Backend, Protocol):
    """A backend that can keep results on the device between calls, such as the state of a decoder."""

    def continuing(self, graphs: Sequence[Graph], params: Params, device: str) -> tuple[StepFn, ...]:
        """Compile lowered graphs that share parameters and pass state to each other. Raises the errors of `compile`."""
        ...


@runtime_checkable
class Resident(Protocol):
    """A Run on a device with its own memory."""

    def __call__(self, arrays: Sequence[Array]) -> Array:
        """Arrays in the order of the graph's inputs -> the single result of the graph."""

    def resident(self, arrays: Sequence[Array]) -> Callable[[], object]:
        """A function that runs on inputs already on the device, and waits for the result. Raises as a run does."""


@runtime_checkable
class Portable(Backend, Protocol):
    """A backend that claims operators which some runtimes of its format lack."""

    def portable(self) -> Backend:
        """This backend without those operators."""
        ...


@runtime_checkable
class Remarking(Backend, Protocol):
    """A backend that can say which of its own kernels a model misses."""

    def remarks(self, model: Graph) -> tuple[str, ...]:
        """A sentence for each kernel that the device has and a settled model cannot use, with the reason."""
        ...

    def condition(self) -> str:
        """What the kernels lack on this machine; empty if nothing, or if no device is here that could run them."""
        ...


@runtime_checkable
class Differentiable(Backend, Protocol):
    """A backend that can also compute gradients."""

    def gradients(self, graph: Graph, params: Params, device: str) -> Gradients:
        """The gradient function of a lowered graph. Raises the errors of `compile`."""
        ...


@runtime_checkable
class Trainable(Backend, Protocol):
    """A backend that can also train: forward, backward and optimiser step."""

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
        """A trainer for a lowered graph whose result is scores, [b, t, v] or [b, v].

        Args:
            graph: the lowered graph. It computes in its own dtype; the master weights are float32.
            params: parameters by full name; not modified.
            device: the device to train on.
            optimiser: the optimiser.
            state: the state of a trainer to resume from.
            remat: recompute each layer in the backward pass instead of saving its activations.

        Raises:
            TargetError, ParameterError: as for `compile`, or the state does not fit the parameters.
        """
        ...


@dataclass(frozen=True)
class Written:
    """An artefact that an export wrote.

    Args:
        path: its main file.
        checks: a line for each check of its format that it passed.
        beside: its other files.
    """

    path: Path
    checks: tuple[str, ...] = ()
    beside: tuple[Path, ...] = ()


@runtime_checkable
class Exporter(Backend, Protocol):
    """A backend that can also export a model to disk and load it."""

    main_file: ClassVar[str]
    """The name of the main file of an artefact, such as `model.onnx`. No other backend uses its suffix."""

    def export(
        self,
        model: Graph,
        graph: Graph,
        params: Params,
        out: Path,
        metadata: Mapping[str, str],
        check: Callable[[Run], object] | None = None,
    ) -> Written:
        """Write an artefact atomically into the folder `out`.

        It is checked with the tools of its format before it replaces an old artefact, which stays unchanged if anything
        fails.

        Args:
            model: the settled model at the level of blocks; its text is stored in the artefact.
            graph: the lowered model.
            params: parameters by full name.
            out: the folder; created if missing.
            metadata: further metadata of the artefact.
            check: called with the artefact as a Run before it is committed; an exception prevents the commit.

        Raises:
            TargetError: the format cannot express the graph.
            ParameterError: a parameter does not fit the dtype that it is written in.
            ArtefactError: the files cannot be written, or do not pass the checks of the format.
        """
        ...

    def files(self, path: Path) -> tuple[Path, ...]:
        """The files of an artefact, the main file first, without verification. Raises ArtefactError as `metadata`."""
        ...

    def metadata(self, path: Path) -> dict[str, str]:
        """The metadata of an artefact: the text of the model as `flashir.model`, and the metadata passed to `export`.

        The digest of the main file is verified; nothing is compiled. Raises ArtefactError if the file is missing,
        damaged, or was not written by flashir.
        """
        ...

    def load(self, path: Path, device: str, *, lean: bool = False) -> tuple[Graph, Run]:
        """Load an artefact: its model at the level of blocks, and the artefact itself as a Run.

        Args:
            path: the main file, or its folder.
            device: the device to run on, as in `compile`.
            lean: use as little memory as possible, at the cost of speed.

        Raises:
            ArtefactError: a file is missing, damaged (every digest is verified), or was not written by flashir.
            IRError: another version of flashir wrote the text of the model.
            TargetError: the device is not available.
        """
        ...

    def stored(self, path: Path) -> tuple[Graph, Params]:
        """The model in an artefact, and its parameters.

        Raises:
            ArtefactError, IRError: as for `load`, or the parameters cannot be recovered from the artefact.
        """
        ...


@runtime_checkable
class DecoderExporter(Exporter, Protocol):
    """An exporter that can also write and load a decoder together with a model."""

    decoder_files: ClassVar[tuple[str, ...]]
    """The names of the files that a decoder may have."""

    def export_decoder(
        self,
        model: Graph,
        graph: Graph,
        decoding: Decoding | Extending,
        params: Params,
        out: Path,
        metadata: Mapping[str, str],
        check: Callable[..., object] | None = None,
    ) -> Written:
        """Write a model and its decoder atomically, with shared weights.

        Args:
            model, graph, params, out, metadata: as for `export`.
            decoding: the lowered graphs with the interface of `hosted`; `max_len` is the longest sequence.
            check: called with the model as a Run, and the functions of its decoder as in `StoredDecoder`, before the
                commit.

        Raises:
            TargetError, ParameterError, ArtefactError: as for `export`.
        """
        ...

    def load_decoder(self, path: Path, device: str) -> StoredDecoder | None:
        """Load the decoder of an artefact; None if it has only the model. Raises the errors of `load`."""
        ...
