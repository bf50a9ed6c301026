"""The ONNX backend: claims, compilation, export, loading. `emit.py` makes the model, `artefact.py` writes the files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from flashir.backends.decoding import Decoding, Extending
from flashir.backends.protocols import MODEL_TEXT, Params, Run, StepFn, StoredDecoder, Written
from flashir.errors import ArtefactError
from flashir.ir import DType, Graph, Node, TensorType, dumps, loads
from flashir.ops import OPS
from flashir.transforms.pipeline import Pass
from flashir.transforms.split_projections import SplitProjections
from flashir.transforms.widen_scan import WidenScan
from flashir.version import __version__
from flashir_onnx.form import FORM, Form

if TYPE_CHECKING:
    from flashir_onnx.artefact import Part


@dataclass(frozen=True)
class OnnxBackend:
    """ONNX models, run by ONNX Runtime.

    Args:
        weights: the type of quantised weights, such as `int8`; None for the compute dtype.
        form: how models are written.
        host: the program that runs decoders, such as `genai`; None for any.
    """

    name: ClassVar[str] = "onnx"
    extra: ClassVar[str] = ""
    records: ClassVar[Path] = Path(__file__).parent / "targets"
    main_file: ClassVar[str] = "model.onnx"
    decoder_files: ClassVar[tuple[str, ...]] = ("decoder.onnx", "prefill.onnx", "step.onnx")
    hosts: ClassVar[tuple[str, ...]] = ("genai",)
    weights: str | None = None
    form: Form = FORM
    host: str | None = None

    def versions(self) -> dict[str, str]:
        """The versions of onnx and onnxruntime."""
        return {name: version(name) for name in ("onnx", "onnxruntime")}

    def devices(self) -> tuple[str, ...]:
        """The devices that ONNX Runtime finds on this machine."""
        from flashir_onnx.runtime import onnxruntime

        ort = onnxruntime()

        from flashir_onnx.session import PROVIDERS

        return tuple(name for name, provider in PROVIDERS.items() if provider in ort.get_available_providers())

    def claims(self, node: Node) -> bool:
        """Every op with an emitter; operators of ONNX Runtime and ops in branches, but not in a portable model."""
        from flashir_onnx import contrib, portable
        from flashir_onnx.emit import STRUCTURED
        from flashir_onnx.emitters import EMITTERS

        if node.op in EMITTERS or node.op in STRUCTURED:
            return True
        if self.form.portable:
            return portable.claims(node, self.form.opset)
        return bool(OPS[node.op].needed_if) or contrib.claims(node)

    def check_types(self, dtypes: Iterable[DType], device: str) -> None:
        """ONNX Runtime has no kernels for bfloat16 on processors. See HasTypes."""
        from flashir_onnx.types import check_dtypes

        check_dtypes(dtypes)

    def portable(self) -> OnnxBackend:
        """This backend with models that use only what every runtime supports. See Portable."""
        return replace(self, form=replace(self.form, portable=True))

    def formatted(self, opset: int | None, ids: str | None) -> OnnxBackend:
        """This backend with models of this opset, and of this type of token ids. See Versioned."""
        form = replace(self.form, opset=opset or self.form.opset, ids=ids or self.form.ids)
        return replace(self, form=form)

    def quantised(self, kind: str) -> OnnxBackend:
        """This backend with quantised weights in its artefacts. See Quantising."""
        from flashir_onnx.quantise import quantiser

        quantiser(kind)
        return replace(self, weights=kind)

    def for_host(self, host: str) -> OnnxBackend:
        """This backend with decoders that a program runs as they are. See Hosting."""
        return replace(self, host=host)

    def layout(self, types: dict[str, TensorType]) -> dict[str, TensorType]:
        """The types of states that the program wants. See Hosting."""
        from flashir_onnx.genai import layout

        return types if self.host is None else layout(types)

    def host_files(self, decoding: Extending, ends: Sequence[int], piece: int) -> dict[str, bytes]:
        """The configuration of the program. See Hosting."""
        from flashir_onnx.genai import CONFIG, config

        return {} if self.host is None else {CONFIG: config(decoding, ends, piece)}

    def passes(self) -> tuple[Pass, ...]:
        """ONNX Runtime multiplies narrow matrices as fast as wide ones, copies on split, and fuses little.

        Loops of portable models copy what they read in each step, so weights stay outside.
        """
        return (SplitProjections(),) if self.form.portable else (SplitProjections(), WidenScan())

    def compile(self, graph: Graph, params: Params, device: str) -> Run:
        """Compile a graph into a session."""
        from flashir_onnx.emit import emit
        from flashir_onnx.session import Session

        return Session(emit(graph, params, form=self.form), device)

    def continuing(self, graphs: Sequence[Graph], params: Params, device: str) -> tuple[StepFn, ...]:
        """Sessions with bound results, so that states are not copied. See StatefulBackend."""
        from flashir_onnx.continuing import continued

        return tuple(continued(graph, params, device) for graph in graphs)

    def export(
        self,
        model: Graph,
        graph: Graph,
        params: Params,
        out: Path,
        metadata: Mapping[str, str],
        check: Callable[[Run], object] | None = None,
    ) -> Written:
        """Write `out/model.onnx`, and a data file if the weights are large. See Exporter."""
        from flashir_onnx.artefact import MODEL_FILE, Part, write
        from flashir_onnx.emit import emit, result_names
        from flashir_onnx.session import Session

        def examine(files: Mapping[str, Path]) -> None:
            if check is not None:
                check(Session(files[MODEL_FILE], lean=self._lean))

        part = Part(emit(graph, params, result_names(model), form=self.form), self._about(model, metadata))
        return write(self._narrowed({MODEL_FILE: part}), out, examine)

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
        """Write `model.onnx`, the files of the decoder and their shared data file. See DecoderExporter."""
        from flashir_onnx.artefact import write
        from flashir_onnx.decoder import examining, parts
        from flashir_onnx.genai import slots_of

        slots = None if self.host is None else slots_of(decoding)
        models = parts(graph, decoding, params, self._about(model, metadata), slots, form=self.form)
        return write(self._narrowed(models), out, examining(check, lean=self._lean))

    def load_decoder(self, path: Path, device: str) -> StoredDecoder | None:
        """Load the decoder beside a model.onnx. See DecoderExporter."""
        from flashir_onnx.decoder import load

        return load(_main_file(path), device)

    def stored(self, path: Path) -> tuple[Graph, Params]:
        """The model from the metadata of model.onnx, and its parameters from the initializers. See Exporter."""
        from flashir_onnx.stored import stored

        return stored(_main_file(path))

    def files(self, path: Path) -> tuple[Path, ...]:
        """model.onnx, the files of a decoder, and data files. See Exporter."""
        from flashir_onnx.artefact import files

        return files(_main_file(path))

    def metadata(self, path: Path) -> dict[str, str]:
        """The metadata of `model.onnx`. See Exporter."""
        from flashir_onnx.seal import Reader

        return Reader().metadata(_main_file(path))

    def load(self, path: Path, device: str, *, lean: bool = False) -> tuple[Graph, Run]:
        """Verify an artefact, and return its model and a session. See Exporter."""
        from flashir_onnx.decoder import STATE
        from flashir_onnx.seal import Reader
        from flashir_onnx.session import Session

        path = _main_file(path)
        metadata = Reader().metadata(path)
        if STATE in metadata:
            raise ArtefactError("this is a file of a decoder", where=str(path), hint="give the folder it is in")
        model = loads(metadata[MODEL_TEXT], str(path))
        return model, Session(path, device, lean=lean)

    @property
    def _lean(self) -> bool:
        """Whether a check may run an artefact in lean mode, which computes int8 products in float."""
        return self.weights is None

    def _narrowed(self, parts: Mapping[str, Part]) -> Mapping[str, Part]:
        from flashir_onnx.quantise import quantiser

        if self.weights is None:
            return parts
        narrow = quantiser(self.weights, runtime_ops=not self.form.portable)
        return {name: replace(part, emitted=narrow(part.emitted)) for name, part in parts.items()}

    def _about(self, model: Graph, metadata: Mapping[str, str]) -> dict[str, str]:
        """The metadata of every model file."""
        from flashir.backends.narrow_weights import weights_entry

        return {**metadata, **weights_entry(self.weights), MODEL_TEXT: dumps(model), "flashir.version": __version__}


def _main_file(path: Path) -> Path:
    from flashir_onnx.artefact import MODEL_FILE

    return path / MODEL_FILE if path.is_dir() else path
