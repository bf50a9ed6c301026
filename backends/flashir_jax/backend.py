"""The JAX backend: claims, compilation, export and loading. JAX is imported on first use."""

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
from flashir.ir import Graph, Node, dumps, loads
from flashir.transforms.pipeline import Pass
from flashir_jax.claims import claims
from flashir_jax.forks import check_fork
from flashir_jax.pallas.claims import KERNELS


def need_jax() -> None:
    """Raise TargetError if JAX is not installed, or cannot work in this forked process."""
    if find_spec("jax") is None:
        raise TargetError("JAX is not installed", where="jax", hint="pip install 'flashir[jax]'")
    check_fork()


def need_optax() -> None:
    """Raise TargetError if optax is not installed."""
    if find_spec("optax") is None:
        raise TargetError(
            "optax is not installed, and training needs it", where="jax", hint="pip install 'flashir[jax]'"
        )


@dataclass(frozen=True)
class JaxBackend:
    """The backend for one kind of device: pure functions, compiled by XLA."""

    name: ClassVar[str] = "jax"
    extra: ClassVar[str] = "jax"
    records: ClassVar[Path] = Path(__file__).parent / "targets"
    main_file: ClassVar[str] = "model.jax"
    device: str = "cpu"

    def on(self, device: str) -> JaxBackend:
        """This backend for a device: `cpu`, `cuda`, or a tpu such as `tpu-v4`. See PerDevice."""
        return replace(self, device=device)

    def versions(self) -> dict[str, str]:
        """The versions of jax and jaxlib. Raises TargetError if they are not installed."""
        need_jax()
        return {name: version(name) for name in ("jax", "jaxlib")}

    def devices(self) -> tuple[str, ...]:
        """The devices that JAX finds on this machine. Raises TargetError if it is not installed."""
        need_jax()
        from flashir_jax.devices import device_names

        return device_names()

    def peak_bytes(self, device: str) -> int | None:
        """The peak memory that XLA allocated on a device. See Metered."""
        need_jax()
        from flashir_jax.devices import peak_bytes

        return peak_bytes(device)

    def claims(self, node: Node) -> bool:
        """Every primitive, a few composites, and on a TPU ops with a kernel. Works without JAX, for plans."""
        return claims(node, self.device)

    def passes(self) -> tuple[Pass, ...]:
        """None; XLA does the rest."""
        return ()

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """Compile a graph with jit, once per shape. See Backend."""
        need_jax()
        from flashir_jax.session import compiled

        return compiled(graph, params, device)

    def continuing(self, graphs: Sequence[Graph], params: Params, device: str) -> tuple[StepFn, ...]:
        """Compile graphs with jit; states are updated in place. See StatefulBackend."""
        need_jax()
        from flashir_jax.session import compiled

        return tuple(compiled(graph, params, device).continued for graph in graphs)

    def native(self, model: Settled, params: Params | None) -> Any:
        """Two functions, `init` and `apply`. See Native."""
        need_jax()
        from flashir_jax.own_code import functions

        return functions(model, params)

    def gradients(self, graph: Graph, params: Params, device: str) -> Gradients:
        """Gradients by vjp, with jit. See Differentiable."""
        need_jax()
        from flashir_jax.gradients import gradients

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
        """A trainer with jit and optax; parameters are updated in place. See Trainable."""
        need_jax()
        need_optax()
        from flashir_jax.training import JaxTrainer

        return JaxTrainer(graph, params, device, optimiser, state, remat)

    def export(
        self,
        model: Graph,
        graph: Graph,
        params: Params,
        out: Path,
        metadata: Mapping[str, str],
        check: Callable[[Run], object] | None = None,
    ) -> Written:
        """Write `out/model.jax`, and the files of the function and the parameters. See Exporter.

        The function is exported for the platform of the device and for cpu, so that it can be checked anywhere.
        """
        need_jax()
        from flashir_jax.artefact import write
        from flashir_jax.devices import platform_of
        from flashir_jax.export import exported, particulars
        from flashir_jax.functions import function
        from flashir_jax.stored import read
        from flashir_jax.verify import verify

        apply = function(graph)
        platforms = tuple(dict.fromkeys((platform_of(self.device), "cpu")))
        if KERNELS.keys() & {
            node.op for node in graph.walk()
        }:  # kernels of one platform cannot be in the module of another
            functions = {platform: exported(apply, (platform,)) for platform in platforms}
        else:
            functions = dict.fromkeys(platforms, exported(apply, platforms))
        entries = {**metadata, MODEL_TEXT: dumps(model), **{f"flashir.{n}": v for n, v in self.versions().items()}}

        def examine(path: Path) -> tuple[str, ...]:
            loaded = read(path)
            lines = verify(loaded, self.devices())
            if check is not None:
                check(loaded.session("cpu"))
            return lines

        return write(out, functions, params, apply.parameters, entries, particulars(graph), check=examine)

    def files(self, path: Path) -> tuple[Path, ...]:
        """`model.jax`, functions and parameters. See Exporter."""
        from flashir_jax.artefact import files

        return files(_main_file(path))

    def metadata(self, path: Path) -> dict[str, str]:
        """The metadata of `model.jax`. See Exporter."""
        from flashir_jax.artefact import read_manifest

        return read_manifest(_main_file(path)).metadata

    def load(self, path: Path, device: str, *, lean: bool = False) -> tuple[Graph, Run]:
        """Load the model of an artefact, and its function with its parameters on the device. See Exporter."""
        need_jax()
        from flashir_jax.stored import read

        loaded = read(_main_file(path))
        return loaded.model, loaded.session(device)

    def stored(self, path: Path) -> tuple[Graph, Params]:
        """The model of an artefact and its parameters. See Exporter."""
        from flashir.models.parameters import load_params
        from flashir_jax.artefact import PARAMETERS, file_name, read_manifest

        path = _main_file(path)
        manifest = read_manifest(path)
        params = load_params(path.with_name(file_name(PARAMETERS, manifest.parameters)))
        return loads(manifest.metadata[MODEL_TEXT], str(path)), params


def _main_file(path: Path) -> Path:
    from flashir_jax.artefact import MAIN_FILE

    return path / MAIN_FILE if path.is_dir() else path
