"""The PyTorch backend: claims, compilation, export and loading. PyTorch is imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from flashir.backends.protocols import MODEL_TEXT, Array, Gradients, Params, Run, StepFn, Written
from flashir.backends.training import AdamW, Trainer
from flashir.errors import TargetError
from flashir.execution.native import Settled
from flashir.ir import Graph, Node, dumps
from flashir.models.parameters import init
from flashir.transforms.pipeline import Pass
from flashir.transforms.split_activations import SplitActivations
from flashir.transforms.split_projections import SplitProjections
from flashir_torch.claims import claims
from flashir_torch.fuse_gated import FuseGatedAttention
from flashir_torch.kernels.claims import DEVICES, condition, lacking


def need_torch() -> None:
    """Raise TargetError if PyTorch is not installed."""
    if find_spec("torch") is None:
        raise TargetError("PyTorch is not installed", where="torch", hint="pip install 'flashir[torch]'")


@dataclass(frozen=True)
class TorchBackend:
    """The backend for one kind of device: PyTorch modules."""

    name: ClassVar[str] = "torch"
    extra: ClassVar[str] = "torch"
    records: ClassVar[Path] = Path(__file__).parent / "targets"
    main_file: ClassVar[str] = "model.pt2"
    device: str = "cpu"

    def on(self, device: str) -> TorchBackend:
        """This backend for a device: `cpu`, `cuda`, or a GPU such as `h100`. See PerDevice."""
        return replace(self, device=device)

    def versions(self) -> dict[str, str]:
        """The version of torch. Raises TargetError if it is not installed."""
        need_torch()
        return {"torch": version("torch")}

    def devices(self) -> tuple[str, ...]:
        """The devices that PyTorch finds on this machine. Raises TargetError if it is not installed."""
        need_torch()
        from flashir_torch.devices import device_names

        return device_names()

    def peak_bytes(self, device: str) -> int | None:
        """The peak memory that PyTorch allocated on a device. See Metered."""
        need_torch()
        from flashir_torch.devices import peak_bytes

        return peak_bytes(device)

    def claims(self, node: Node) -> bool:
        """Primitives, and composites that PyTorch has. Works without PyTorch, for plans."""
        return claims(node, self.device)

    def passes(self) -> tuple[Pass, ...]:
        """On a CPU, split projections: smaller tensors are allocated without page faults.

        Where layers are compiled, split activations: parts that are read once are not written. Then the core of a
        layer, if it has kernels.
        """
        if self.device == "cpu":
            return (SplitProjections(),)
        return () if lacking(self.device) else (SplitActivations(), FuseGatedAttention(self.claims))

    def remarks(self, model: Graph) -> tuple[str, ...]:
        """Which kernels of a GPU a model misses. See Remarking."""
        from flashir_torch.remarks import missed_kernels

        return missed_kernels(model, self.device) if self.device in DEVICES else ()

    def condition(self) -> str:
        """What the kernels of a GPU lack on this machine. See Remarking."""
        return condition()

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """Compile a graph into a module under `inference_mode`. See Backend."""
        need_torch()
        from flashir_torch.session import compiled

        return compiled(graph, params, device)

    def continuing(self, graphs: Sequence[Graph], params: Params, device: str) -> tuple[StepFn, ...]:
        """Modules that keep their state as tensors. See StatefulBackend."""
        need_torch()
        from flashir_torch.session import compiled

        return tuple(compiled(graph, params, device).continued for graph in graphs)

    def gradients(self, graph: Graph, params: Params, device: str) -> Gradients:
        """Gradients by autograd. See Differentiable."""
        need_torch()
        from flashir_torch.gradients import gradients

        return gradients(graph, params, device)

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
        """A trainer with autograd and PyTorch's AdamW, in one process or several. See Trainable."""
        need_torch()
        from flashir_torch.training import TorchTrainer

        return TorchTrainer(graph, params, device, optimiser, state, remat)

    @property
    def hub_code(self) -> str:
        """The module in `flashir_torch/hub`. See HubBackend."""
        return (Path(__file__).parent / "hub" / "modeling_flashir.py").read_text(encoding="utf-8")

    def native(self, model: Settled, params: Params | None) -> Any:
        """A module, `flashir_torch.nn.Model`. See Native."""
        need_torch()
        from flashir_torch.nn.model import Model

        return Model(model, init(model.model) if params is None else params)

    def export(
        self,
        model: Graph,
        graph: Graph,
        params: Params,
        out: Path,
        metadata: Mapping[str, str],
        check: Callable[[Run], object] | None = None,
    ) -> Written:
        """Write `out/model.pt2` with `torch.export`, for any batch and length. See Exporter.

        It is exported and checked on the CPU; `load` moves it to a device.
        """
        need_torch()
        from flashir_torch.artefact import write
        from flashir_torch.export import exported, without_loops

        entries = {**metadata, MODEL_TEXT: dumps(model), **{f"flashir.{n}": v for n, v in self.versions().items()}}
        program = exported(without_loops(model, graph, self), params)
        return write(program, entries, out, check)

    def files(self, path: Path) -> tuple[Path, ...]:
        """`model.pt2`. See Exporter."""
        return (_main_file(path),)

    def metadata(self, path: Path) -> dict[str, str]:
        """The extra files of `model.pt2`. See Exporter."""
        need_torch()
        from flashir_torch.archive import extra_files

        return extra_files(_main_file(path))

    def load(self, path: Path, device: str, *, lean: bool = False) -> tuple[Graph, Run]:
        """Load the model of an artefact, and its program on the device. See Exporter."""
        need_torch()
        from flashir_torch.stored import read

        loaded = read(_main_file(path))
        return loaded.model, loaded.session(device)

    def stored(self, path: Path) -> tuple[Graph, Params]:
        """The model of an artefact, and the parameters of its program. See Exporter."""
        need_torch()
        from flashir_torch.names import parameter_name
        from flashir_torch.stored import read

        loaded = read(_main_file(path))
        tensors = loaded.program.state_dict.items()
        return loaded.model, {parameter_name(at): tensor.detach().float().numpy() for at, tensor in tensors}


def _main_file(path: Path) -> Path:
    from flashir_torch.artefact import MAIN_FILE

    return path / MAIN_FILE if path.is_dir() else path
