"""Generation: a decoder, and the loop around it.

decoder = flashir.decoder(model, "onnx:cpu", params)
texts = flashir.generate(decoder, [[1, 2, 3], [4]], tokens=64)
for tokens in texts:
    ...                                         # the next token of each row, int64 [b]
for tokens in texts.then([[5, 6], [7]]):        # further prompts
    ...
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from flashir.arguments import shown, typed
from flashir.backends.decoding import Extending, extending
from flashir.backends.protocols import DecoderExporter, DeviceState, Exporter, StatefulBackend
from flashir.backends.registry import backend_of
from flashir.errors import Faults, InputError, SettingError, TargetError, option
from flashir.execution.prepare import prepare
from flashir.generation.calls import Calls, OneGraph, calls_of
from flashir.generation.prompts import Prompts, checked
from flashir.generation.sampling import Sampling, SplitMix64, bad_ends, not_whole
from flashir.ir import Graph
from flashir.ir.graph import Attr
from flashir.machine.device import available_device
from flashir.machine.memory import gigabytes
from flashir.machine.targets import target as find_target
from flashir.planning.extent import Extent
from flashir.reference import inputs
from flashir.reference.arrays import Array
from flashir.reference.cross_entropy import need_logits
from flashir.transforms.one_document import OneDocument

PIECE = 256
"""The least number of tokens that a decoder reads at once of a long prompt; it is a whole number of chunks."""


@dataclass
class State:
    """The state of a decoder for a batch of sequences. It can be used once.

    Args:
        position: the number of tokens so far of each row, [b].
        of: the decoder that returned it.
        kept: the state on the device; None after it was used.
    """

    position: npt.NDArray[np.int64]
    of: Decoder = field(repr=False)
    kept: DeviceState | None = field(repr=False)

    @property
    def batch(self) -> int:
        """The number of rows, b."""
        return len(self.position)


class Decoder:
    """A model that continues sequences on a target. Its state stays on the device.

        state, logits = decoder.start([[1, 2, 3], [4]])         # float32 [b, v], of each row's last token
        state, logits = decoder.extend(state, [[5], [6, 7]])    # any number of further tokens of each row
        state, logits = decoder.extend(state, [8, 9])           # int [b], one token of each row

    `limit` is the longest sequence in tokens, `rows` the most sequences that fit in memory; None for no known limit.
    """

    def __init__(self, model: Graph, limit: int | None, calls: Calls, rows: int | None = None) -> None:
        self.model = OneDocument().apply(model)
        self.limit, self.rows = limit, rows
        self._calls = calls

    def checked(self, prompts: Prompts) -> list[Array]:
        """The prompts as arrays [t]. Raises the InputError of `start` before anything is computed."""
        return checked(self.model, prompts, self.limit, self.rows)

    @typed
    def start(self, prompts: Prompts) -> tuple[State, Array]:
        """Begin a sequence for each prompt. Prompts may have different lengths.

        Raises:
            InputError: there are no prompts, or more than fit in memory; one is empty or too long; or a token is
                outside the vocabulary.
        """
        rows = self.checked(prompts)
        return self._read(rows, np.zeros(len(rows), np.int64), ())

    def extend(self, state: State, ids: Prompts | npt.ArrayLike) -> tuple[State, Array]:
        """Continue every sequence by at least one token, [b] or rows of any lengths.

        Raises:
            InputError: the state belongs to another decoder or batch, or was used before; a row has no tokens, or its
                sequence would become too long; a token is outside the vocabulary; or the decoder is of an export in
                two parts, and the rows have different lengths.
        """
        if not isinstance(state, State):
            raise InputError(f"state must be one that start or extend returned, got {shown(state)}")
        problems = []
        if state.of is not self:
            problems.append("the state belongs to another decoder")
        elif state.kept is None:
            problems.append("the state was used before; use the one that its extend returned")
        rows = _rows(ids)
        if len(rows) != state.batch:
            problems.append(f"the state has {state.batch} rows, got tokens for {len(rows)}")
        if problems:
            raise InputError(problems)
        rows = checked(self.model, rows, self.limit, before=state.position)
        kept, state.kept = state.kept, None
        assert kept is not None
        return self._read(rows, state.position, kept)

    def _read(self, rows: Sequence[Array], position: Array, kept: DeviceState) -> tuple[State, Array]:
        logits, after = self._calls(rows, position, kept)
        return State(position + np.array([len(row) for row in rows]), self, after), logits


def _rows(ids: Any) -> Any:
    """Rows of tokens; of numbers [b], a row each. Raises InputError for anything that is neither."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence):
        ids = inputs.array("ids", ids)
        if not ids.ndim:
            raise InputError(f"ids must be rows of tokens, got {shown(ids)}")
        return ids[:, None] if ids.ndim == 1 else ids
    return [[token] for token in ids] if all(isinstance(token, int | np.integer) for token in ids) else ids


