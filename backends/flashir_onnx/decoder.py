"""A decoder as an artefact: prefill.onnx and step.onnx next to model.onnx, with a description of their states."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
from onnx import GraphProto, TensorProto, helper

from flashir.backends.decoding import Decoding, StateSpec
from flashir.backends.protocols import Run, StepFn, StoredDecoder
from flashir.ir import Graph, loads
from flashir_onnx.artefact import MODEL_FILE, PREFILL_FILE, STEP_FILE, Part, read
from flashir_onnx.continuing import Continued, renewed
from flashir_onnx.emit import emit, rename
from flashir_onnx.form import FORM, Form
from flashir_onnx.seal import MODEL
from flashir_onnx.session import Session
from flashir_onnx.types import numpy_type

STATE, VOCAB, MAX_LEN = "flashir.state", "flashir.vocab", "flashir.max_len"
"""Further metadata keys of prefill.onnx and step.onnx.

`flashir.state` is a JSON list of `{"input", "output", "dtype", "shape"}`, in the order of the inputs; a shape has
"batch" for the number of rows. `flashir.max_len` is present if the length of a sequence is limited.
"""


def parts(
    graph: Graph,
    decoding: Decoding,
    params: Mapping[str, npt.NDArray[Any]],
    about: Mapping[str, str],
    *,
    form: Form = FORM,
) -> dict[str, Part]:
    """The three models of the artefact; `form` as for `emit`. Raises the TargetError of `emit`."""
    states = [state.name for state in decoding.state]
    results = ["logits", *map(_after, states)]
    vocab = decoding.step.outputs[0].type.shape[-1]
    more = {**about, VOCAB: str(vocab), STATE: json.dumps([_described(state) for state in decoding.state])}
    if decoding.max_len is not None:
        more[MAX_LEN] = str(decoding.max_len)
    hosted = partial(emit, params=params, results=results, same_rows=True, form=form)
    prefill = hosted(decoding.prefill, inputs=("input_ids", "lengths"))
    step = hosted(decoding.step, inputs=("input_ids", *states))
    for name, in_place in zip(states, renewed(decoding.step), strict=True):
        if not in_place:
            _read_first(step.model.graph, name)
    model = Part(emit(graph, params, form=form), about)
    return {MODEL_FILE: model, PREFILL_FILE: Part(prefill, more), STEP_FILE: Part(step, more)}


def examining(
    check: Callable[[Run, StepFn, StepFn], object] | None, *, lean: bool
) -> Callable[[Mapping[str, Path]], object] | None:
    """Wrap a check of functions as a check of files; with `lean`, they run with little memory."""
    if check is None:
        return None

    def examine(files: Mapping[str, Path]) -> None:
        whole, prefill, step = (Session(files[name], lean=lean) for name in (MODEL_FILE, PREFILL_FILE, STEP_FILE))
        check(whole, Continued(prefill, "cpu"), _in_place(step, "cpu"))

    return examine


def load(path: Path, device: str) -> StoredDecoder | None:
    """Load and verify the decoder of a model.onnx; None if it has none. Raises the errors of `read` and Session."""
    metadata = read(path)
    if not {PREFILL_FILE, STEP_FILE} <= metadata.keys():
        return None
    about = metadata[STEP_FILE]
    prefill = Continued(Session(path.with_name(PREFILL_FILE), device), device)
    step = _in_place(Session(path.with_name(STEP_FILE), device), device)
    limit = int(about[MAX_LEN]) if MAX_LEN in about else None
    return StoredDecoder(loads(about[MODEL], str(path)), limit, prefill, step)


def _in_place(step: Session, device: str) -> Continued:
    """A step that overwrites every state in place."""
    states = len(step.runtime.get_outputs()) - 1
    return Continued(step, device, (True,) * states)


def _after(name: str) -> str:
    return f"next.{name}"


def _described(state: StateSpec) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else "batch" for size in state.type.shape]
    dtype = numpy_type(state.type.dtype).name
    return {"input": state.name, "output": _after(state.name), "dtype": dtype, "shape": shape}


def _read_first(step: GraphProto, name: str) -> None:
    """Let a host bind the output of a state to the memory of its input, even if several ops read the input.

    All ops read a copy of the input, and the result depends on that copy too, so it is written last. The copy is a
    `Where` with a constant condition, which runtimes neither remove nor compute in place.
    """
    before, after, always = f"{name}/before", f"{name}/after", f"{name}/always"
    rename(step.node, {name: before, _after(name): after})
    nodes = [
        helper.make_node(
            "Constant", [], [always], name=always, value=helper.make_tensor(always, TensorProto.BOOL, [], [True])
        ),
        helper.make_node("Where", [always, name, name], [before], name=before),
        *step.node,
        helper.make_node("Where", [always, after, before], [_after(name)], name=_after(name)),
    ]
    del step.node[:]
    step.node.extend(nodes)
