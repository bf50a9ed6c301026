"""flashir export: a model and its parameters as an artefact on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.source import Source
    from flashir.cli.web_page import WebPage


def export(
    model: options.Model,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    target: options.Target = "onnx:cpu",
    batch: options.Batch = 1,
    seq_len: options.SeqLen = 4096,
    params: options.Params = None,
    seed: options.Seed = None,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    dtype: options.ComputeType = None,
    policy: options.ByPolicy = options.Policy.QUALITY,
    rechunk: options.Rechunk = False,
    portable: Annotated[
        bool,
        typer.Option(
            "--portable",
            help="Only operators of the standard, for other runtimes than ONNX Runtime.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Write prefill.onnx and step.onnx too, which continue texts token by token.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    max_len: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --decode: the tokens of the longest text, where a layer attends to all of them.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    web: Annotated[
        bool,
        typer.Option(
            "--web",
            help="Write index.html too, a page that continues texts in a browser; implies --decode.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    web_runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With --web: where onnxruntime-web is, to be copied beside the page.  [default: the page loads it]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            metavar="FOLDER",
            help="Where to write it.  [default: MODEL-export]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a model for a target, checked before it replaces what was there.

    The artefact takes any batch and any length. It carries the text of the model and the choices made, and was run
    against the float64 interpreter.

    Examples:
        flashir export flash --size small -o out/
        flashir export model.fir --target onnx:cpu --params p.safetensors -o out/
        flashir export flash --portable -o out/
        flashir export transformer++ --decode --max-len 4096 -o out/
        flashir export checkpoint/ -o out/
        flashir export run/ --web -o out/ && python -m http.server --directory out/
    """
    from flashir.cli import source
    from flashir.cli.candidates import choice
    from flashir.errors import SettingError
    from flashir.export import export as write

    if max_len is not None and not (decode or web):
        raise SettingError("--max-len is of what continues a text", mend="give --decode too")
    if web_runtime is not None and not web:
        raise SettingError("--web-runtime is of a page", mend="give --web too")
    found = source.find(model, settings, size, task)
    page = _page(found, web_runtime) if web else None
    arrays = found.parameters(params, seed)
    folder = out or Path(f"{Path(model).stem or model}-export")
    with console.err().status(f"exporting {model} for {target} and checking it"):
        made = write(
            found.model,
            folder,
            target,
            arrays,
            seed=seed or 0,
            rechunk=rechunk,
            portable=portable,
            decode=decode or web,
            max_len=max_len,
            tokenizer=found.tokenizer,
            batch=batch,
            seq_len=seq_len,
            policy=policy.value,
            chunk=chunk,
            cumsum=cumsum,
            dtype=dtype,
        )
    written = _written(made.path, found.tokenizer is not None)
    written += page.write(folder, made.plan, max_len) if page else []
    files = {str(file): file.stat().st_size for file in written}
    if as_json:
        console.emit(
            {
                **made.plan.as_dict(),
                "model": model,
                "path": str(made.path),
                "files": files,
                "checks": list(made.checks),
                "notes": list(made.notes),
            }
        )
        return
    for line in made.checks:
        console.say(f"ok    {line}", "green")
    for line in made.notes:
        console.say(f"note  {line}", "yellow")
    console.say(f"plan  {choice(made.plan)}. {made.plan.why}")
    size_of_all = console.size(sum(files.values()))
    console.say(f"{made.path}  ({size_of_all}, {console.many(made.plan.parameters)} parameters)", "bold")
    if page:
        console.say(f"python -m http.server --directory {folder}, then http://localhost:8000 is its page")


def _page(found: Source, runtime: Path | None) -> WebPage:
    from flashir.cli.web_page import WebPage

    return WebPage.of(found, runtime)


def _written(main: Path, with_tokenizer: bool) -> list[Path]:
    """The files of an artefact."""
    from flashir.checkpoint import TOKENIZER

    beside = [main.with_name(TOKENIZER)] if with_tokenizer else []
    decoder = [main.with_name(name) for name in ("prefill.onnx", "step.onnx")]
    return [*sorted(main.parent.glob(f"{main.stem}*")), *filter(Path.is_file, decoder), *beside]
