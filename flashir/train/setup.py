"""Starts a run from a model, a recipe and data: checks them, plans the model and creates the folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flashir.backends.optimizer_state import Moments
from flashir.errors import SettingError, TargetError
from flashir.execution.trainer import trainable
from flashir.ir import Graph
from flashir.ir.parameter_names import parameters
from flashir.machine.device import available_device
from flashir.machine.targets import target as find_target
from flashir.models.checkpoint import State
from flashir.models.end_tokens import NONE
from flashir.models.parameters import checked, fitted, init
from flashir.planning.extent import Extent, check_takes
from flashir.planning.plan import Plan, plan
from flashir.train.data import Document, Tokenizer
from flashir.train.datasets import read_data
from flashir.train.distributed import Report
from flashir.train.examples import Examples
from flashir.train.feed import Data
from flashir.train.recipe import RATED_WIDTH, Recipe
from flashir.train.run_folder import RunFolder, check_free, create
from flashir.train.task import check_tokenizer, scores_of

TOKENS_AT_ONCE = 2**15
"""A step of one device gets no faster with more tokens at once."""
ROOM = 0.5
"""The fraction of the memory that a part of a batch may need by prediction, which may be wrong."""


def width_of(model: Graph) -> int:
    """The width of a model, d of the first float [b, t, d] in it."""
    types = [value.type for node in model.nodes for value in node.outputs]
    widths = (type_.shape[-1] for type_ in types if type_.dtype.is_float and type_.rank == 3)
    return next((width for width in widths if isinstance(width, int)), RATED_WIDTH)


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
    tokenizer: Tokenizer | None,
    out: Path,
    params: Mapping[str, Any] | None = None,
    report: Report = lambda *_: None,
    **choices: Any,
) -> tuple[RunFolder, Data]:
    """Create the folder of a new run on files with its checkpoint of step 0. The chunk is planned for the target.

    All checks come before the folder is created. Returns the folder and the data, for `opened`.

    Args:
        model: any graph from tokens to logits; or from tokens or features to scores of labels.
        recipe: the settings; those that are None are settled.
        tokenizer: a tokenizer with the vocabulary of the model. The recipe says how it reads texts. None for a model of
            features.
        out: the folder to create.
        params: the initial parameters; None for random ones from the seed.
        report: called with the progress.
        choices: `policy`, `chunk`, `cumsum`, `dtype` as for `plan`.

    Raises:
        InputError, SettingError: the tokenizer has another vocabulary or lacks the document end, rows are too long for
            the model, there are no data, or as `plan`.
        TargetError: the target is not available, cannot train, or has too little memory.
        ArtefactError: the folder cannot be written, or already exists.
    """
    check_free(out)
    trainable(recipe.target)
    available_device(recipe.target)
    scores_of(model)
    if tokenizer is not None:
        recipe = read_settled(recipe, tokenizer)
        tokenizer = tokenizer.reads(recipe.reading)
        check_tokenizer(model, tokenizer)
    check_takes(model, Extent.of(model).rows(1), recipe.seq_len)
    data = read_data(model, recipe, tokenizer, report)
    if isinstance(data, Examples):
        recipe = replace(recipe, labels=data.train.names)
    with TemporaryDirectory() as folder:
        file = None if tokenizer is None else Path(folder) / "tokenizer.json"
        if tokenizer is not None and file is not None:
            tokenizer.save(file)
        return begin_on(data, model, recipe, out, params, report, file, **choices), data


def begin_on(
    data: Data,
    model: Graph,
    recipe: Recipe,
    out: Path,
    params: Mapping[str, Any] | None = None,
    report: Report = lambda *_: None,
    tokenizer: Path | None = None,
    **choices: Any,
) -> RunFolder:
    """As `begin`, on data that are already there; `tokenizer` is its file, if they were text."""
    check_free(out)
    params = None if params is None else fitted(model, params)
    trainable(recipe.target)
    available_device(recipe.target)
    report("planning", 0, 1)
    planned = _planned(model, recipe, params, choices)
    recipe = recipe.settled(planned.batch, width_of(model)).located()
    data.feeds(planned.graph, recipe)
    arrays = _started(planned.graph, recipe, data) if params is None else checked(planned.graph, params)
    state = State(Moments.read(None, arrays).state(), {"step": 0})
    create(out, recipe, tokenizer, planned.graph, arrays, state)
    return RunFolder(out)


def _started(model: Graph, recipe: Recipe, data: Data) -> dict[str, Any]:
    """New parameters. A bias of the scores begins at the log frequencies of the labels, if the recipe says so."""
    arrays = init(model, recipe.seed, recipe.init)
    biases = [name for name, spec in parameters(model).items() if spec.by_token]
    if recipe.token_frequencies and biases:
        start = data.log_frequencies(scores_of(model))
        arrays |= {name: start for name in biases if arrays[name].shape == start.shape}
    return arrays


def read_settled(recipe: Recipe, tokenizer: Tokenizer) -> Recipe:
    """The recipe with settled reading of texts. Raises InputError as `Tokenizer.ends`."""
    end = recipe.document_end or next(iter(tokenizer.ends), NONE)
    return replace(recipe, document_end=end, special_tokens=bool(recipe.special_tokens))


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
