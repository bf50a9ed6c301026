"""The OpenVINO backend: claims, compilation, export and loading. OpenVINO is imported on first use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flashir.backends.protocols import MODEL_TEXT, Params, Run, StepFn, Written
from flashir.errors import SettingError, either
from flashir.ir import DType, Graph, Node, dumps, loads
from flashir.transforms.pipeline import Pass
from flashir.version import __version__
from flashir_onnx import OnnxBackend
from flashir_openvino.narrow_masks import NarrowMasks
from flashir_openvino.runtime import device_names, installed

if TYPE_CHECKING:
    from openvino import Model

NARROW = ("int8", "float16")
"""The types of quantised weights."""

EMITTING = OnnxBackend().portable()
"""What emits graphs for OpenVINO. See docs/decisions/072."""


@dataclass(frozen=True)
class OpenVinoBackend:
    """Models of OpenVINO, read from portable ONNX.

    Args:
        weights: the type of quantised weights, such as `int8`; None for the compute dtype.
    """

    name: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "openvino"
    records: ClassVar[Path] = Path(__file__).parent / "targets"
    main_file: ClassVar[str] = "model.xml"
    weights: str | None = None

    def versions(self) -> dict[str, str]:
        """The version of openvino. Raises TargetError if it is missing or too old."""
        return {"openvino": installed()}

    def devices(self) -> tuple[str, ...]:
        """The devices that OpenVINO finds on this machine. Raises TargetError if it is missing or too old."""
        return device_names()

    def claims(self, node: Node) -> bool:
        """What portable ONNX has, and rotary positions. Works without OpenVINO, for plans."""
        from flashir_openvino import emitters

        return emitters.claims(node) or EMITTING.claims(node)

    def check_types(self, dtypes: Iterable[DType], device: str) -> None:
        """OpenVINO would emulate a type that the device has no arithmetic for. See HasTypes."""
        from flashir_openvino.precision import hint

        for dtype in dtypes:
            hint(dtype, device)

    def quantised(self, kind: str) -> OpenVinoBackend:
        """This backend with weights in int8, with a scale a column, or in float16 in its artefacts. See Quantising."""
        if kind not in NARROW:
            raise SettingError(f"the weights of OpenVINO models are quantised to {either(NARROW)}, got {kind!r}")
        return replace(self, weights=kind)

    def passes(self) -> tuple[Pass, ...]:
        """OpenVINO adds up narrow products in float32, so sums by a mask need no wider type."""
        return (NarrowMasks(),)

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """Compile a graph for a device. Raises TargetError, ParameterError."""
        installed()
        from flashir_openvino.precision import compute_type
        from flashir_openvino.reading import read
        from flashir_openvino.session import Interpreted, Session, has_no_elements

        if has_no_elements(graph):
            return Interpreted(graph, params)
        return Session(read(graph, params), graph, device, compute_type(graph))

    def continuing(self, graphs: Sequence[Graph], params: Params, device: str) -> tuple[StepFn, ...]:
        """Compiled models that keep their states in memory of OpenVINO. See StatefulBackend."""
        installed()
        from flashir_openvino.continuing import Continued
        from flashir_openvino.precision import compute_type
        from flashir_openvino.reading import distinct, read
        from flashir_openvino.session import compiled

        models = [compiled(read(graph, params, distinct(graph)), device, compute_type(graph)) for graph in graphs]
        return tuple(map(Continued, models, graphs))

    def export(
        self,
        model: Graph,
        graph: Graph,
        params: Params,
        out: Path,
        metadata: Mapping[str, str],
        check: Callable[[Run], object] | None = None,
    ) -> Written:
        """Write `out/model.xml` and `out/model.bin`, which OpenVINO reads without flashir. See Exporter."""
        installed()
        from flashir.backends.narrow_weights import weights_entry
        from flashir_onnx.emit import result_names
        from flashir_openvino.artefact import write
        from flashir_openvino.reading import read

        entries = {**metadata, **weights_entry(self.weights), MODEL_TEXT: dumps(model), "flashir.version": __version__}

        def examine(path: Path) -> tuple[str, ...]:
            graph, stored = self._read(path)
            lines = (f"OpenVINO {installed()} reads it: {len(stored.get_ops())} operations",)
            if check is not None:
                check(self._session(graph, stored, "cpu"))
            return lines

        return write(read(graph, params, result_names(model), self.weights), entries, out, examine)

    def files(self, path: Path) -> tuple[Path, ...]:
        """`model.xml` and `model.bin`. See Exporter."""
        path = _main_file(path)
        return path, path.with_suffix(".bin")

    def metadata(self, path: Path) -> dict[str, str]:
        """The metadata of `model.xml`. See Exporter."""
        from flashir_openvino.artefact import read

        return read(_main_file(path))[1]

    def load(self, path: Path, device: str, *, lean: bool = False) -> tuple[Graph, Run]:
        """Verify an artefact, and return its model and the compiled artefact. See Exporter."""
        model, stored = self._read(_main_file(path))
        return model, self._session(model, stored, device)

    def stored(self, path: Path) -> tuple[Graph, Params]:
        """The model from the metadata of model.xml, and its parameters from the constants. See Exporter."""
        from flashir_onnx.stored import recovered
        from flashir_openvino.artefact import constants

        model, stored = self._read(_main_file(path))
        arrays, axes = constants(stored)
        return model, recovered(model, arrays, str(path), axes)

    def _read(self, path: Path) -> tuple[Graph, Model]:
        from flashir_openvino.artefact import read

        stored, entries = read(path)
        return loads(entries[MODEL_TEXT], str(path)), stored

    def _session(self, model: Graph, stored: Model, device: str) -> Run:
        from flashir.planning.plan import compute_type
        from flashir_openvino.session import Session

        return Session(stored, model, device, compute_type(model))


def _main_file(path: Path) -> Path:
    return path / OpenVinoBackend.main_file if path.is_dir() else path
