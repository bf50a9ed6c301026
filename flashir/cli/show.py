"""flashir show: a model as text at any level, or as a web page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashir.cli import console, options

if TYPE_CHECKING:
    from flashir.cli.stages import Stages
    from flashir.ir import Graph

VIEW = "View"


def show(
    ctx: typer.Context,
    model: options.ModelOrExport,
    settings: options.Settings = None,
    size: options.Size = None,
    task: options.Task = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="blocks (as written), attention, primitives, or lowered for --target; repeatable.",
            rich_help_panel=VIEW,
        ),
    ] = None,
    types: Annotated[
        bool, typer.Option("--types", help="Print the type of every result.", rich_help_panel=VIEW)
    ] = False,
    params: Annotated[
        bool, typer.Option("--params", help="Print the parameters and their shapes instead.", rich_help_panel=VIEW)
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a web page with a drawing of every stage.", rich_help_panel=VIEW),
    ] = None,
    passes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Apply these passes to the model: name,name{option=value}.", rich_help_panel="Passes"
        ),
    ] = None,
    print_after: Annotated[
        list[str] | None,
        typer.Option(metavar="PASS", help="Print the graph after this pass, or after all.", rich_help_panel="Passes"),
    ] = None,
    dump_ir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write NNN-pass.fir after each pass.", rich_help_panel="Passes"),
    ] = None,
    fuel: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Run only N of the optional passes.", rich_help_panel="Passes"),
    ] = None,
    target: options.Target = "onnx:cpu",
    batch: options.Batch = 1,
    seq_len: options.SeqLen = 4096,
    chunk: options.Chunk = None,
    cumsum: options.Cumsum = None,
    choose: options.Choose = None,
    dtype: options.ComputeType = None,
    rechunk: options.Rechunk = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing page.", rich_help_panel=options.OUTPUT)
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Print a model as text, at any stage of its lowering, or draw it as a page.

    Open choices are planned for --target before the model is lowered. The page is one file that needs no network, with
    a graph per stage, the cost of every node, and the text.

    Examples:
        flashir show flash --size base
        flashir show model.fir --stage attention --types
        flashir show flash --size tiny --stage lowered --target onnx:cpu --print-after hoist
        flashir show flash --html flash.html
    """
    from flashir.cli import source
    from flashir.cli.alone import refuse_unused
    from flashir.cli.stages import check_stage, stages
    from flashir.planning.plan import by_hand
    from flashir.transforms import Pipeline, parse_pipeline

    for name in stage or ():
        check_stage(name)
    loaded = source.find(model, settings, size, task, exports=target, lean=True)
    choices = source.read_choices(choose, chunk=chunk, cumsum=cumsum)
    refuse_unused(ctx, loaded, "batch", "seq_len")
    graph = by_hand(loaded.model, choices, dtype, locked=loaded.params is not None and not rechunk)
    if passes is not None:
        graph = Pipeline(parse_pipeline(passes)).run(graph)
    instruments = {"print_after": tuple(print_after or ()), "dump_ir": dump_ir, "fuel": fuel}
    views = stages(graph, target, instruments, batch, seq_len)
    if html is not None:
        written = _write_page(html, model, views, batch, seq_len, force)
        if as_json:
            console.emit({"model": model, "html": str(html), "bytes": written})
        else:
            console.say(f"{html}  ({console.size(written)}), open it in a browser")
        return
    lowered = bool(instruments["print_after"]) or dump_ir is not None or fuel is not None
    wanted = list(dict.fromkeys(stage or (["lowered"] if lowered else ["blocks"])))
    graphs = {name: views.at(name) for name in wanted}
    if as_json:
        console.emit(_as_dict(model, graph, graphs, views, types))
    elif params:
        _show_parameters(graph)
    else:
        _print(graphs, views, types)


def _print(graphs: dict[str, Graph], views: Stages, types: bool) -> None:
    from flashir.ir import dumps

    for text in views.printed:
        console.echo(f"{text}\n")
    for name, graph in graphs.items():
        heading = f"// {name}{f' for {views.target}' if name == 'lowered' else ''}\n" if len(graphs) > 1 else ""
        console.echo(heading + dumps(graph, types=types) + ("\n" if len(graphs) > 1 else ""))


def _as_dict(word: str, graph: Graph, graphs: dict[str, Graph], views: Stages, types: bool) -> dict[str, Any]:
    from flashir.ir import dumps
    from flashir.ir.parameter_count import parameter_count
    from flashir.ir.parameter_names import parameters

    return {
        "model": word,
        "parameters": parameter_count(graph),
        "shapes": {name: list(spec.shape) for name, spec in parameters(graph).items()},
        "stages": {
            name: {"nodes": sum(1 for _ in lowered.walk()), "text": dumps(lowered, types=types)}
            for name, lowered in graphs.items()
        },
        "printed": views.printed,
    }


def _show_parameters(graph: Graph) -> None:
    from math import prod

    from flashir.ir.parameter_count import parameter_count
    from flashir.ir.parameter_names import parameters

    table = console.table("parameter", "shape", "numbers", right=("numbers",))
    for name, spec in parameters(graph).items():
        table.add_row(name, str(list(spec.shape)), f"{prod(spec.shape):,}")
    console.show(table)
    console.say()
    console.say(f"{parameter_count(graph):,} numbers in {len(parameters(graph)):,} parameters", "bold")


def _write_page(file: Path, word: str, views: Stages, batch: int, seq_len: int, force: bool) -> int:
    """Write the page and return its size in bytes."""
    from flashir.cli.candidates import time_of
    from flashir.cli.page import Stage, page
    from flashir.cli.stages import STAGES
    from flashir.errors import ArtefactError
    from flashir.files.atomic import atomic_write
    from flashir.machine.targets import target as find_target
    from flashir.planning.plan import plan
    from flashir.planning.workload import Workload

    if file.exists() and not force:
        raise ArtefactError("the file exists", where=str(file), hint="--force replaces it")
    planned = plan(views.settled, views.target, batch, seq_len)
    summary = {
        "parameters": console.many(planned.parameters),
        "chunk": "-" if planned.chunk is None else str(planned.chunk),
        **({} if planned.tile is None else {"tile": str(planned.tile)}),
        "cumsum": planned.cumsum or "-",
        views.target: time_of(planned),
        "memory": console.size(planned.peak_bytes),
    }
    record = find_target(views.target)
    titles = {"lowered": f"lowered for {views.target}"}
    shown = []
    for name, description in STAGES.items():
        graph = views.at(name)
        shown.append(
            Stage(name, titles.get(name, name), description, graph, views.settled if name == "blocks" else graph)
        )
    sizes = Workload(batch, seq_len).sizes(views.settled, record.devices)
    content = page(word, summary, shown, record, sizes).encode()
    atomic_write(file, lambda stream: stream.write(content))
    return len(content)
