"""Train systems with equal parameter counts on the same tokens in the same order, and compare their loss curves.

    python -m flashir.experiments.compare --data books/train --valid books/valid --steps 2000 --out comparison/

FLASH has the given depth and width. The depth of every other system is chosen to match its parameter count, and then
its width in steps of 8. All have FLASH's chunk. The folder contains a run for each system, and `comparison.json`, `.md`
and `.svg` for all of them. The same command resumes an interrupted comparison.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import gcd
from pathlib import Path
from statistics import median
from typing import Any

import flashir
from flashir.bench.record import Machine
from flashir.errors import ArtefactError, FlashirError
from flashir.experiments.plot_losses import draw, table
from flashir.files.atomic import atomic_write
from flashir.files.foreign import parse_json, read_text
from flashir.ir import Graph
from flashir.ir.parameter_count import parameter_count
from flashir.models.checkpoint import is_run
from flashir.planning.plan import plan
from flashir.train.data import Tokenizer
from flashir.train.loop import Progress, train
from flashir.train.open_run import opened
from flashir.train.recipe import Recipe
from flashir.train.run_folder import RunFolder
from flashir.train.setup import begin
from flashir.train.signals import stopping

SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "flash": ("flash", {}),
    "flash-quad": ("flash-quad", {}),
    "transformer++": ("transformer++", {}),
    "performer": ("performer", {}),
    "mc-transformer++": ("mc-transformer++", {}),
    "flash local-only": ("flash", {"use_global": False}),
    "flash global-only": ("flash", {"use_local": False}),
}
CHUNKED = ("flash", "mc-transformer++")
WIDTHS = 8
ROWS = 4
"""Of a batch that are computed together, where the command line does not say; fewer, where that does not divide it."""
SETTINGS, RESULT = "settings.json", "comparison"


@dataclass(frozen=True)
class Shape:
    """The shape of FLASH, to which the other systems are fitted.

    Args:
        d_model, depth, key_dim: the settings of FLASH.
        chunk: the chunk of all systems that have one; None for the planned chunk of FLASH.
    """

    d_model: int = 256
    depth: int = 8
    key_dim: int = 64
    chunk: int | None = None


def models(names: Sequence[str], shape: Shape, recipe: Recipe) -> dict[str, Graph]:
    """The systems, with parameter counts as close to that of FLASH as depth and width allow."""
    flash = _model("flash", shape, recipe, shape.depth, shape.d_model, shape.chunk)
    chunk = shape.chunk or plan(flash, recipe.target, recipe.rows or 1, recipe.seq_len, True).chunk
    budget = parameter_count(flash)

    def distance(graph: Graph) -> int:
        return abs(parameter_count(graph) - budget)

    fitted_models = {}
    for name in names:
        by_depth = {d: _model(name, shape, recipe, d, shape.d_model, chunk) for d in range(1, 2 * shape.depth + 1)}
        depth = min(by_depth, key=lambda d: distance(by_depth[d]))
        widths = range(max(WIDTHS, shape.d_model - 4 * WIDTHS), shape.d_model + 5 * WIDTHS, WIDTHS)
        by_width = [_model(name, shape, recipe, depth, width, chunk) for width in widths]
        fitted_models[name] = min([by_depth[depth], *by_width], key=distance)
    return fitted_models


def _model(name: str, shape: Shape, recipe: Recipe, depth: int, d_model: int, chunk: int | None) -> Graph:
    system, own = SYSTEMS[name]
    settings: dict[str, Any] = {"task": "lm", "vocab": 256, "depth": depth, "d_model": d_model, **own}
    if system.startswith("flash"):
        settings["key_dim"] = shape.key_dim
    if system in CHUNKED and chunk is not None:
        settings["chunk"] = chunk
    if system == "flash-quad":
        settings["max_len"] = recipe.seq_len
    return flashir.model(system, **settings)


def compare(names: Sequence[str], shape: Shape, recipe: Recipe, out: Path, progress: Callable[[], Progress]) -> Path:
    """Train the systems one after the other, and write the results.

    Args:
        names: names in SYSTEMS.
        shape: the shape of the models.
        recipe: the recipe of all runs.
        out: the folder; an interrupted comparison there is resumed.
        progress: makes the progress display of each run.

    Raises:
        ArtefactError: the folder holds another comparison, or cannot be written.
        FlashirError: as for `train`.
        KeyboardInterrupt: the run was interrupted; its progress is saved.
    """
    _claim(out, {"shape": asdict(shape), "recipe": {**asdict(recipe), "steps": recipe.steps}})
    rows = []
    for name, model in models(names, shape, recipe).items():
        folder = out / name.replace(" ", "-")
        if not is_run(folder):
            begin(model, recipe, Tokenizer.bytes(), folder)
        with stopping() as stop, opened(RunFolder(folder)) as run:
            train(run, progress(), stop)
            if stop():
                raise KeyboardInterrupt
            lines = list(run.folder.curve.lines())
        seconds = median(line.seconds.step for line in lines)
        waited = sum(line.seconds.waited for line in lines) / sum(line.seconds.step for line in lines)
        rows.append(
            {
                "name": name,
                "model": SYSTEMS[name][0],
                "parameters": run.plan.parameters,
                "depth": _depth(run.plan.graph),
                "chunk": run.plan.chunk,
                "tokens": lines[-1].tokens,
                "validation_loss": lines[-1].validation_loss,
                "seconds_a_step": seconds,
                "tokens_per_second": recipe.tokens / seconds,
                "roofline": run.floor_ms / (1e3 * seconds),
                "waiting": waited,
                "train": [[line.tokens, line.loss] for line in lines],
                "validation": [[line.tokens, line.validation_loss] for line in lines if _validated(line)],
            }
        )
        _write(out, shape, recipe, rows)
    return out / f"{RESULT}.json"


def _validated(line: Any) -> bool:
    return isinstance(line.validation_loss, float)


def _depth(graph: Graph) -> int:
    return next((int(str(node.attrs["times"])) for node in graph.walk() if node.op == "repeat"), 0)


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Store the settings of a comparison. Raises ArtefactError if the folder holds one with other settings."""
    text = json.dumps(settings, indent=1)
    file = out / SETTINGS
    if file.exists() and read_text(file, ArtefactError) != text:
        raise ArtefactError("another comparison is there", where=str(out), hint="choose another folder with --out")
    atomic_write(file, lambda stream: stream.write(text.encode()))


