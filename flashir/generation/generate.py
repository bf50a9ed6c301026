"""Generation: a decoder compiled for prefill and step, and the loop around them.

decoder = flashir.decoder(model, "onnx:cpu", params)
for tokens in flashir.generate(decoder, [[1, 2, 3], [4]], tokens=64):
    ...                                         # the next token of each row, int64 [b]
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
from flashir.backends.decoding import Decoding, decoding, lowered
from flashir.backends.protocols import DecoderExporter, DeviceState, Exporter, StatefulBackend, StepFn
from flashir.backends.registry import backend_of
from flashir.errors import Faults, InputError, SettingError, TargetError, counted, option
from flashir.execution.prepare import prepare
from flashir.generation.host_interface import hosted
from flashir.generation.prompts import Prompts, checked
from flashir.generation.sampling import Sampling, SplitMix64, not_whole
from flashir.ir import Graph
from flashir.machine.device import available_device
from flashir.machine.memory import gigabytes
from flashir.machine.targets import target as find_target
from flashir.planning.extent import Extent
from flashir.reference import inputs
from flashir.reference.cross_entropy import need_logits
from flashir.transforms.one_document import OneDocument

Array = npt.NDArray[Any]


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
    """A model that decodes token by token on a target. Its state stays on the device.

        logits, state = decoder.prefill([[1, 2, 3], [4]])       # float32 [b, v], of each prompt's last token
        logits, state = decoder.step([5, 6], state)             # int [b], the next token of each row -> [b, v]

    `limit` is the longest sequence in tokens, `rows` the most sequences that fit in memory; None for no known limit.
    """

    def __init__(self, model: Graph, limit: int | None, prefill: StepFn, step: StepFn, rows: int | None = None) -> None:
        self.model = OneDocument().apply(model)
        self.limit, self.rows = limit, rows
        self._prefill, self._step = prefill, step

    def checked(self, prompts: Prompts) -> list[Array]:
        """The prompts as arrays [t]. Raises the InputError of `prefill` before anything is computed."""
        return checked(self.model, prompts, self.limit, self.rows)

    @typed
    def prefill(self, prompts: Prompts) -> tuple[Array, State]:
        """Process prompts of any lengths.

        Raises:
            InputError: there are no prompts, or more than fit in memory; one is empty or too long; or a token is
                outside the vocabulary.
        """
        rows = self.checked(prompts)
        lengths = np.array([len(row) for row in rows])
        ids = np.zeros((len(rows), lengths.max()), np.result_type(*rows))
        for row, padded in zip(rows, ids, strict=True):
            padded[: len(row)] = row
        logits, kept = self._prefill([ids, lengths], ())
        return logits, State(lengths, self, kept)

    def step(self, ids: npt.ArrayLike, state: State) -> tuple[Array, State]:
        """Process the next token of each row, [b].

        Raises:
            InputError: the state belongs to another decoder or batch, or was used before; the sequence would become
                too long; or a token is outside the vocabulary.
        """
        if not isinstance(state, State):
            raise InputError(f"state must be one that prefill or step returned, got {shown(state)}")
        tokens = inputs.array("ids", ids)
        problems = []
        if state.of is not self:
            problems.append("the state belongs to another decoder")
        elif state.kept is None:
            problems.append("the state was used before; use the one that its step returned")
        if tokens.shape != (state.batch,):
            problems.append(f"a step of {state.batch} rows takes a token of each, got shape {tokens.shape}")
        if problems:
            raise InputError(problems)
        position = state.position + 1
        self._check_length(position)
        inputs.check(self.model, [tokens[:, None]])
        kept, state.kept = state.kept, None
        assert kept is not None
        logits, after = self._step([tokens], kept)
        return logits, State(position, self, after)

    def _check_length(self, lengths: Array) -> None:
        if self.limit is not None and lengths.max() > self.limit:
            most = counted(lengths.max(), "token")
            raise InputError(
                f"row {lengths.argmax()} would have {most}, this decoder can hold {self.limit}",
                hint="make a decoder with a larger max_len, where the model allows it",
            )


class Continuer(Protocol):
    """The interface that `generate` needs: a `Decoder` or anything like it."""

    @property
    def limit(self) -> int | None:
        """The longest sequence in tokens; None for no known limit."""

    def prefill(self, prompts: Prompts, /) -> tuple[Array, Any]:
        """As `Decoder.prefill`."""

    def step(self, ids: npt.ArrayLike, state: Any, /) -> tuple[Array, Any]:
        """As `Decoder.step`."""


@typed
def decoder(
    model: Graph,
    target: str = "onnx:cpu",
    params: Mapping[str, Any] | None = None,
    *,
    max_len: int | None = None,
    length: int | None = None,
    **choices: Any,
) -> Decoder:
    """Compile a causal model for decoding token by token.

    Args:
        model: as for `decoding`; open choices are planned.
        target, params: as for `compile`.
        max_len: the number of tokens that the caches of full attention hold, and so the longest sequence.
        length: as for `decoding`.
        choices: `seed`, `batch`, `seq_len`, `chunk`, `cumsum`, `dtype`, `policy`, `strict`, as for `compile`.

    Raises:
        SettingError: as for `decoding` and `plan`, or the state of one sequence does not fit in memory.
        TargetError: the device is not available, or its backend cannot keep state.
        ParameterError: as for `compile`.
    """
    ready = prepare(model, target, params, **choices)
    if not isinstance(ready.backend, StatefulBackend):
        raise TargetError(f"{ready.backend.name} keeps no state between calls, so it cannot decode", where=target)
    graphs = hosted(decoding(ready.plan.graph, max_len=max_len, length=length))
    rows = _rows(graphs, target)
    graphs = lowered(ready.lowering, graphs)
    prefill, step = ready.backend.continuing([graphs.prefill, graphs.step], ready.params, available_device(target))
    return Decoder(ready.plan.graph, longest(ready.plan.graph, max_len), prefill, step, rows)


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
    return Decoder(loaded.model, loaded.limit, loaded.prefill, loaded.step)


@typed
def generate(
    decoder: Continuer,
    prompts: Prompts,
    *,
    tokens: int = 64,
    sampling: Sampling | None = None,
    seed: int = 0,
    ends: Iterable[int] = (),
) -> Iterator[npt.NDArray[np.int64]]:
    """Generate the tokens that follow prompts, [b] at a time. The call itself processes the prompts.

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
        InputError: as for `Decoder.prefill`, or during generation if logits are not finite.
    """
    faults, stop = Faults(), list(ends)
    faults.of(_check_numbers, tokens, stop)
    random = faults.of(SplitMix64, seed)
    if isinstance(decoder, Decoder):  # other implementations have no model to check
        faults.of(need_logits, decoder.model, "there is no next token")
        faults.of(decoder.checked, prompts)
    faults.tell()
    assert random is not None
    return _continued(decoder, *decoder.prefill(prompts), tokens, sampling or Sampling(), random, stop)


def _check_numbers(tokens: int, ends: Sequence[int]) -> None:
    """Raise SettingError if a number is invalid."""
    if problems := [*not_whole("tokens", tokens), *(problem for end in ends for problem in not_whole("an end", end))]:
        raise SettingError(problems)


def _continued(
    decoder: Continuer,
    logits: Array,
    state: Any,
    tokens: int,
    sampling: Sampling,
    random: SplitMix64,
    ends: Sequence[int],
) -> Iterator[npt.NDArray[np.int64]]:
    picked, ended = np.zeros(len(logits), np.int64), np.zeros(len(logits), np.bool_)
    for left in reversed(range(tokens)):
        drawn = sampling.pick(logits, random)
        picked = np.where(ended, picked, drawn) if ends else drawn
        ended |= np.isin(picked, ends)
        yield picked
        full = decoder.limit is not None and state.position.max() >= decoder.limit
        if full or not left or ended.all():
            return
        logits, state = decoder.step(picked, state)


def longest(model: Graph, max_len: int | None = None) -> int | None:
    """The longest sequence in tokens, limited by caches and by ops with a `max_len`; None for no limit."""
    limits = (max_len, Extent.of(model).longest)
    return min((limit for limit in limits if limit is not None), default=None)


def _rows(graphs: Decoding, target: str) -> int:
    """How many sequences fit in the memory of a target. Raises SettingError if none does."""
    memory, batch = find_target(target).memory, graphs.step.inputs[0].type.shape[0]
    state_bytes = sum(state.type.substitute({str(batch): 1}).bytes for state in graphs.state)
    if state_bytes > memory:
        raise SettingError(
            f"the state of a sequence takes {gigabytes(state_bytes)}, the memory of {target} is {gigabytes(memory)}",
            hint="choose a smaller max_len",
        )
    return int(memory // state_bytes)
