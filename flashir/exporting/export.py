"""export: write a model and its parameters as an artefact, verified before it replaces an old one.

`prepare` plans and lowers the model, `Check` compares results, a `Writer` calls the backend, and `_write` commits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flashir.arguments import typed
from flashir.backends.protocols import Written
from flashir.backends.registry import having
from flashir.backends.training import Batch
from flashir.backends.versioned import Versioned
from flashir.errors import SettingError, TargetError, either
from flashir.execution.prepare import Prepared, prepare
from flashir.exporting.checks import Check, NarrowCheck
from flashir.exporting.earlier import EarlierExport
from flashir.exporting.exported import Exported
from flashir.exporting.folder import RECORD, check_folder, check_free, json_file, with_files
from flashir.exporting.hub import HUB, hub_target, hub_writer, refuse_for_hub
from flashir.exporting.quantise import Comparison
from flashir.exporting.writers import Writer, decoder_writer, model_writer
from flashir.generation.sampling import bad_ends
from flashir.ir import Graph
from flashir.ir.graph import Attr
from flashir.models.checkpoint import TOKENIZER
from flashir.models.end_tokens import CONFIGS, Reading
from flashir.models.label_names import LABELS
from flashir.models.tokenizer_file import ENDS, ExportedTokenizer
from flashir.planning.compute_types import allowed, check_tolerance
from flashir.planning.extent import Extent
from flashir.planning.plan import Plan
from flashir.planning.workload import Workload
from flashir.reference.cross_entropy import need_logits
from flashir.reference.narrowing import GROWTH
from flashir.transforms import specialise
from flashir.transforms.whole_length import divides_by_length
from flashir.version import __version__

TOKENIZER_CONFIG = CONFIGS[0]
RANDOM = "random weights: the output is meaningless"
SEED = "flashir.seed"
"""The metadata key of an artefact for the seed of its parameters, if they are random."""


@typed
def export(
    model: Graph,
    out: str | Path,
    target: str | None = None,
    params: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    rechunk: bool = False,
    strict: bool = True,
    portable: bool = False,
    opset: int | None = None,
    ids: str | None = None,
    static: bool = False,
    decode: bool = False,
    split: bool = False,
    host: str | None = None,
    ends: Iterable[int] | None = None,
    max_len: int | None = None,
    length: int | None = None,
    states: str | None = None,
    tokenizer: Path | None = None,
    reading: Reading | None = None,
    labels: Sequence[str] = (),
    training: Sequence[str] = (),
    quantize: str | None = None,
    text: Iterable[Batch] | None = None,
    tolerance: float = GROWTH,
    force: bool = True,
    batch: int = 1,
    seq_len: int = 4096,
    policy: str = "quality",
    dtype: str | None = None,
    **choices: Attr,
) -> Exported:
    """Write a model for a target into the folder `out`.

    The metadata of the artefact hold the IR text of the model and its plan. Before it replaces an old artefact, it is
    checked with the tools of its format, and compared with the float64 interpreter.

    Args:
        model: any graph.
        out: the folder; created if missing.
        target: a target whose backend is installed and can export; None for `onnx:cpu`.
        params: parameters by full name; None for `init(model, seed)` after the chunk is chosen.
        seed: the seed of the parameters if `params` is None.
        rechunk, strict: as for `compile`.
        portable: use only what every runtime of the format supports: standard operators, no functions, and no values
            that loops capture.
        opset: the version of the standard operators; None for the oldest that suffices.
        ids: the type of token ids, `int64` or `int32`; None for `int64`.
        static: fix the sizes of the inputs at `batch` rows of `seq_len` tokens, for devices that take no other.
        decode: also write a decoder; see docs/decisions/051.
        split: write the decoder in two parts, `prefill` and `step`.
        host: write for a program: `genai` (a decoder and a config) or `hub` (a folder that transformers loads, which
            has no target); see docs/guides/hosts.md.
        ends: the ids of the tokens that end a text; None for those of the tokenizer.
        max_len, length: as for `decoder`.
        states: the type in which the states of a decoder hold keys and values, such as `float16`; None for the type of
            the model. The check then allows the error of that type, and says it.
        tokenizer: a tokenizer file, copied to the artefact as tokenizer.json. Its end tokens go into the metadata.
        reading: how training tokenised texts, as in `load_checkpoint`.
        labels: the names of the labels that the model predicts, as in `load_checkpoint`.
        training: sentences about the training of the model, for the card of `hub`.
        quantize: quantise weights to `int8`, `int4` or `float16`; see docs/decisions/052.
        text: rows to measure the perplexity of quantised weights on; None for text generated by the float model.
        tolerance: the largest relative growth of perplexity by quantised weights or by a narrow compute type.
        force: write into a folder that is not empty. What an earlier export wrote is replaced or removed, unless it was
            changed; other files stay.
        batch, seq_len, policy, dtype, choices: as for `compile`.

    Raises:
        SettingError, TargetError, ParameterError: as for `compile` and `decoding`, or weights cannot be quantised, or
            there is no text to measure perplexity on.
        ArtefactError: the folder is not empty and `force` is False; or the artefact cannot be written or fails a check.
            An old artefact stays unchanged.
    """
    folder, decode = Path(out), decode or host not in (None, HUB)
    check_folder(folder)
    if not force:
        check_free(folder)
    if host == HUB:
        no_effect = {"target": target, "portable": portable, "split": split, "states": states, "quantize": quantize}
        refuse_for_hub({**no_effect, "opset": opset, "ids": ids, "static": static, "length": length})
        target = hub_target()
    if host is not None and not (host == HUB and labels):
        need_logits(model, f"{host} cannot write text with it")
    target = target or "onnx:cpu"
    check_tolerance(tolerance)
    growth = tolerance if len(allowed(dtype)) > 1 else None  # an artefact in one type is measured itself
    model = _fixed(model, decode, Workload(batch, seq_len)) if static else model
    workload: dict[str, Any] = {"batch": batch, "seq_len": seq_len, "policy": policy}
    settings = {**workload, "dtype": dtype, "tolerance": growth, **choices}
    prepared = prepare(model, target, params, portable, seed=seed, rechunk=rechunk, strict=strict, **settings)
    prepared = _formatted(prepared, target, opset, ids)
    weights = "the exported weights" if params is not None else f"random weights (seed {seed})"
    comparison = None if quantize is None else Comparison(prepared, target, quantize, text, tolerance)
    if comparison is None:
        check = Check(prepared, weights, tolerance)
    else:
        check = NarrowCheck(prepared, weights, comparison)
        prepared = replace(prepared, backend=comparison.backend)
    own_tokenizer, ends = _tokenizer(tokenizer, reading, ends)
    if host == HUB:
        writer = hub_writer(prepared, check, ends, labels, training, max_len)
    elif decode:
        writer = decoder_writer(
            prepared, check, target, host, ends, split=split, max_len=max_len, length=length, states=states
        )
    else:
        writer = model_writer(prepared, check, target)
    if host is not None and own_tokenizer is not None:
        writer = replace(writer, files={**writer.files, TOKENIZER_CONFIG: json_file(own_tokenizer.config)})
    metadata = _metadata(prepared.plan, None if params is not None else seed, labels, own_tokenizer, ends)
    written, files = _write(folder, writer, metadata, own_tokenizer, force=force)
    return Exported(
        written.path,
        prepared.plan,
        checks=(*written.checks, *check.verdicts),
        notes=_notes(prepared.plan),
        quantised=None if comparison is None else comparison.result,
        files=files,
        compared=tuple(check.compared),
    )


def _write(
    folder: Path, writer: Writer, metadata: Mapping[str, str], tokenizer: ExportedTokenizer | None, *, force: bool
) -> tuple[Written, tuple[Path, ...]]:
    """Write and check the artefact with its other files, commit all of them, and remove what an earlier export left.

    Each step calls the next one while its own files are on disk under temporary names: first the tokenizer, then the
    files for a host, then the artefact. So a failed check changes nothing. Returns also the paths of all files.
    """
    earlier = EarlierExport({})

    def commit() -> Written:
        nonlocal earlier
        if not force:
            check_free(folder)  # again, because another export may have finished meanwhile
        earlier = EarlierExport.of(folder)
        digests = {} if tokenizer is None else {TOKENIZER: tokenizer.digest}
        return with_files(folder, writer.files, lambda: writer.write(folder, metadata), digests)

    written = commit() if tokenizer is None else tokenizer.put(folder, commit)
    others = (*writer.files, *((RECORD,) if writer.files else ()), *(() if tokenizer is None else (TOKENIZER,)))
    files = (written.path, *written.beside, *(written.path.with_name(name) for name in others))
    earlier.remove(files)
    return written, files


def _fixed(model: Graph, decode: bool, workload: Workload) -> Graph:
    """The model with the sizes of the planned workload. Raises SettingError, InputError."""
    if decode:
        raise SettingError("a decoder has no fixed sizes", hint="leave out static, or decode and host")
    return specialise(model, workload.sizes(model))


def _formatted(prepared: Prepared, target: str, opset: int | None, ids: str | None) -> Prepared:
    """The model for artefacts of the form that is asked for. Raises TargetError if there is none, SettingError."""
    backend = prepared.backend
    if opset is None and ids is None:
        return prepared
    if not isinstance(backend, Versioned):
        raise TargetError(
            f"the artefacts of the backend {backend.name!r} have no opset and no other type of token ids",
            where=target,
            hint=f"leave out opset and ids, or choose a target of {either(having(Versioned))}",
        )
    return prepared.on(backend.formatted(opset, ids))


def _tokenizer(
    file: Path | None, reading: Reading | None, ends: Iterable[int] | None
) -> tuple[ExportedTokenizer | None, tuple[int, ...]]:
    """The tokenizer of the artefact, and the tokens that end a text. Raises ArtefactError, InputError, SettingError."""
    tokenizer = None if file is None else ExportedTokenizer.of(file, reading)
    if ends is None:
        return tokenizer, () if tokenizer is None else tokenizer.ends
    ends = tuple(ends)
    if problems := bad_ends(ends):
        raise SettingError(problems)
    return None if tokenizer is None else tokenizer.ending(ends), ends


def _metadata(
    plan: Plan, seed: int | None, labels: Sequence[str], tokenizer: ExportedTokenizer | None, ends: tuple[int, ...]
) -> dict[str, str]:
    """The metadata of the artefact. `seed` is that of random weights."""
    choices = {name: value for name, value in plan.as_dict().items() if name not in ("candidates", "model")}
    metadata = {"flashir.version": __version__, "flashir.plan": json.dumps(choices)}
    metadata |= {} if seed is None else {SEED: str(seed)}
    metadata |= {LABELS: json.dumps(list(labels))} if labels else {}
    metadata |= {} if tokenizer is None else tokenizer.metadata
    return metadata | ({ENDS: json.dumps(ends)} if ends else {})


def _notes(plan: Plan) -> tuple[str, ...]:
    """Caveats for users of the artefact."""
    if Extent.of(plan.graph).length is not None or not divides_by_length(plan.graph):
        return ()
    return (
        "layers divide by the actual length of a text, which generalises badly to lengths that the model was not "
        "trained at; for gau, qk_scale = max_len or sqrt_key does not (length is that of Code 6)",
    )
