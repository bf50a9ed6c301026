"""Starts a run from a model, a recipe and text: checks them, plans the model and creates the folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flashir.backends.optimizer_state import Moments
from flashir.errors import InputError, SettingError, TargetError, option
from flashir.execution.trainer import trainable
from flashir.ir import Graph
from flashir.machine.device import available_device
from flashir.machine.targets import target as find_target
from flashir.models.checkpoint import State
from flashir.models.end_tokens import NONE
from flashir.models.parameters import checked, fitted, init
from flashir.planning.plan import Plan, plan
from flashir.planning.workload import Workload
from flashir.reference.cross_entropy import is_causal
from flashir.reference.inputs import MASK, SEGMENT_IDS, masking_inputs, vocabulary
from flashir.train.data import Batches, Corpus, Document, Tokenizer, documents, tokenised
from flashir.train.distributed import Report
from flashir.train.recipe import Recipe
from flashir.train.run_folder import RunFolder, check_free, create
from flashir.transforms import specialise

TOKENS_AT_ONCE = 2**15
"""A step of one device gets no faster with more tokens at once."""
ROOM = 0.5
"""The fraction of the memory that a part of a batch may need by prediction, which may be wrong."""

Data = tuple[Corpus, Corpus]
"""The training text and the held-out text."""


def task_of(model: Graph) -> str:
    """`lm` for a causal model, `mlm` for a bidirectional one."""
    return "lm" if is_causal(model) else "mlm"


def vocabulary_of(model: Graph) -> int:
    """The vocabulary size of a model. Raises InputError if its first input is not tokens."""
    rows = vocabulary(model, model.inputs[0]) if model.inputs else None
    if rows is None:
        raise InputError(
            "the first input of the model must be tokens",
            where=f"@{model.name}",
            hint="give a model that embeds its first input, as every built-in model does",
        )
    return rows


def tokenizer_of(name: str, read: Callable[[], tuple[Document, ...]], end: str | None = None) -> Tokenizer:
    """The tokenizer that a recipe names.

    Args:
        name: `bytes`, `bpe:N`, or a tokenizer file.
        read: reads the documents that a BPE is trained on.
        end: the token after each document, for `bytes` and a BPE. A file has its own.

    Raises:
        SettingError, InputError, TargetError: the name is invalid, the file cannot be read, or training fails.
    """
    if name == "bytes":
        return Tokenizer.bytes(end)
    kind, _, number = name.partition(":")
    if kind == "bpe":
        if not (number.isdecimal() and number.isascii() and len(number) <= 12):
            raise SettingError(
                f"tokenizer must be bytes, bpe:N or a file, got {name!r}", where="tokenizer", hint="such as bpe:32000"
            )
        return Tokenizer.trained(read(), int(number), end)
    if not Path(name).exists():
        raise SettingError(f"must be bytes, bpe:N or a file, and there is no file {name!r}", where="tokenizer")
    return Tokenizer.read(name)


def begin(
    model: Graph,
    recipe: Recipe,
    tokenizer: Tokenizer,
    out: Path,
    params: Mapping[str, Any] | None = None,
    report: Report = lambda *_: None,
    **choices: Any,
) -> tuple[RunFolder, Data]:
    """Create the folder of a new run with its checkpoint of step 0. The chunk is planned for the target, then fixed.

    All checks come before the folder is created. Returns the folder and the data, for `opened`.

    Args:
        model: any graph from tokens to logits.
        recipe: the settings; those that are None are settled.
        tokenizer: a tokenizer with the vocabulary of the model. The recipe says how it reads texts.
        out: the folder to create.
        params: the initial parameters; None for random ones from the seed.
        report: called with the progress.
        choices: `policy`, `chunk`, `cumsum`, `dtype` as for `plan`.

    Raises:
        InputError, SettingError: the tokenizer has another vocabulary or lacks the document end, rows are too long for
            the model, there is no text, or as `plan`.
        TargetError: the target is not available, cannot train, or has too little memory.
        ArtefactError: the folder cannot be written, or already exists.
    """
    check_free(out)
    params = None if params is None else fitted(model, params)
    trainable(recipe.target)
    available_device(recipe.target)
    recipe = _read_settled(recipe, tokenizer)
    tokenizer = tokenizer.reads(recipe.reading)
    tokenizer.check(task_of(model), vocabulary_of(model))
    specialise(model, Workload(1, recipe.seq_len).sizes(model))
    data = corpora(recipe, tokenizer, report)
    report("planning", 0, 1)
    planned = _planned(model, recipe, params, choices)
    recipe = recipe.settled(planned.batch).located()
    for corpus in data:
        batches_of(corpus, planned.graph, recipe)
    arrays = checked(planned.graph, init(planned.graph, recipe.seed) if params is None else params)
    state = State(Moments.read(None, arrays).state(), {"step": 0})
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenizer.save(file)
        create(out, recipe, file, planned.graph, arrays, state)
    return RunFolder(out), data


def _read_settled(recipe: Recipe, tokenizer: Tokenizer) -> Recipe:
    """The recipe with settled reading of texts. Raises InputError as `Tokenizer.ends`."""
    end = recipe.document_end or next(iter(tokenizer.ends), NONE)
    return replace(recipe, document_end=end, special_tokens=bool(recipe.special_tokens))


def corpora(recipe: Recipe, tokenizer: Tokenizer, report: Report) -> Data:
    """The training and the held-out corpus. Raises InputError with all problems of the files."""
    if not recipe.data:
        raise SettingError("there is no training text", where="data", hint=option("data", "FILE or FOLDER"))
    corpus = tokenised(documents(recipe.data, report), tokenizer, progress=report)
    if recipe.validation:
        return corpus, tokenised(documents(recipe.validation, report), tokenizer, progress=report)
    return corpus.split(recipe.held_out)


def batches_of(corpus: Corpus, model: Graph, recipe: Recipe) -> Batches:
    """The parts of batches for a model, in order."""
    rows = recipe.rows or recipe.batch
    return Batches(
        corpus, task_of(model), rows, recipe.seq_len, recipe.seed, vocab=vocabulary_of(model), **mask_inputs(model)
    )


def mask_inputs(model: Graph) -> dict[str, bool]:
    """Whether a model takes segment ids and a padding mask besides its tokens: `segments` and `mask` of `Batches`.

    Raises:
        InputError: the model takes other inputs, or in another order.
    """
    present = masking_inputs(model)
    if tuple(present.values()) != model.inputs[1:] or list(present) == [MASK, SEGMENT_IDS]:
        inputs = ", ".join(f"{value.name}: {value.type}" for value in model.inputs)
        raise InputError(
            f"the model takes ({inputs}); wanted tokens, then optional segment ids, then an optional mask",
            where=f"@{model.name}",
        )
    return {"segments": SEGMENT_IDS in present, "mask": MASK in present}


def _planned(model: Graph, recipe: Recipe, params: Mapping[str, Any] | None, choices: Mapping[str, Any]) -> Plan:
    """The plan for as many rows at once as fit in memory. Raises TargetError if one row does not fit."""

    def plan_for(rows: int) -> Plan:
        return plan(model, recipe.target, rows, recipe.seq_len, True, params=params, **choices)

    if recipe.rows is not None:
        return plan_for(recipe.rows)
    room = ROOM * find_target(recipe.target).memory
    most = max(1, TOKENS_AT_ONCE // recipe.seq_len)
    parts = [rows for rows in range(min(most, recipe.batch), 1, -1) if recipe.batch % rows == 0]
    for rows in parts:
        try:
            planned = plan_for(rows)
        except TargetError:
            continue
        if planned.peak_bytes <= room:
            return planned
    return plan_for(1)