class Continuer(Protocol):
    """The interface that `generate` needs: a `Decoder` or anything like it."""

    @property
    def limit(self) -> int | None:
        """The longest sequence in tokens; None for no known limit."""

    def start(self, prompts: Prompts, /) -> tuple[Any, Array]:
        """As `Decoder.start`."""

    def extend(self, state: Any, ids: Any, /) -> tuple[Any, Array]:
        """As `Decoder.extend`."""


@typed
def decoder(
    model: Graph,
    target: str = "onnx:cpu",
    params: Mapping[str, Any] | None = None,
    *,
    max_len: int | None = None,
    length: int | None = None,
    piece: int | None = None,
    seed: int = 0,
    batch: int = 1,
    seq_len: int = 4096,
    policy: str = "quality",
    dtype: str | None = None,
    tolerance: float | None = None,
    rechunk: bool = False,
    strict: bool = True,
    **choices: Attr,
) -> Decoder:
    """Compile a causal model for decoding.

    Args:
        model: as for `extending`; open choices are planned.
        target, params: as for `compile`.
        max_len: the number of tokens that the caches of full attention hold, and so the longest sequence.
        length: as for `extending`.
        piece: the most tokens that are read at once. A longer prompt is read piece by piece. By default it is the
            smallest number of whole chunks from 256 tokens on; an accelerator may be faster with more.
        seed, batch, seq_len, policy, dtype, tolerance, rechunk, strict, choices: as for `compile`.

    Raises:
        SettingError: as for `extending` and `plan`, `piece` is less than 1, or the state of one sequence does not fit
            in memory.
        TargetError: the device is not available, or its backend cannot keep state.
        ParameterError: as for `compile`.
    """
    if piece is not None and piece < 1:
        raise SettingError(f"piece must be at least 1, got {piece}")
    workload: dict[str, Any] = {"batch": batch, "seq_len": seq_len, "policy": policy}
    settings = {**workload, "dtype": dtype, "tolerance": tolerance, **choices}
    prepared = prepare(model, target, params, seed=seed, rechunk=rechunk, strict=strict, **settings)
    if not isinstance(prepared.backend, StatefulBackend):
        raise TargetError(f"{prepared.backend.name} keeps no state between calls, so it cannot decode", where=target)
    graph = prepared.plan.graph
    graphs = extending(graph, max_len=max_len, length=length)
    most = _most_rows(graphs, target)
    lowered = graphs.lowered(prepared.lowering).extend
    (extend,) = prepared.backend.continuing([lowered], prepared.params, available_device(target))
    return Decoder(graph, longest(graph, max_len), OneGraph(extend, piece or piece_of(graph)), most)


