"""flashir new: write a model of the zoo as IR text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flashir.cli import console, options


def new(
    model: Annotated[str, typer.Argument(metavar="NAME", help="A name of the zoo, such as flash.")],
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    choose: options.Choose = None,
    dtype: options.ComputeType = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="File to write the text to.", rich_help_panel=options.OUTPUT),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write a checkpoint with random parameters instead. Its chunk is planned for onnx:cpu.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    seed: options.Seed = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing file.", rich_help_panel=options.OUTPUT)
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model of the zoo as text, to read, edit and build on.

    Without -o the text goes to standard output. Choices that are not set stay open (`auto`); `plan`, `tune` and
    `export` settle them for a device.

    Examples:
        flashir new flash --size base --task lm -o model.fir
        flashir new flash-quad -s d_model=512 -s depth=12 -s vocab=256
        flashir new flash --size tiny --init checkpoint/ --seed 0
    """
    from flashir.cli import source
    from flashir.errors import ArtefactError, InputError, SettingError
    from flashir.files.atomic import atomic_write
    from flashir.ir import dumps
    from flashir.ir.parameter_count import parameter_count
    from flashir.models.load import model_names
    from flashir.planning.plan import by_hand, plan

    if model not in model_names() and (Path(model).exists() or Path(model).suffix):
        raise InputError("this is not a name of the zoo", where=model, hint="`flashir show` prints a model from a file")
    if out is not None and init is not None:
        raise SettingError("give -o for the text or --init for a checkpoint, not both")
    if seed is not None and init is None:
        raise SettingError("--seed is for --init; a model as text has no parameters")
    choices = source.read_choices(choose, chunk=chunk, cumsum=cumsum)
    graph = by_hand(source.find(model, settings, size, task).model, choices, dtype, locked=False)
    count = parameter_count(graph)
    if init is not None:
        from flashir.models.checkpoint import save_checkpoint
        from flashir.models.parameters import init as fresh

        graph = plan(graph).graph
        written = str(save_checkpoint(graph, fresh(graph, seed or 0), init))
    elif out is not None:
        if out.exists() and not force:
            raise ArtefactError("the file exists", where=str(out), hint="--force replaces it")
        text = dumps(graph).encode()
        atomic_write(out, lambda file: file.write(text))
        written = str(out)
    else:
        written = ""
    if as_json:
        console.emit({"model": model, "path": written or None, "parameters": count, "text": dumps(graph)})
    elif written:
        console.say(f"{written}  ({console.many(count)} parameters)")
    else:
        console.echo(dumps(graph))
