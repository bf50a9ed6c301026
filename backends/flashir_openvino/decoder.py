"""A decoder as an artefact: decoder.xml, or prefill.xml and step.xml, next to model.xml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from flashir.backends.decoding import Decoding, Extending
from flashir.backends.protocols import MODEL_TEXT, StoredDecoder
from flashir.errors import ArtefactError, TargetError, option
from flashir.files.foreign import parse_json
from flashir.ir import Graph, loads
from flashir.planning.plan import compute_type as planned_type
from flashir_onnx.decoder import MAX_LEN, STATE, VOCAB
from flashir_openvino.artefact import DECODER_FILE, PREFILL_FILE, STEP_FILE, Part, read, verify
from flashir_openvino.continuing import continued
from flashir_openvino.narrow_weights import Narrow
from flashir_openvino.precision import compute_type
from flashir_openvino.reading import read as model_of
from flashir_openvino.runtime import DATA_FILE
from flashir_openvino.session import compiled

FIRST = {DECODER_FILE: ("input_ids", "position_ids"), PREFILL_FILE: ("input_ids", "lengths"), STEP_FILE: ("input_ids",)}
"""The inputs before the states."""


def parts(
    decoding: Decoding | Extending,
    params: Mapping[str, npt.NDArray[Any]],
    metadata: Mapping[str, str],
    narrow: Narrow | None,
) -> dict[str, Part]:
    """The models of a decoder, with the interface of those for ONNX. Errors as for `reading.read`."""
    states = [state.name for state in decoding.state]
    results = ["logits", *(f"next.{name}" for name in states)]
    names = (DECODER_FILE,) if isinstance(decoding, Extending) else (PREFILL_FILE, STEP_FILE)

    def inputs(name: str) -> tuple[str, ...]:
        return FIRST[name] if name == PREFILL_FILE else (*FIRST[name], *states)

    models = {
        name: model_of(graph, params, results, narrow, inputs=inputs(name))
        for name, graph in zip(names, decoding.graphs, strict=True)
    }
    last = models[names[-1]]
    vocab = decoding.graphs[-1].outputs[0].type.shape[-1]
    more = {**metadata, VOCAB: str(vocab), STATE: json.dumps([_described(last.input(name), name) for name in states])}
    if decoding.max_len is not None:
        more[MAX_LEN] = str(decoding.max_len)
    return {name: Part(model, more) for name, model in models.items()}


def check_states(model: Graph, decoding: Decoding | Extending) -> None:
    """Raise TargetError if states are narrower than what the model computes in: OpenVINO narrows all or nothing."""
    kept, wanted = compute_type(decoding.graphs[-1]), planned_type(model)
    if kept is not wanted:
        raise TargetError(
            f"a decoder for OpenVINO keeps states in the type that it computes in, {wanted.value}, got {kept.value}",
            hint=f"leave out {option('states', kept.value)}",
        )


def load(path: Path, device: str) -> StoredDecoder | None:
    """Load and verify the decoder of a model.xml; None if it has none. Raises the errors of `read` and `compiled`."""
    names = verify(path)
    if not names:
        return None
    stored = {name: read(path.with_name(name), path.with_name(DATA_FILE)) for name in names}
    metadata = stored[names[-1]].metadata
    model, damaged = loads(metadata[MODEL_TEXT], str(path)), "its metadata are damaged"
    limit = None
    if MAX_LEN in metadata:
        limit = parse_json(metadata[MAX_LEN], path, ArtefactError, int, problem=damaged)
    described = parse_json(metadata[STATE], path, ArtefactError, list[dict[str, Any]], problem=damaged)
    dtype = planned_type(model)
    states = [str(state["input"]) for state in described]
    functions = (
        continued(
            part.model,
            [*FIRST[name], *(states if name != PREFILL_FILE else ())],
            lambda model: compiled(model, device, dtype),
        )
        for name, part in stored.items()
    )
    return StoredDecoder(model, limit, tuple(functions))


def _described(port: Any, name: str) -> dict[str, Any]:
    shape = ["batch" if size.is_dynamic else size.get_length() for size in port.partial_shape]
    return {"input": name, "output": f"next.{name}", "dtype": port.element_type.to_dtype().name, "shape": shape}
