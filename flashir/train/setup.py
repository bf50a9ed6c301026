"""Runs are begun from a model, a recipe and text: all is checked, the model planned, and the folder made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flashir.backends.optimizer_state import Moments
from flashir.errors import InputError, SettingError, TargetError, option
from flashir.execution.trainer import trainable
from flashir.ir import DType, Graph
from flashir.machine.device import available_device
from flashir.machine.targets import target as find_target
from flashir.models.checkpoint import State
from flashir.models.end_tokens import NONE
from flashir.models.parameters import checked, fitted, init
from flashir.planning.plan import Plan, plan
from flashir.planning.workload import Workload
from flashir.reference.cross_entropy import is_causal
from flashir.reference.inputs import vocabulary
from flashir.train.data import Batches, Corpus, Document, Tokenizer, documents, tokenised
from flashir.train.recipe import Recipe
from flashir.train.run_folder import RunFolder, check_free, create
from flashir.transforms import specialise

TOKENS_AT_ONCE = 2**15
"""More tokens together make a step of one device no faster."""
ROOM = 0.5
"""The share of a device's memory that the parts of a batch are made for; predictions are no promises."""

Told = Callable[[str, int, int], object]
Data = tuple[Corpus, Corpus]
"""What is learned from, and what is held out."""


def task_of(model: Graph) -> str:
    """`lm` for a causal model, `mlm` for one that sees both ways."""
    return "lm" if is_causal(model) else "mlm"


def vocabulary_of(model: Graph) -> int:
    """The vocabulary of a model that is given tokens. Raises InputError where it is not."""
    rows = vocabulary(model, model.inputs[0]) if model.inputs else None
    if rows is None:
        raise InputError(
            "the first input of the model must be tokens",
            where=f"@{model.name}",
            hint="give a model that embeds its first input, as all of the zoo do",
        )
    return rows


def tokenizer_of(word: str, found: Callable[[], tuple[Document, ...]], end: str | None = None) -> Tokenizer:
    """The tokenizer that a recipe names.

    Args:
        word: `bytes`, `bpe:N`, or the file of one.
        found: the documents that a BPE is trained on.
        end: the token that ends documents, which bytes and a BPE are given; a file has its own.

    Raises:
        SettingError, InputError, TargetError: there is none of that name, or it cannot be had.
    """
    if word == "bytes":
        return Tokenizer.bytes(end)
    kind, _, number = word.partition(":")
    if kind == "bpe":
        if not (number.isdecimal() and number.isascii() and len(number) <= 12):
            raise SettingError(
                f"tokenizer must be bytes, bpe:N or a file, got {word!r}", where="tokenizer", hint="such as bpe:32000"
            )
        return Tokenizer.trained(found(), int(number), end)
    if not Path(word).exists():
        raise SettingError(f"must be bytes, bpe:N or a file, and there is no file {word!r}", where="tokenizer")
    return Tokenizer.read(word)


def begin(
    model: Graph,
    recipe: Recipe,
    tokenizer: Tokenizer,
    out: Path,
    params: Mapping[str, Any] | None = None,
    told: Told = lambda *_: None,
    **choices: Any,
) -> tuple[RunFolder, Data]:
    """Make the folder of a new run, with its checkpoint of step 0: the chunk planned for the target, and locked.

    All that can be wrong is found before the folder is made. With it come the data, for `opened`.

    Args:
        model: any graph from tokens to logits.
        recipe: what is None in it is settled.
        tokenizer: its vocabulary the model's; the recipe says how it reads texts.
        out: the folder.
        params: to begin with; without any, fresh ones by the seed.
        told: is told how far it is.
        choices: `policy`, `chunk`, `cumsum`, `dtype` as for `plan`.

    Raises:
        InputError, SettingError: the vocabulary is not the tokenizer's, which has no such end of documents; rows are
            too long for the model; there is no data; or as `plan`.
        TargetError: the target is not at hand, cannot train, or has no memory for it.
        ArtefactError: the folder cannot be written, or is in use.
    """
    check_free(out)
    params = None if params is None else fitted(model, params)
    trainable(recipe.target)
    available_device(recipe.target)
    recipe = _read_settled(recipe, tokenizer)
    tokenizer = tokenizer.reads(recipe.reading)
    tokenizer.check(task_of(model), vocabulary_of(model))
    specialise(model, Workload(1, recipe.seq_len).sizes(model))
    data = corpora(recipe, tokenizer, told)
    told("planning", 0, 1)
    made = _planned(model, recipe, params, choices)
    recipe = recipe.settled(made.batch).located()
    for corpus in data:
        batches_of(corpus, made.graph, recipe)
    arrays = checked(made.graph, init(made.graph, recipe.seed) if params is None else params)
    state = State(Moments.read(None, arrays).state(), {"step": 0})
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenizer.save(file)
        create(out, recipe, file, made.graph, arrays, state)
    return RunFolder(out), data