def piece_of(model: Graph) -> int:
    """The number of tokens that a decoder of a model reads at once: whole chunks."""
    chunks = [n for node in model.walk() if isinstance(n := node.attrs.get("chunk"), int)]
    largest = max(chunks, default=1)
    return -(-PIECE // largest) * largest


@typed
def restored(
    folder: str | Path, target: str = "onnx:cpu", *, max_len: int | None = None, length: int | None = None
) -> Decoder:
    """Load the decoder of an exported artefact, and verify every digest.

    Args:
        folder: the folder of an artefact. An artefact without a decoder is compiled again; int8 weights then become
            float32, with a warning.
        target: a target of the backend that wrote it.
        max_len, length: as for `decoder`; only for an artefact without a decoder.

    Raises:
        ArtefactError: a file is missing or damaged, or an artefact without a decoder cannot be loaded as a model.
        TargetError: the device is not available, or its backend cannot export or keep state.
        SettingError: as for `decoder`, or `max_len` or `length` is given for an artefact with a decoder.
    """
    backend, device, path = backend_of(target), available_device(target), Path(folder)
    if not isinstance(backend, Exporter):
        raise TargetError(f"the backend {backend.name!r} cannot export, so it cannot load an artefact", where=target)
    loaded = backend.load_decoder(path, device) if isinstance(backend, DecoderExporter) else None
    if loaded is None:
        from flashir.backends.narrow_weights import WEIGHTS

        model, params = backend.stored(path)
        if backend.metadata(path).get(WEIGHTS) == "int8":
            warnings.warn(
                f"{folder} has no decoder: its int8 weights are converted to float32, which takes four "
                f"times the memory; an export with {option('decode')} keeps them",
                stacklevel=2,
            )
        return decoder(model, target, params, max_len=max_len, length=length)
    if max_len is not None or length is not None:
        raise SettingError("its max_len and length were fixed at export", where=str(folder), hint="leave them out")
    return Decoder(loaded.model, loaded.limit, calls_of(loaded.functions, piece_of(loaded.model)))


@dataclass
class Texts(Iterator[npt.NDArray[np.int64]]):
    """Texts in the making. An iterator over the next token of each row, int64 [b].

    `then` continues the texts with further prompts.
    """

    decoder: Continuer
    sampling: Sampling
    random: SplitMix64
    ends: Sequence[int]
    state: Any
    logits: Array
    left: int
    picked: Array | None = None
    """The last token of each row, which the decoder has not read yet."""
    ended: Array | bool = False

    def __next__(self) -> npt.NDArray[np.int64]:
        """The next token of each row. Raises the InputError of `generate`."""
        full = self.picked is not None and self.decoder.limit is not None
        if not self.left or np.all(self.ended) or (full and self.state.position.max() >= self.decoder.limit):
            raise StopIteration
        if self.picked is not None:
            self.state, self.logits = self.decoder.extend(self.state, self.picked)
        drawn = self.sampling.pick(self.logits, self.random)
        self.picked = drawn if self.picked is None else np.where(self.ended, self.picked, drawn)
        self.ended = np.isin(self.picked, self.ends) | self.ended
        self.left -= 1
        return self.picked

    def then(self, prompts: Prompts, *, tokens: int = 64) -> Texts:
        """Read a further prompt of each row after its text, and continue.

        Args:
            prompts: rows of tokens, of any lengths, as many as there are texts.
            tokens: as for `generate`.

        Raises:
            SettingError: `tokens` is less than 0.
            InputError: as for `Decoder.extend`, or the texts have ended at different tokens.
        """
        _check_numbers(tokens, ())
        if np.any(self.ended) and not np.all(self.ended):
            raise InputError("the texts have ended at different places", hint="continue them one by one")
        rows = list(prompts)
        if self.picked is not None and len(rows) == len(self.picked) and all(len(row) for row in rows):
            rows = [[int(last), *row] for last, row in zip(self.picked, rows, strict=True)]
        state, logits = self.decoder.extend(self.state, rows)
        return Texts(self.decoder, self.sampling, self.random, self.ends, state, logits, tokens)


@typed
def generate(
    decoder: Continuer,
    prompts: Prompts,
    *,
    tokens: int = 64,
    sampling: Sampling | None = None,
    seed: int = 0,
    ends: Iterable[int] = (),
) -> Texts:
    """Generate the tokens that follow prompts, [b] at a time. The call itself reads the prompts.

    Args:
        decoder: the result of `decoder`.
        prompts: rows of tokens, of any lengths.
        tokens: the most tokens to generate. Generation stops earlier if a row reaches the limit of the decoder, or if
            all rows have ended.
        sampling: how to pick tokens; greedy by default.
        seed: the random seed; see `SplitMix64`.
        ends: tokens that end a row. An ended row repeats its last token until all have ended.

    Raises:
        SettingError: `tokens` is less than 0, the seed is out of range, an end is not a token, or the model returns no
            logits.
        InputError: as for `Decoder.start`, or during generation if logits are not finite.
    """
    faults, stop = Faults(), list(ends)
    faults.of(_check_numbers, tokens, stop)
    random = faults.of(SplitMix64, seed)
    if isinstance(decoder, Decoder):  # other implementations have no model to check
        faults.of(need_logits, decoder.model, "there is no next token")
        faults.of(decoder.checked, prompts)
    faults.tell()
    assert random is not None
    return Texts(decoder, sampling or Sampling(), random, stop, *decoder.start(prompts), tokens)


def _check_numbers(tokens: int, ends: Sequence[int]) -> None:
    """Raise SettingError if a number is invalid."""
    if problems := [*not_whole("tokens", tokens), *bad_ends(ends)]:
        raise SettingError(problems)


def longest(model: Graph, max_len: int | None = None) -> int | None:
    """The longest sequence in tokens, limited by caches and by ops with a `max_len`; None for no limit."""
    limits = (max_len, Extent.of(model).longest)
    return min((limit for limit in limits if limit is not None), default=None)


def _most_rows(decoder: Extending, target: str) -> int | None:
    """How many sequences fit in the memory of a target; None if there is no state. Raises SettingError if none does."""
    memory, batch = find_target(target).memory, decoder.extend.inputs[0].type.shape[0]
    state_bytes = sum(state.type.substitute({str(batch): 1}).bytes for state in decoder.state)
    if not state_bytes:
        return None
    if state_bytes > memory:
        raise SettingError(
            f"the state of a sequence takes {gigabytes(state_bytes)}, the memory of {target} is {gigabytes(memory)}",
            hint="choose a smaller max_len",
        )
    return int(memory // state_bytes)
