"""A decoder as an artefact: decoder.onnx, or prefill.onnx and step.onnx, next to model.onnx."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

from flashir.backends.decoding import Decoding, Extending, StateSpec
from flashir.backends.protocols import MODEL_TEXT, StoredDecoder
from flashir.errors import ArtefactError
from flashir.files.foreign import parse_json
from flashir.ir import Graph, loads
from flashir_onnx.artefact import DECODER_FILE, MODEL_FILE, PREFILL_FILE, STEP_FILE, Part, read
from flashir_onnx.continuing import Continued
from flashir_onnx.emit import Emitted, emit
from flashir_onnx.form import FORM, Form
from flashir_onnx.genai import PAD, Slot, add_missing
from flashir_onnx.guard import guard_extend, guard_prefill, guard_step
from flashir_onnx.in_place import allow_in_place
from flashir_onnx.seal import EXPORT_AGAIN
from flashir_onnx.session import Session
from flashir_onnx.types import check_dtypes, numpy_type

STATE, VOCAB, MAX_LEN = "flashir.state", "flashir.vocab", "flashir.max_len"
"""Further metadata keys of the files of a decoder.

`flashir.state` is a JSON list of `{"input", "output", "dtype", "shape"}`, in the order of the inputs; a shape has
"batch" for the number of rows. `flashir.max_len` is present if the length of a sequence is limited.
"""


def parts(
    graph: Graph,
    decoding: Decoding | Extending,
    params: Mapping[str, npt.NDArray[Any]],
    entries: Mapping[str, str],
    slots: Mapping[str, Slot] | None = None,
    *,
    form: Form = FORM,
) -> dict[str, Part]:
    """The models of the artefact, states in slots of ONNX Runtime GenAI if given. `form`, errors as for `emit`."""
    check_dtypes(state.type.dtype for state in decoding.state)
    called = {state.name: (state.name, f"next.{state.name}") for state in decoding.state}
    called |= {name: slot.names for name, slot in (slots or {}).items()}
    inputs, outputs = ([called[state.name][side] for state in decoding.state] for side in (0, 1))
    vocab = decoding.graphs[-1].outputs[0].type.shape[-1]
    states = [_described(state, *called[state.name]) for state in decoding.state]
    more = {**entries, VOCAB: str(vocab), STATE: json.dumps(states)}
    if decoding.max_len is not None:
        more[MAX_LEN] = str(decoding.max_len)
    results = ["logits", *outputs]

    def emitted(graph: Graph, *first: str, guard: Any, takes_states: bool = True) -> Emitted:
        file = emit(
            graph,
            params,
            results,
            inputs=(*first, *inputs) if takes_states else first,
            guard=guard,
            few_rows=takes_states,
            form=form,
        )
        if takes_states:
            allow_in_place(file.model.graph, graph, len(inputs))
            add_missing(file.model.graph, [*(slots or {}).values()])
        return file

    if isinstance(decoding, Extending):
        guard = partial(guard_extend, limit=decoding.max_len, least=PAD if slots else 0)
        files = {DECODER_FILE: emitted(decoding.extend, "input_ids", "position_ids", guard=guard)}
    else:
        prefill = emitted(decoding.prefill, "input_ids", "lengths", guard=guard_prefill, takes_states=False)
        step = emitted(decoding.step, "input_ids", guard=partial(guard_step, limit=decoding.max_len))
        files = {PREFILL_FILE: prefill, STEP_FILE: step}
    return {MODEL_FILE: Part(emit(graph, params, form=form), entries)} | {
        name: Part(file, more) for name, file in files.items()
    }


def examining(check: Callable[..., object] | None, *, lean: bool) -> Callable[[Mapping[str, Path]], object] | None:
    """Wrap a check of functions as a check of files; with `lean`, they run with little memory."""
    if check is None:
        return None

    def examine(files: Mapping[str, Path]) -> None:
        whole, *rest = (Session(files[name], lean=lean) for name in files)
        check(whole, *(Continued(part, "cpu") for part in rest))

    return examine


def load(path: Path, device: str) -> StoredDecoder | None:
    """Load and verify the decoder of a model.onnx; None if it has none. Raises the errors of `read` and Session."""
    metadata = read(path)
    names = [name for name in (DECODER_FILE, PREFILL_FILE, STEP_FILE) if name in metadata]
    if not names:
        return None
    entries = metadata[names[-1]]
    limit = None
    if MAX_LEN in entries:
        limit = parse_json(entries[MAX_LEN], path, ArtefactError, int, problem="its metadata are damaged")
    sessions = {name: Session(path.with_name(name), device) for name in names}
    own = 2 if names == [DECODER_FILE] else 1  # token ids, and for decoder.onnx their positions
    taken = sessions[names[-1]].runtime.get_inputs()[own:]
    for name, session in sessions.items():
        returned = session.runtime.get_outputs()[1:]
        if len(returned) != len(taken) or any(map(_differ, returned, taken)):
            problem = f"its results are not logits and the states that {names[-1]} takes"
            raise ArtefactError(problem, where=str(path.with_name(name)), hint=EXPORT_AGAIN)
    functions = tuple(Continued(session, device) for session in sessions.values())
    return StoredDecoder(loads(entries[MODEL_TEXT], str(path)), limit, functions)


def _differ(one: Any, other: Any) -> bool:
    """Whether an output and an input differ in their type, or in sizes that both have fixed."""
    sizes = zip(one.shape, other.shape)
    return one.type != other.type or any({type(x), type(y)} == {int} and x != y for x, y in sizes)


def _described(state: StateSpec, before: str, after: str) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else "batch" for size in state.type.shape]
    return {"input": before, "output": after, "dtype": numpy_type(state.type.dtype).name, "shape": shape}
