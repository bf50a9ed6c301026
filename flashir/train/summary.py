"""How a model was trained, in words, for its card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from msgspec import UNSET

from flashir.models.checkpoint import is_run, step_of
from flashir.train.metrics import Line, perplexity
from flashir.train.run_folder import RunFolder, run_around


def training_of(path: Path) -> tuple[str, ...]:
    """Sentences about the training of a run up to its newest checkpoint, or up to the checkpoint at `path`.

    There are none if the path is neither. Files of data are named without their folders.

    Raises:
        ArtefactError, InputError, SettingError: the recipe or the curve cannot be read.
    """
    around = run_around(path)
    if around is None:
        return ()
    run = RunFolder(around)
    checkpoint = run.newest() if is_run(path) else path
    step = step_of(checkpoint)
    recipe, lines = run.recipe, [line for line in run.curve.lines() if line.step <= step]
    seen = f", {lines[-1].tokens:,} tokens in all" if lines else ""
    held_out = f"of {_names(recipe.validation)}" if recipe.validation else "held out from the data"
    return (
        f"{step:,} of {recipe.steps:,} steps with rows of {recipe.seq_len:,} tokens{seen}",
        f"data: {_names(recipe.data)}; tokenizer: {Path(recipe.tokenizer).name}",
        *_validation(lines, held_out),
    )


def _validation(lines: list[Line], text: str) -> Iterable[str]:
    """The last measurement on validation data."""
    measured = [line for line in lines if line.validation_loss is not UNSET]
    for line in measured[-1:]:
        assert isinstance(line.validation_loss, float)
        figures = f"loss {line.validation_loss:.4f}, perplexity {perplexity(line.validation_loss):.4g}"
        if isinstance(line.validation_accuracy, float):
            figures += f", accuracy {line.validation_accuracy:.1%}"
        yield f"validation after step {line.step:,}, on text {text}: {figures}"


def _names(paths: Iterable[str]) -> str:
    return ", ".join(Path(path).name for path in paths) or "not recorded"
