"""The parameters in an artefact, back from the form in which they are written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from flashir.errors import ArtefactError
from flashir.ir import Graph, loads
from flashir.ir.naming import parameters
from flashir.quantised import WEIGHTS
from flashir_onnx.seal import MODEL, Reader

Array = npt.NDArray[Any]


def stored(path: Path) -> tuple[Graph, dict[str, npt.NDArray[np.float32]]]:
    """The model and its parameters.

    A parameter is written under its own name, in another shape (`NAME/reshape`), in parts (`NAME/split.0`, ..), and any
    of these in float16 (`NAME/float16`).

    Raises:
        ArtefactError: the files are damaged, or a parameter is written in no such form.
    """
    about = Reader().metadata(path)
    graph = loads(about[MODEL], str(path))
    written = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    found = {name: _whole(name, written, spec.shape) for name, spec in parameters(graph).items()}
    missing = [name for name, array in found.items() if array is None]
    if missing:
        raise ArtefactError(
            f"the parameters {', '.join(missing[:3])}{', ..' * (len(missing) > 3)} are not whole in it; "
            f"its weights are {about.get(WEIGHTS, 'written in another form')}",
            where=str(path),
            mend="take the parameters that it was made from: --params FILE, or their checkpoint; "
            "to be continued, an export wants --decode",
        )
    return graph, {name: np.asarray(array, np.float32) for name, array in found.items() if array is not None}


def _whole(name: str, written: dict[str, Array], shape: tuple[int, ...]) -> Array | None:
    """A parameter, from whatever of it is written."""
    forms = re.compile(re.escape(name) + r"(/reshape|/split\.(\d+))?(/float16)?")
    parts = sorted((int(match[2] or 0), each) for each in written if (match := forms.fullmatch(each)))
    if not parts:
        return None
    arrays = [written[each] for _, each in parts]
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)
    return joined.reshape(shape) if joined.size == np.prod(shape) else None
