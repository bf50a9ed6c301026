"""What the JAX backend claims, how it compiles, exports and loads. JAX is imported when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from flashir.backends.protocols import AdamW, Array, Gradients, Params, Run, StepFn, Trainer, Verified
from flashir.errors import TargetError
from flashir.execution.native import Settled
from flashir.ir import Graph, Node, dumps, loads
from flashir.transforms.pipeline import Pass
from flashir_jax.claims import claims
from flashir_jax.forks import check_fork
from flashir_jax.pallas.claims import KERNELS


def need_jax() -> None:
    """Raises TargetError where JAX is not installed, or cannot work as this process was forked."""
    if find_spec("jax") is None:
        raise TargetError("JAX is not installed", where="jax", hint="pip install 'flashir[jax]'")
    check_fork()


def need_optax() -> None:
    """Raises TargetError where optax, which brings the optimisers, is not installed."""
    if find_spec("optax") is None:
        raise TargetError(
            "optax is not installed, and training needs it", where="jax", hint="pip install 'flashir[jax]'"
        )


@dataclass(frozen=True)
class JaxBackend:
    """Pure functions, compiled by XLA, for one kind of device."""

    name: ClassVar[str] = "jax"
    extra: ClassVar[str] = "jax"
    records: ClassVar[Path] = Path(__file__).parent / "targets"
    main_file: ClassVar[str] = "model.jax"
    device: str = "cpu"

    def on(self, device: str) -> JaxBackend:
        """This backend for a device: `cpu`, `cuda`, or a tpu such as `tpu-v4`. See PerDevice."""
        return replace(self, device=device)

    def versions(self) -> dict[str, str]:
        """Those of jax and jaxlib. Raises TargetError where they are not installed."""
        need_jax()
        return {name: version(name) for name in ("jax", "jaxlib")}

    def devices(self) -> tuple[str, ...]:
        """The devices that JAX finds on this machine. Raises TargetError where it is not installed."""
        need_jax()
        from flashir_jax.devices import device_names

        return device_names()

    def peak_bytes(self, device: str) -> int | None:
        """The most memory that XLA has had allocated on a device of its own, for `flashir bench`."""
        need_jax()
        from flashir_jax.devices import peak_bytes

        return peak_bytes(device)

    def claims(self, node: Node) -> bool:
        """Every primitive, a few composites, and on a TPU what has a kernel. Without JAX too: a plan needs no JAX."""
        return claims(node, self.device)

    def passes(self) -> tuple[Pass, ...]:
        """None: XLA does the rest."""
        return ()

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """The graph under jit, compiled once a shape. See Backend."""
        need_jax()
        from flashir_jax.session import compiled

        return compiled(graph, params, device)

    def continuing(self, graphs: Sequence[Graph], params: Params, device: str) -> tuple[StepFn, ...]:
        """Under jit, states renewed in place. See StatefulBackend."""
        need_jax()
        from flashir_jax.session import compiled

        return tuple(compiled(graph, params, device).continued for graph in graphs)

    def native(self, model: Settled, params: Params | None) -> Any:
        """Two functions, `init` and `apply`. See Native."""
        need_jax()
        from flashir_jax.own_code import functions

        return functions(model, params)

    def gradients(self, graph: Graph, params: Params, device: str) -> Gradients:
        """By vjp, under jit. See Differentiable."""
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
        """Under jit, parameters updated in place, by optax. See Trainable. Raises TargetError without optax too."""
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
    ) -> Path:
        """`out/model.jax`, the function and the parameters beside it. See Exporter.

        The function is for the platform of the device and for cpu too, so that it can be run, and checked, anywhere.
        """
        need_jax()
        from flashir_jax.artefact import MODEL, write
        from flashir_jax.devices import platform_of
        from flashir_jax.export import exported, particulars
        from flashir_jax.functions import function

        apply = function(graph)
        platforms = tuple(dict.fromkeys((platform_of(self.device), "cpu")))
        if KERNELS.keys() & {node.op for node in graph.walk()}:  # one platform's code has no place in another's module
            functions = {platform: exported(apply, (platform,)) for platform in platforms}
        else:
            functions = dict.fromkeys(platforms, exported(apply, platforms))
        about = {**metadata, MODEL: dumps(model), **{f"flashir.{n}": v for n, v in self.versions().items()}}

        def examine(path: Path) -> None:
            if check is not None:
                check(self.load(path, "cpu")[1])

        return write(out, functions, params, apply.parameters, about, particulars(graph), check=examine)

    def verify(self, path: Path) -> Verified:
        """What an artefact holds, every digest verified, and where what it holds could be run. See Exporter."""
        need_jax()
        from flashir_jax.verify import verify

        return verify(_main_file(path), self.devices())

    def metadata(self, path: Path) -> dict[str, str]:
        """The metadata of `model.jax`. See Exporter."""
        from flashir_jax.artefact import read_manifest

        return read_manifest(_main_file(path)).metadata

    def load(self, path: Path, device: str, *, lean: bool = False) -> tuple[Graph, Run]:
        """The model that an artefact carries, and its function with its parameters on the device. See Exporter."""
        need_jax()
        from flashir_jax.artefact import MODEL, read_manifest
        from flashir_jax.verify import session

        path = _main_file(path)
        manifest = read_manifest(path)
        model = loads(manifest.metadata[MODEL], str(path))
        return model, session(path, manifest, model, device)

    def stored(self, path: Path) -> tuple[Graph, Params]:
        """The model that an artefact carries, and the parameters beside it. See Exporter."""
        from flashir.models.parameters import load_params
        from flashir_jax.artefact import MODEL, PARAMETERS, file_name, read_manifest

        path = _main_file(path)
        manifest = read_manifest(path)
        params = load_params(path.with_name(file_name(PARAMETERS, manifest.parameters)))
        return loads(manifest.metadata[MODEL], str(path)), params


def _main_file(path: Path) -> Path:
    from flashir_jax.artefact import MAIN_FILE

    return path / MAIN_FILE if path.is_dir() else path