def _write(out: Path, shape: Shape, recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the results so far."""
    result = {
        "shape": asdict(shape),
        "recipe": asdict(recipe),
        "machine": asdict(Machine.here((recipe.target,))),
        "systems": list(rows),
    }
    contents = {"json": json.dumps(result, indent=1), "md": table(rows), "svg": draw(rows)}
    for suffix, text in contents.items():
        atomic_write(out / f"{RESULT}.{suffix}", lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--valid", nargs="+", default=[])
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS), metavar="SYSTEM")
    parser.add_argument("--out", type=Path, default=Path("comparison"))
    parser.add_argument("--target", default="torch:cpu")
    for name, number in (("d-model", 256), ("depth", 8), ("key-dim", 64), ("chunk", None)):
        parser.add_argument(f"--{name}", type=int, default=number)
    for name, number in (("seq-len", 1024), ("batch", 8), ("rows", None), ("steps", 2000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--learning-rate", type=float, default=7e-4)
    parser.add_argument("--validate-every", type=int)
    parser.add_argument("--validation-tokens", type=int, default=2**17)
    args = parser.parse_args()
    try:
        print(_compared(args))
    except FlashirError as error:
        parser.exit(2, f"error: {error.message}\n")
    except KeyboardInterrupt:
        parser.exit(130)


def _compared(args: argparse.Namespace) -> str:
    """Run the comparison of a command line, and return the table."""
    from flashir.cli.training import progress

    same = ("target", "seq_len", "rows", "steps", "seed", "learning_rate", "validate_every", "validation_tokens")
    recipe = Recipe(
        data=tuple(args.data),
        validation=tuple(args.valid),
        tokens=args.batch * args.seq_len,
        keep=1,
        **{name: getattr(args, name) for name in same},
    ).settled(gcd(args.batch, ROWS) if args.rows is None else args.rows)
    shape = Shape(args.d_model, args.depth, args.key_dim, args.chunk)
    result = compare(args.systems, shape, recipe, args.out, progress)
    return table(_systems(result))


def _systems(result: Path) -> list[dict[str, Any]]:
    document = parse_json(read_text(result, ArtefactError), result, ArtefactError, dict[str, Any])
    systems: list[dict[str, Any]] = document["systems"]
    return systems


if __name__ == "__main__":
    main()
