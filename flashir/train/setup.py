"""Runs: begun from a model and a recipe, and made ready to go on from their newest checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flashir.backend import Trainer
from flashir.bench.case import floor
from flashir.checkpoint import State, load_checkpoint, load_state
from flashir.compiler import device_at_hand
from flashir.cost import target as find_target
from flashir.errors import ArtefactError, FlashirError, InputError, SettingError, TargetError
from flashir.inputs import specialise, vocabulary
from flashir.ir import Graph
from flashir.likelihood import is_causal
from flashir.lowering import Lowering
from flashir.moments import Moments
from flashir.parameters import checked, init
from flashir.passes.choose import reset
from flashir.planning import Plan, plan
from flashir.subject import trainable
from flashir.train.data import Batches, Corpus, Document, Tokenizer, documents, tokenised
from flashir.train.meeting import ALONE, Meeting
from flashir.train.recipe import Recipe
from flashir.train.run_folder import RECIPE, RunFolder, check_free, create, step_of
from flashir.workload import Workload

TOKENS_AT_ONCE = 2**15
"""More tokens together make a step of one device no faster."""
ROOM = 0.5
"""The share of a device's memory that the parts of a batch are made for; predictions are no promises."""

Told = Callable[[str, int, int], object]
Data = tuple[Corpus, Corpus]
"""What is learned from, and what is held out."""


@dataclass(frozen=True)
class Run:
    """A run that is ready to go on.

    Args:
        folder: where it lies.
        recipe: its settings.
        plan: the model with every choice made, for one part of a batch.
        trainer: the model in training.
        batches: the parts of batches, in order.
        held_out: what the loss is validated on; without a label where there is no held-out text.
        done: steps made so far.
        floor_ms: no step can be faster by the roofline of the target.
        is_first: whether this process writes; of several that train together, only the first does.
    """

    folder: RunFolder
    recipe: Recipe
    plan: Plan
    trainer: Trainer
    batches: Batches
    held_out: Batches
    done: int
    floor_ms: float
    is_first: bool = True

    def state(self, done: int) -> State:
        """What another process goes on from after so many steps."""
        position = {"step": done, "data": self.batches.corpus.digest, "held_out": self.held_out.corpus.digest}
        return State(self.trainer.state(), position)


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
            mend="give a model that embeds its first input, as all of the zoo do",
        )
    return rows


