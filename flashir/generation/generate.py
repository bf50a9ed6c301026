"""Generation: a model compiled for prompts and steps, and the loop around them.

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
from flashir.execution.compile import prepare
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
    """What a decoder knows of a batch of sequences after some tokens. It can be used once.

    Args:
        position: tokens so far of each row, [b].
        of: the decoder that made it.
        kept: the states where the backend keeps them; None once they are used.
    """

    position: npt.NDArray[np.int64]
    of: Decoder = field(repr=False)
    kept: DeviceState | None = field(repr=False)

    @property
    def batch(self) -> int:
        """b, the rows."""
        return len(self.position)


class Decoder:
    """A model that continues sequences on a target: numpy in, numpy out, states where the target keeps them.

        logits, state = decoder.prefill([[1, 2, 3], [4]])       # float32 [b, v], of each prompt's last token
        logits, state = decoder.step([5, 6], state)             # int [b], the next token of each row -> [b, v]

    `limit` is how long a sequence may become, `rows` for how many at once memory has room; None where nobody knows one.
    """

    def __init__(self, model: Graph, limit: int | None, prefill: StepFn, step: StepFn, rows: int | None = None) -> None:
        self.model = OneDocument().apply(model)
        self.limit, self.rows = limit, rows
        self._prefill, self._step = prefill, step

    def checked(self, prompts: Prompts) -> list[Array]:
        """Prompts as arrays [t]. Raises InputError as `prefill`, before anything is computed."""
        return checked(self.model, prompts, self.limit, self.rows)

    @typed
    def prefill(self, prompts: Prompts) -> tuple[Array, State]:
        """Read prompts, of any lengths.

        Raises:
            InputError: there is none, or more than memory has room for; one is empty or too long, or a token is outside
                the vocabulary.
        """
        rows = self.checked(prompts)
        lengths = np.array([len(row) for row in rows])
        ids = np.zeros((len(rows), lengths.max()), np.result_type(*rows))
        for row, padded in zip(rows, ids, strict=True):
            padded[: len(row)] = row
        logits, kept = self._prefill([ids, lengths], ())
        return logits, State(lengths, self, kept)

    def step(self, ids: npt.ArrayLike, state: State) -> tuple[Array, State]:
        """Read the next token of each row, [b].

        Raises:
            InputError: the state is of another decoder or batch, or was used; the sequence would become too long; a
                token is outside the vocabulary.
        """
        if not isinstance(state, State):
            raise InputError(f"state must be one that prefill or step returned, got {shown(state)}")
        tokens = inputs.array("ids", ids)
        problems = []
        if state.of is not self:
            problems.append("the state is that of another decoder")
        elif state.kept is None:
            problems.append("the state was used before; go on from the one that its step returned")
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
    """What `generate` continues texts by: a `Decoder`, or whatever acts like one."""

    @property
    def limit(self) -> int | None:
        """How long a sequence may become; None where nobody knows."""

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
    """A causal model as something that continues sequences.

    Args:
        model: as for `decoding`; what it leaves open is planned.
        target, params: as for `compile`.
        max_len: how many tokens caches hold, where a layer attends to every token; the longest sequence then.
        length: as for `decoding`.
        choices: `seed`, `batch`, `seq_len`, `chunk`, `cumsum`, `dtype`, `policy`, `strict`, as for `compile`.

    Raises:
        SettingError: as `decoding` and `plan`; and where what one sequence keeps does not fit the device.
        TargetError: the device is not at hand, or its backend keeps no states.
        ParameterError: as `compile`.
    """
    ready = prepare(model, target, params, **choices)
    if not isinstance(ready.backend, StatefulBackend):
        raise TargetError(f"{ready.backend.name} keeps no states between calls, so it cannot decode", where=target)
    graphs = hosted(decoding(ready.plan.graph, max_len=max_len, length=length))
    rows = _rows(graphs, target)
    made = lowered(ready.lowering, graphs)
    prefill, step = ready.backend.continuing([made.prefill, made.step], ready.params, available_device(target))
    return Decoder(ready.plan.graph, longest(ready.plan.graph, max_len), prefill, step, rows)


@typed
def restored(
    folder: str | Path, target: str = "onnx:cpu", *, max_len: int | None = None, length: int | None = None
) -> Decoder:
    """The decoder in a folder that `export` wrote, every digest verified.

    Args:
        folder: of an artefact. Where it has the model alone, that is compiled anew; of int8 weights with what they
            stand for as float32, and a warning.
        target: of the backend that wrote it.
        max_len, length: as for `decoder`, where the folder has the model alone.

    Raises:
        ArtefactError: a file is missing or damaged, or the model alone is there in a form that cannot be read back.
        TargetError: the device is not at hand, or its backend cannot export, or keeps no states.
        SettingError: as `decoder`; or the folder has a decoder, and `max_len` or `length` is given.
    """
    found, device, path = backend_of(target), available_device(target), Path(folder)
    if not isinstance(found, Exporter):
        raise TargetError(f"the backend {found.name!r} cannot export, so it reads nothing back", where=target)
    loaded = found.load_decoder(path, device) if isinstance(found, DecoderExporter) else None
    if loaded is None:
        from flashir.backends.narrow_weights import WEIGHTS  # which generates text itself

        model, params = found.stored(path)
        if found.metadata(path).get(WEIGHTS) == "int8":
            warnings.warn(
                f"{folder} has no decoder: its int8 weights go on as the float32 that they stand for, which takes four "
                f"times the memory; an export with {option('decode')} keeps them",
                stacklevel=2,
            )
        return decoder(model, target, params, max_len=max_len, length=length)
    if max_len is not None or length is not None:
        raise SettingError(
            "its max_len and length were settled when it was exported", where=str(folder), hint="leave them out"
        )
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
    """The tokens that follow prompts, one of each row at a time, [b]. The prompts are read by the call itself.

    Args:
        decoder: as `decoder` makes it.
        prompts: rows of tokens, of any lengths.
        tokens: how many; fewer where a row reaches the decoder's limit, or where each has ended.
        sampling: how they are picked; the likeliest without one.
        seed: of what is drawn; see `SplitMix64`.
        ends: tokens that end a row. It has the one that ended it from then on, until all have ended.

    Raises:
        SettingError: `tokens` is less than 0, the seed out of range, an end no token, or the model gives no logits.
        InputError: as `Decoder.prefill`; later on, where logits are not finite.
    """
    faults, stop = Faults(), list(ends)
    faults.of(_check_numbers, tokens, stop)
    random = faults.of(SplitMix64, seed)
    if isinstance(decoder, Decoder):  # whatever else acts like one has no model to be looked at
        faults.of(need_logits, decoder.model, "there is no next token")
        faults.of(decoder.checked, prompts)
    faults.tell()
    assert random is not None
    return _continued(decoder, *decoder.prefill(prompts), tokens, sampling or Sampling(), random, stop)


def _check_numbers(tokens: int, ends: Sequence[int]) -> None:
    """Raises SettingError."""
    if problems := [*not_whole("tokens", tokens), *(each for end in ends for each in not_whole("an end", end))]:
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
    """How long a sequence may become: what caches hold, and what ops that have a `max_len` can do."""
    limits = (max_len, Extent.of(model).longest)
    return min((limit for limit in limits if limit is not None), default=None)


def _rows(graphs: Decoding, target: str) -> int:
    """For how many sequences the memory of a target has room. Raises SettingError where it is not even one."""
    memory, batch = find_target(target).memory, graphs.step.inputs[0].type.shape[0]
    kept = sum(state.type.substitute({str(batch): 1}).bytes for state in graphs.state)
    if kept > memory:
        raise SettingError(
            f"what a sequence keeps takes {gigabytes(kept)}, the memory of {target} is {gigabytes(memory)}",
            hint="choose a smaller max_len",
        )
    return int(memory // kept)
