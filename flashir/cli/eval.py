"""flashir eval: how well a trained model predicts a text that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from rich.table import Table

    from flashir.cli.source import Source
    from flashir.cli.weights import Weights
    from flashir.train.evaluate import Evaluation, LabelEvaluation

LENGTH = 1024
RATES = ("recall", "precision")
ROWS = 8


def eval(
    model: options.ModelOrExport,
    data: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="Text: a file, or a folder of .txt; labelled examples: .jsonl; repeatable.",
            rich_help_panel=options.DATA,
        ),
    ],
    output: options.Outputs = None,
    target: options.Target = "onnx:cpu",
    seq_len: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Tokens per row.  [default: that of the run, else {LENGTH}]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Rows.", rich_help_panel=options.WORK)] = ROWS,
    tokenizer: options.Tokenizer = None,
    document_end: options.DocumentEnd = None,
    special_tokens: options.SpecialTokens = None,
    by_position: Annotated[
        bool,
        typer.Option(
            "--by-position",
            help="Show perplexity by the position of a token in its row, too.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    params: options.Params = None,
    strict: options.Strict = True,
    as_json: options.Json = False,
) -> None:
    """Measure how well a model predicts a text, or labels, that it was not trained on.

    Prints perplexity per token and per word, and bits per byte. The text is read in rows that do not overlap. Words are
    separated by white space, so models with different tokenizers can be compared. The first token of each document is
    not predicted, but its word and bytes count. A bidirectional model (mlm) predicts masked tokens, and has only
    perplexity per token. Documents end as in training: if a token ends them, it is predicted too.

    --by-position shows what a token gains from text further back: if perplexity goes on falling in positions beyond the
    chunk, the model uses more than its own chunk. It needs texts longer than a row.

    Of a model that predicts labels, prints loss and accuracy over labelled examples, and recall and precision of each
    label.

    Examples:
        flashir eval run/ --data valid.txt
        flashir eval run/checkpoints/step-002000 --data books/valid --seq-len 8192 --target torch:cpu
        flashir eval run/ --data valid.txt --by-position
        flashir eval out/ --data valid.txt --json
        flashir eval classes/ --data unseen.jsonl
    """
    from flashir.cli import source, tokens
    from flashir.cli.meter import meter
    from flashir.errors import SettingError
    from flashir.planning.extent import Extent
    from flashir.reference.cross_entropy import need_logits
    from flashir.train.corpora import text_batches
    from flashir.train.data import LABELLED, documents, tokenised
    from flashir.train.evaluate import Evaluation, evaluate, evaluate_labels
    from flashir.train.examples import labelled_batches, read_examples
    from flashir.train.task import feature_width, task_of

    loaded = source.find(model, outputs=output, exports=target)
    weights = loaded.weights(params, None, strict)
    _refuse_untrained(loaded, weights)
    task, width = task_of(loaded.model), feature_width(loaded.model)
    if by_position and task in LABELLED:
        raise SettingError("a model that predicts labels has no perplexity by position", where="--by-position")
    if task in LABELLED and not loaded.labels and all(Path(path).suffix == ".txt" for path in data):
        need_logits(loaded.model, "there is nothing to measure in a text")
    used = None if width is not None else tokens.evaluator_of(loaded, tokenizer, document_end, special_tokens)
    length = seq_len if seq_len is not None else Extent.of(loaded.model).tokens(_length(Path(model)))
    result: Evaluation | LabelEvaluation
    with meter() as step:
        run = _compiled(loaded, target, weights.arrays, batch, length)
        if task in LABELLED:
            examples = read_examples(data, loaded.model, used, loaded.labels, step)
            rows = labelled_batches(examples, loaded.model, batch, length)
            notes, result = rows.notes, evaluate_labels(run, rows, examples, step)
        else:
            assert used is not None
            texts = documents(data, step)
            packed = text_batches(tokenised(texts, used, progress=step), loaded.model, batch, length)
            notes, result = packed.notes, evaluate(run, packed, texts, step)
    subject = {"model": model, "target": target, "seq_len": length, "weights": weights.as_dict()}
    parts = result.by_position.as_dict() if by_position and isinstance(result, Evaluation) else None
    beside = {} if parts is None else {"by_position": parts}
    if console.answer({**subject, **result.as_dict(), **beside}, as_json):
        return
    for note in notes:
        console.note(note, "yellow")
    where = f"{model} on {target}, rows of {console.counted(length, 'token')}"
    console.show(console.facts({"model": where, "weights": weights.origin_text, **_facts(result)}))
    if parts is not None:
        console.say()
        console.show(_by_position(parts))


def _facts(result: Evaluation | LabelEvaluation) -> dict[str, str]:
    """An evaluation as text."""
    from flashir.train.evaluate import Evaluation

    if isinstance(result, Evaluation):
        unit = "token" if result.task == "lm" else "masked token"
        facts = {
            "text": f"{console.counted(result.bytes, 'byte')}, {console.counted(result.words, 'word')}, "
            f"{console.counted(result.tokens, 'token')} predicted",
            "loss": f"{result.loss:.4f} nats per {unit}",
            "perplexity": f"{console.large(result.perplexity)} per {unit}",
        }
        if result.word_perplexity is not None and result.bits_per_byte is not None:
            facts["perplexity"] += f", {console.large(result.word_perplexity)} per word"
            facts["bits"] = f"{result.bits_per_byte:.4f} per byte"
        return facts
    score = result.score
    facts = {
        "data": f"{console.counted(result.examples, 'example')}, {console.counted(score.labels, 'label')}",
        "loss": f"{score.loss:.4f} nats per label",
        "accuracy": f"{score.accuracy:.2%}, {score.right:,} of {score.labels:,}",
    }
    for name, numbers in result.as_dict()["by_label"].items():
        shown = (f"{kind} {'-' if numbers[kind] is None else format(numbers[kind], '.1%')}" for kind in RATES)
        facts[name] = f"{numbers['count']:,}, {', '.join(shown)}"
    return facts


def _by_position(parts: list[dict[str, Any]]) -> Table:
    """Perplexity by the position of a token in its row."""
    table = console.table("position", "tokens", "loss", "perplexity", right=("tokens", "loss", "perplexity"))
    for part in parts:
        place = f"{part['from']:,} to {part['to'] - 1:,}"
        table.add_row(place, f"{part['tokens']:,}", f"{part['loss']:.4f}", console.large(part["perplexity"]))
    return table


def _refuse_untrained(loaded: Source, weights: Weights) -> None:
    from flashir.errors import SettingError

    if weights.source == "random":
        raise SettingError(
            f"{loaded.word} has no parameters yet", hint="give a run, a checkpoint, an export, or --params FILE"
        )


def _length(path: Path) -> int:
    """The row length of the run at the path; otherwise a default, with a note."""
    from flashir.train.run_folder import RunFolder, run_around

    run = run_around(path)
    if run is not None:
        return RunFolder(run).recipe.seq_len
    console.note(
        f"rows of {LENGTH} tokens, because {path} does not record its training length; --seq-len N changes it", "dim"
    )
    return LENGTH


def _compiled(loaded: Source, target: str, arrays: Any, batch: int, length: int) -> Any:
    """The model as a function: the artefact, or the compiled model."""
    from flashir.execution.compile import Runnable, compile
    from flashir.planning.plan import plan

    if loaded.run is not None:
        return Runnable(plan(loaded.model, target, batch, length, measured=False), loaded.run)
    return compile(loaded.model, target, arrays, batch=batch, seq_len=length)