def tokenizer_of(word: str, found: Callable[[], tuple[Document, ...]]) -> Tokenizer:
    """The tokenizer that a recipe names.

    Args:
        word: `bytes`, `bpe:N`, or the file of one.
        found: the documents that a BPE is trained on.

    Raises:
        SettingError, InputError, TargetError: there is none of that name, or it cannot be had.
    """
    if word == "bytes":
        return Tokenizer.bytes()
    kind, _, number = word.partition(":")
    if kind == "bpe":
        if not number.isdecimal():
            raise SettingError(
                f"tokenizer must be bytes, bpe:N or a file, got {word!r}", where="tokenizer", mend="such as bpe:32000"
            )
        return Tokenizer.trained(found(), int(number))
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
        tokenizer: its vocabulary the model's.
        out: the folder.
        params: to begin with; without any, fresh ones by the seed.
        told: is told how far it is.
        choices: `policy`, `chunk`, `cumsum`, `dtype` as for `plan`.

    Raises:
        InputError, SettingError: the vocabulary is not the tokenizer's, rows are too long for the model, there is no
            data, or as `plan`.
        TargetError: the target is not at hand, cannot train, or has no memory for it.
        ArtefactError: the folder cannot be written, or is in use.
    """
    check_free(out)
    trainable(recipe.target)
    device_at_hand(recipe.target)
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


@contextmanager
def opened(
    folder: RunFolder,
    told: Told = lambda *_: None,
    data: Data | None = None,
    meeting: Meeting = ALONE,
    **changes: Any,
) -> Iterator[Run]:
    """A run ready to go on from its newest checkpoint, bit for bit where nothing changes. Nobody else has it meanwhile.

    Of several processes each reads the checkpoint, and the first alone holds the folder and writes.

    Args:
        folder: of the run.
        told: is told how far the data are.
        data: what is learned from and what is held out, where that is at hand.
        meeting: of the processes that train together.
        changes: settings that may differ from before, as `target` or `keep`.

    Raises:
        ArtefactError: another process is at work, a file is damaged, or the data are not those of the run.
        InputError, SettingError, TargetError: as `begin`; a change would make it another run.
    """
    is_first = meeting.processes.is_first
    with ExitStack() as held:

        def load(told: Told) -> _Loaded:
            if is_first:
                held.enter_context(folder.held())
            return _loaded(folder, told, data, changes)

        found = meeting.together(load, told)
        recipe, made = found.recipe, found.plan
        trainer = trainable(recipe.target).trainer(
            Lowering.of(recipe.target).run(made.graph),
            found.params,
            device_at_hand(recipe.target),
            recipe.optimiser,
            state=found.state.optimizer,
            remat=recipe.remat,
        )
        if is_first:
            folder.curve.cut(found.done)
            recipe.write(folder.path / RECIPE)
        batches, held_out = (batches_of(corpus, made.graph, recipe) for corpus in found.data)
        floor_ms = floor(made, find_target(recipe.target))[0] * recipe.accumulate
        yield Run(folder, recipe, made, trainer, batches, held_out, found.done, floor_ms, is_first)


@dataclass(frozen=True)
class _Loaded:
    """What a run goes on from, planned for its target."""

    recipe: Recipe
    plan: Plan
    params: Mapping[str, Any]
    state: State
    data: Data
    done: int


def _loaded(folder: RunFolder, told: Told, data: Data | None, changes: Mapping[str, Any]) -> _Loaded:
    last = folder.newest()
    try:
        found = load_checkpoint(last)
        state = load_state(last, found.params)
    except FlashirError as error:
        raise _damaged(folder, last, error) from None
    recipe = folder.recipe
    before, recipe = recipe.target, recipe.changed(**changes).located()
    tokenizer = Tokenizer.read(folder.tokenizer)
    data = corpora(recipe, tokenizer, told) if data is None else data
    _check_data(folder, state, *data)
    trainable(recipe.target)
    device_at_hand(recipe.target)
    model = found.model if recipe.target == before else reset(reset(found.model, "cumsum"), "tile")
    made = plan(model, recipe.target, recipe.rows or 1, recipe.seq_len, True, params=found.params)
    return _Loaded(recipe, made, found.params, state, data, step_of(last))


def corpora(recipe: Recipe, tokenizer: Tokenizer, told: Told) -> Data:
    """What is learned from, and what is held out. Raises InputError with all that is wrong with the files."""
    if not recipe.data:
        raise SettingError("there is no text to learn from", where="data", mend="--data FILE or FOLDER")
    corpus = tokenised(documents(recipe.data, told), tokenizer, progress=told)
    if recipe.validation:
        return corpus, tokenised(documents(recipe.validation, told), tokenizer, progress=told)
    return corpus.split(recipe.held_out)


def batches_of(corpus: Corpus, model: Graph, recipe: Recipe) -> Batches:
    """The parts of batches that a model is given, in order."""
    rows = recipe.rows or recipe.batch
    segments, vocab = len(model.inputs) > 1, vocabulary_of(model)
    return Batches(corpus, task_of(model), rows, recipe.seq_len, recipe.seed, segments, vocab)


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


def _check_data(folder: RunFolder, state: State, corpus: Corpus, held_out: Corpus) -> None:
    """Raises ArtefactError where the text is not what the run has seen so far."""
    for name, what in (("data", corpus), ("held_out", held_out)):
        if state.position.get(name, what.digest) != what.digest:
            raise ArtefactError(
                f"the text of {name} is not the one that the run has seen so far",
                where=str(folder.path),
                mend="bring the files back as they were, or begin another run from the checkpoint",
            )


def _damaged(folder: RunFolder, last: Path, error: FlashirError) -> ArtefactError:
    """What to do about a newest checkpoint that cannot be read."""
    earlier = folder.checkpoints()[:-1]
    mend = f"remove it, and the run goes on from {earlier[-1].name}" if earlier else "there is none before it"
    return ArtefactError(error.problems, where=str(last), mend=mend)
