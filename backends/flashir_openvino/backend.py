"""The OpenVINO backend: claims, compilation, export and loading. OpenVINO is imported on first use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flashir.backends.decoding import Decoding, Extending
from flashir.backends.protocols import DECODER_PARTS, MODEL_TEXT, Params, Run, StepFn, StoredDecoder, Written
from flashir.errors import SettingError, either
from flashir.ir import DType, Graph, Node, dumps, loads
from flashir.transforms.pipeline import Pass
from flashir.version import __version__
from flashir_onnx import OnnxBackend
from flashir_openvino.narrow_masks import NarrowMasks
from flashir_openvino.runtime import MODEL_FILE, device_names, installed

if TYPE_CHECKING:
    from openvino import Model

    from flashir_openvino.artefact import Part

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
    decoder_files: ClassVar[tuple[str, ...]] = ("decoder.xml", "prefill.xml", "step.xml")
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
        """This backend with weights in blocks of int8 or int4, or in float16, in its artefacts. See Quantising."""
        from flashir_openvino.narrow_weights import KINDS

        if kind not in KINDS:
            raise SettingError(f"the weights of OpenVINO models are quantised to {either(KINDS)}, got {kind!r}")
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
        """Compiled models that keep their states. See StatefulBackend."""
        installed()
        from flashir_openvino.continuing import continued
        from flashir_openvino.precision import compute_type
        from flashir_openvino.reading import distinct, read
        from flashir_openvino.session import compiled, input_names

        def function(graph: Graph) -> StepFn:
            model, dtype = read(graph, params, distinct(graph)), compute_type(graph)
            return continued(model, input_names(graph), lambda model: compiled(model, device, dtype))

        return tuple(map(function, graphs))

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
        return self._write(model, graph, None, params, out, metadata, check)

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
        """Write model.xml, the files of the decoder, and model.bin, which all of them read. See DecoderExporter."""
        return self._write(model, graph, decoding, params, out, metadata, check)

    def load_decoder(self, path: Path, device: str) -> StoredDecoder | None:
        """Load the decoder beside a model.xml. See DecoderExporter."""
        from flashir_openvino.decoder import load

        return load(_main_file(path), device)

    def files(self, path: Path) -> tuple[Path, ...]:
        """model.xml, model.bin, and the files of a decoder. See Exporter."""
        from flashir_openvino.artefact import files_of

        return files_of(_main_file(path))

    def metadata(self, path: Path) -> dict[str, str]:
        """The metadata of `model.xml`. See Exporter."""
        return dict(self._read(_main_file(path)).metadata)

    def load(self, path: Path, device: str, *, lean: bool = False) -> tuple[Graph, Run]:
        """Verify an artefact, and return its model and the compiled artefact. See Exporter."""
        from flashir.planning.plan import compute_type
        from flashir_openvino.session import Session

        model, stored = self._model(_main_file(path))
        return model, Session(stored, model, device, compute_type(model))

    def stored(self, path: Path) -> tuple[Graph, Params]:
        """The model from the metadata of model.xml, and its parameters from the constants. See Exporter."""
        from flashir_onnx.stored import recovered
        from flashir_openvino.narrow_weights import floats_of

        model, stored = self._model(_main_file(path))
        constants = {
            node.get_friendly_name(): node.data for node in stored.get_ops() if node.get_type_name() == "Constant"
        }
        return model, recovered(model, constants | floats_of(stored), str(path))

    def _write(
        self,
        model: Graph,
        graph: Graph,
        decoding: Decoding | Extending | None,
        params: Params,
        out: Path,
        metadata: Mapping[str, str],
        check: Callable[..., object] | None,
    ) -> Written:
        """Write a model, and its decoder if it has one."""
        installed()
        from flashir.backends.narrow_weights import weights_entry
        from flashir_onnx.emit import result_names
        from flashir_openvino import decoder
        from flashir_openvino.artefact import Part, write
        from flashir_openvino.narrow_weights import Narrow
        from flashir_openvino.reading import read

        entries = {**metadata, **weights_entry(self.weights), MODEL_TEXT: dumps(model), "flashir.version": __version__}
        narrow = None if self.weights is None else Narrow(self.weights)
        parts = {MODEL_FILE: Part(read(graph, params, result_names(model), narrow), entries)}
        if decoding is not None:
            decoder.check_states(model, decoding)
            parts |= decoder.parts(decoding, params, entries, narrow)

        def examine(path: Path) -> tuple[str, ...]:
            sizes = ", ".join(f"{name} has {len(part.model.get_ops())} operations" for name, part in parts.items())
            run = self.load(path, "cpu")[1]
            stored = self.load_decoder(path, "cpu")
            if check is not None:
                check(run, *(() if stored is None else stored.functions))
            return (f"OpenVINO {installed()} reads it: {sizes}",)

        return write(parts, out, examine)

    def _read(self, path: Path) -> Part:
        from flashir_openvino.artefact import Part, read, verify

        names = verify(path)
        stored = read(path, path.with_suffix(".bin"))
        return Part(stored.model, {**stored.metadata, **({DECODER_PARTS: json.dumps(names)} if names else {})})

    def _model(self, path: Path) -> tuple[Graph, Model]:
        stored = self._read(path)
        return loads(stored.metadata[MODEL_TEXT], str(path)), stored.model


def _main_file(path: Path) -> Path:
    return path / OpenVinoBackend.main_file if path.is_dir() else path
