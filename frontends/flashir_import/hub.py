"""Folders that `flashir export --for hub` wrote: the IR text is in config.json, beside the parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from flashir.errors import InputError
from flashir.exporting.hub import CONFIG, WEIGHTS
from flashir.files.foreign import SMALL, parse_json, read_bytes
from flashir.importing.converted import Converted
from flashir.ir import loads
from flashir.models.checkpoint import TOKENIZER
from flashir.models.parameters import checked, load_params


class HubFolders:
    """Folders for transformers. Text and parameters are flashir's own, so there is nothing to compare with."""

    name: ClassVar[str] = "hub"
    reads: ClassVar[str] = "a folder that flashir wrote for the hub"

    def read(self, path: Path, verify: bool) -> Converted | None:
        """The model and the parameters of a folder. See FileImporter."""
        config = path / CONFIG
        if not config.is_file():
            return None
        settings = parse_json(read_bytes(config, InputError, largest=SMALL), config, InputError, dict[str, Any])
        if settings.get("model_type") != "flashir":
            return None
        text = settings.get("ir")
        if not isinstance(text, str):
            raise InputError("it has no text of a model under 'ir'", where=str(config), hint="export the model again")
        model = loads(text, str(config))
        params = checked(model, load_params(path / WEIGHTS))
        tokenizer = path / TOKENIZER
        return Converted(
            *(model, params, self.name, "flashir"),
            tokenizer=tokenizer if tokenizer.is_file() else None,
            labels=_labels(settings.get("id2label"), config),
        )


def _labels(names: object, config: Path) -> tuple[str, ...]:
    """The names of the labels in the order of the scores. Raises InputError."""
    if names is None:
        return ()
    if isinstance(names, Mapping) and all(isinstance(names.get(str(score)), str) for score in range(len(names))):
        return tuple(names[str(score)] for score in range(len(names)))
    raise InputError(f"id2label must name the scores 0, 1, .., got {names!r}", where=str(config))
