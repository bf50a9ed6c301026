"""flashir eval: how well a trained model foresees a text that it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.source import Source
    from flashir.cli.weights import Weights

LENGTH = 1024
ROWS = 8


def eval(
    model: options.ModelOrExport,
    data: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="The text: a file, or a folder of .txt; repeat for more.",
            rich_help_panel=options.DATA,
        ),
    ],
    target: options.Target = "onnx:cpu",
    seq_len: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help=f"Tokens a row, whatever the model was trained at.  [default: as the run was, else {LENGTH}]",
            rich_help_panel=options.WORK,
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Rows.", rich_help_panel=options.WORK)] = ROWS,
    tokenizer: options.Tokenizer = None,
    document_end: options.DocumentEnd = None,
    special_tokens: options.SpecialTokens = None,
    params: options.Params = None,
    strict: options.Strict = True,
    as_json: options.Json = False,
) -> None:
    """Measure how well a model foresees a text that it was not trained on.

    That is perplexity by token and by word, and bits per byte. The text is read in rows that do not overlap. Words are
    what white space parts, so that models with different tokenizers can be compared. The first token of each document
    is given: nothing comes before it, so it costs no bits, and its word and bytes count all the same. A model that sees
    both ways (mlm) is asked for masked tokens, and has neither words nor bytes to be compared by. Documents end as they
    did in training: where a token ends them, it is foreseen too.

    Examples:
        flashir eval run/ --data valid.txt
        flashir eval run/checkpoints/step-002000 --data books/valid --seq-len 8192 --target torch:cpu
        flashir eval out/ --data valid.txt --json
    """
    from flashir.cli import source, tokens
    from flashir.cli.meter import meter
    from flashir.planning.extent import Extent
    from flashir.reference.cross_entropy import need_logits
    from flashir.train.data import Batches, documents, tokenised
    from flashir.train.evaluate import evaluate
    from flashir.train.setup import mask_inputs, task_of, vocabulary_of

    found = source.find(model, exports=target)
    weights = found.weights(params, None, strict)
    _refuse_untrained(found, weights)
    task, vocab = task_of(found.model), vocabulary_of(found.model)
    need_logits(found.model, "there is nothing to measure")
    used = tokens.tokenizer_of(model, vocab, tokenizer, found.tokenizer)
    used = used.reads(tokens.reading_of(found, document_end, special_tokens))
    used.check(task, vocab)
    length = seq_len if seq_len is not None else Extent.of(found.model).tokens(_length(Path(model)))
    with meter() as step:
        texts = documents(data, step)
        corpus = tokenised(texts, used, progress=step)
        batches = Batches(corpus, task, batch, length, 0, vocab=vocab, **mask_inputs(found.model))
        run = _compiled(found, target, weights.arrays, batch, length)
        result = evaluate(run, batches, texts, step)
    about = {"model": model, "target": target, "seq_len": length, "weights": weights.as_dict()}
    if console.answer({**about, **result.as_dict()}, as_json):
        return
    unit = "token" if task == "lm" else "masked token"
    facts = {
        "model": f"{model} on {target}, rows of {console.counted(length, 'token')}",
        "weights": weights.said,
        "text": f"{console.counted(result.bytes, 'byte')}, {console.counted(result.words, 'word')}, "
        f"{console.counted(result.tokens, 'token')} foreseen",
        "loss": f"{result.loss:.4f} nats a {unit}",
        "perplexity": f"{console.large(result.perplexity)} by {unit}",
    }
    if result.word_perplexity is not None and result.bits_per_byte is not None:
        facts["perplexity"] += f", {console.large(result.word_perplexity)} by word"
        facts["bits"] = f"{result.bits_per_byte:.4f} per byte"
    console.show(console.facts(facts))


def _refuse_untrained(found: Source, weights: Weights) -> None:
    from flashir.errors import SettingError

    if weights.source == "random":
        raise SettingError(
            f"{found.word} has no parameters yet", hint="give a run, a checkpoint, an export, or --params FILE"
        )


def _length(path: Path) -> int:
    """That of the run, where the path is one or a checkpoint in one; what else is read by is said."""
    from flashir.train.run_folder import RunFolder, run_around

    run = run_around(path)
    if run is not None:
        return RunFolder(run).recipe.seq_len
    console.note(
        f"rows of {LENGTH} tokens, for {path} does not say what it was trained at; --seq-len N for others", "dim"
    )
    return LENGTH


def _compiled(found: Source, target: str, arrays: Any, batch: int, length: int) -> Any:
    """The model as a function: the artefact itself, or compiled now."""
    from flashir.execution.compile import Runnable, compile
    from flashir.planning.plan import plan

    if found.run is not None:
        return Runnable(plan(found.model, target, batch, length, measured=False), found.run)
    return compile(found.model, target, arrays, batch=batch, seq_len=length)