def _read_settled(recipe: Recipe, tokenizer: Tokenizer) -> Recipe:
    """The recipe with how texts are read, wherever it says nothing of that. Raises InputError as `Tokenizer.ends`."""
    end = recipe.document_end or next(iter(tokenizer.ends), NONE)
    return replace(recipe, document_end=end, special_tokens=bool(recipe.special_tokens))


def corpora(recipe: Recipe, tokenizer: Tokenizer, told: Told) -> Data:
    """What is learned from, and what is held out. Raises InputError with all that is wrong with the files."""
    if not recipe.data:
        raise SettingError("there is no text to learn from", where="data", hint=option("data", "FILE or FOLDER"))
    corpus = tokenised(documents(recipe.data, told), tokenizer, progress=told)
    if recipe.validation:
        return corpus, tokenised(documents(recipe.validation, told), tokenizer, progress=told)
    return corpus.split(recipe.held_out)


def batches_of(corpus: Corpus, model: Graph, recipe: Recipe) -> Batches:
    """The parts of batches that a model is given, in order."""
    rows = recipe.rows or recipe.batch
    return Batches(
        corpus, task_of(model), rows, recipe.seq_len, recipe.seed, vocab=vocabulary_of(model), **told_beside(model)
    )


def told_beside(model: Graph) -> dict[str, bool]:
    """What a model is told beside its tokens, as `Batches` takes it: `segments` and `mask`.

    Raises:
        InputError: it takes something else, or in another order.
    """
    shape = model.inputs[0].type.shape
    beside = [value.type.dtype for value in model.inputs[1:] if value.type.shape == shape]
    numbers = (DType.I32, DType.I64)
    segments, mask = any(dtype in numbers for dtype in beside), DType.BOOL in beside
    in_order = [dtype in numbers for dtype in beside] == [True] * segments + [False] * mask
    if not in_order or len(beside) != len(model.inputs) - 1:
        taken = ", ".join(f"{value.name}: {value.type}" for value in model.inputs)
        raise InputError(
            f"the model takes ({taken}); text gives tokens, and after them segment ids, and after those a mask",
            where=f"@{model.name}",
        )
    return {"segments": segments, "mask": mask}


def _planned(model: Graph, recipe: Recipe, params: Mapping[str, Any] | None, choices: Mapping[str, Any]) -> Plan:
    """The plan for as many rows together as memory holds well. Raises TargetError where it does not hold one."""

    def of(rows: int) -> Plan:
        return plan(model, recipe.target, rows, recipe.seq_len, True, params=params, **choices)

    if recipe.rows is not None:
        return of(recipe.rows)
    room = ROOM * find_target(recipe.target).memory
    most = max(1, TOKENS_AT_ONCE // recipe.seq_len)
    parts = [rows for rows in range(min(most, recipe.batch), 1, -1) if recipe.batch % rows == 0]
    for rows in parts:
        try:
            made = of(rows)
        except TargetError:
            continue
        if made.peak_bytes <= room:
            return made
    return of(1)
