"""What MODEL means on the command line: a name of the zoo, a file, a checkpoint or run, or an exported model.

`find` reads it: a `.fir` file with `flashir.models.load`, a name of the zoo with its frontend.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashir.errors import InputError, SettingError, TargetError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from flashir.backends.protocols import Exporter, Run
    from flashir.cli.weights import Weights
    from flashir.ir import Graph
    from flashir.models.end_tokens import Reading

KINDS = "MODEL is a name of the zoo, a .fir file, or the folder of a checkpoint or a run"


@dataclass(frozen=True)
class Source:
    """A model and its origin.

    Args:
        word: MODEL as typed.
        kind: `zoo`, `file`, `checkpoint` or `export`.
        model: the model at the level of blocks.
        params: the parameters of a checkpoint.
        run: the function of an artefact on `target`; None if it is `idle`.
        target: the target of an artefact, `backend:device`.
        tokenizer: the tokenizer file, if there is one.
        reading: how training read texts, if a checkpoint or an artefact records it.
        labels: the names of the labels that the model predicts, if a checkpoint or an artefact records them.
        main: the main file of an artefact.
        unneeded: the names of parameters that only results need which `--output` leaves out.
        metadata: the metadata of an artefact.
    """

    word: str
    kind: str
    model: Graph
    params: Mapping[str, npt.NDArray[np.float32]] | None = None
    run: Run | None = None
    target: str | None = None
    tokenizer: Path | None = None
    reading: Reading | None = None
    labels: tuple[str, ...] = ()
    main: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    unneeded: frozenset[str] = frozenset()

    def weights(
        self, file: Path | None = None, seed: int | None = None, strict: bool = True, *, reference: bool = False
    ) -> Weights:
        """The parameters of the model: from the options, the checkpoint or the artefact; otherwise random ones.

        Args:
            file: the safetensors file, checkpoint or run of `--params`.
            seed: the value of `--seed`.
            strict: keep parameters that the model does not have, so that they are refused.
            reference: also return the parameters stored in an artefact, for the interpreter.

        Raises:
            SettingError: there is more than one set of parameters.
            ParameterError: the parameters do not fit the artefact.
            FlashirError: they cannot be read, or are damaged.
        """
        from flashir.cli.weights import Weights

        options = [name for name, value in (("--params", file), ("--seed", seed)) if value is not None]
        if len(options) == 2 or (options and self.params is not None):
            both = " and ".join(options) if len(options) == 2 else f"{options[0]} and the parameters of the checkpoint"
            raise SettingError(f"there can be only one set of parameters, got {both}")
        if options and self.kind == "export" and not reference:
            raise SettingError(
                f"{options[0]} cannot be set: {self.word} is exported, its parameters are inside",
                hint="`flashir check` and `flashir run --verify` compare it with other parameters",
            )
        if file is not None:
            from flashir.models.checkpoint import read_params
            from flashir.models.parameters import checked, fitted

            arrays = self._needed(fitted(self.model, read_params(file), strict=strict))
            return Weights("file", checked(self.model, arrays) if self.kind == "export" else arrays, str(file))
        if self.params is not None:
            return Weights("checkpoint", self._needed(self.params), self.word)
        if self.kind == "export" and seed is None:
            inside = Weights("artefact", None, self.word, random_seed(self.metadata))
            return replace(inside, arrays=self._needed(self._stored())) if reference else inside
        return Weights("random", None, seed=seed or 0)

    def _needed(self, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """The parameters without unneeded ones."""
        return {name: array for name, array in arrays.items() if name not in self.unneeded}

    def returning(self, names: Sequence[str]) -> Source:
        """The same model with these results alone. Labels belong to the first one. Raises InputError."""
        from flashir.backends.results import SelectedResults
        from flashir.models.parameters import possible_names
        from flashir.transforms.select_results import select_results

        model = select_results(self.model, names)
        places = tuple(self.model.outputs.index(value) for value in model.outputs)
        return replace(
            self,
            model=model,
            run=self.run and SelectedResults(self.run, places),
            labels=self.labels if places[0] == 0 else (),
            unneeded=frozenset(possible_names(self.model) - possible_names(model)),
        )

    def _stored(self) -> Mapping[str, npt.NDArray[Any]]:
        """The parameters stored in an artefact. Raises ArtefactError if they cannot be read."""
        from flashir.backends.protocols import Exporter
        from flashir.backends.registry import backend_of

        assert self.main is not None and self.target is not None
        backend = backend_of(self.target)
        assert isinstance(backend, Exporter)
        return backend.stored(self.main)[1]

    def tolerance(self, model: Graph) -> float:
        """The tolerance against the interpreter; larger for an artefact with narrow weights."""
        from flashir.backends.narrow_weights import WEIGHTS
        from flashir.planning.plan import compute_type
        from flashir.reference.compare import NARROW, TOLERANCE

        kind = self.metadata.get(WEIGHTS)
        return TOLERANCE[compute_type(model)] if kind is None else NARROW.get(kind, NARROW["int8"])


def find(
    word: str,
    settings: Iterable[str] | None = None,
    size: str | None = None,
    task: str | None = None,
    *,
    outputs: Sequence[str] | None = None,
    exports: str | None = None,
    lean: bool = False,
    idle: bool = False,
) -> Source:
    """Find the model that MODEL means.

    Args:
        word: MODEL as typed. A name of the zoo wins over a folder, which can be typed as `./flash`.
        settings: `key=value` texts, for a model of the zoo.
        size, task: further settings.
        outputs: the names of the results to keep, if not all.
        exports: accept an exported model, and load it on the device of this target.
        lean: load an exported model with little memory.
        idle: do not load the function of an exported model.

    Raises:
        SettingError: the name is unknown; or settings are malformed, unknown, or not possible for this model.
        InputError: the model has no such results.
        FlashirError: the file or folder cannot be read.
    """
    loaded = _find(word, settings, size, task, exports, lean, idle)
    return loaded.returning(outputs) if outputs else loaded


def _find(
    word: str,
    settings: Iterable[str] | None,
    size: str | None,
    task: str | None,
    exports: str | None,
    lean: bool,
    idle: bool,
) -> Source:
    """The model with all its results."""
    own_settings = read_settings(settings or (), size, task)
    from flashir.models.load import model, model_names, no_such_model

    if word in model_names():
        return Source(word, "zoo", model(word, **own_settings))
    path = Path(word)
    if not (path.exists() or path.suffix or "/" in word or "\\" in word):
        kinds = f"{KINDS}, or what `flashir export` wrote" if exports else KINDS
        raise SettingError(no_such_model(word), hint=kinds)
    if own_settings:
        raise SettingError(
            f"{', '.join(own_settings)} cannot be set: {word} is not a name of the zoo, so its settings are fixed",
            hint="--chunk, --cumsum and --dtype work for every model",
        )
    return _read(word, path, exports, lean, idle)


def random_seed(metadata: Mapping[str, str]) -> int | None:
    """The seed of the parameters of an artefact that was exported with random ones."""
    from flashir.exporting.export import SEED

    return int(text) if (text := metadata.get(SEED, "")).isdigit() else None


def read_settings(pairs: Iterable[str], size: str | None = None, task: str | None = None) -> dict[str, Any]:
    """Parse settings such as `depth=12 causal=true norm=scale_norm`. Raises SettingError with every problem."""
    values: dict[str, Any] = {name: value for name, value in (("size", size), ("task", task)) if value is not None}
    problems = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not text:
            problems.append(f"a setting must be -s key=value, got {pair!r}")
        elif name in values:
            problems.append(f"{name} is given twice")
        else:
            values[name] = _value(text.strip())
    if problems:
        raise SettingError(problems)
    return values


def read_choices(pairs: Iterable[str] | None, **options: Any) -> dict[str, Any]:
    """Parse `--choose tile=64`, and merge it with the options of choices, such as `--chunk`. None is left out.

    Raises:
        SettingError: a pair is malformed, or a choice is given twice.
    """
    values = {name: value for name, value in options.items() if value is not None}
    problems = []
    for pair in pairs or ():
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name or not text:
            problems.append(f"a choice must be --choose name=value, got {pair!r}")
        elif name in values:
            problems.append(f"{name} is given twice")
        else:
            values[name] = _value(text)
    if problems:
        raise SettingError(problems)
    return values


def only_one(name: str, value: object, other: str, second: object) -> None:
    """Raise SettingError if two options that exclude each other are both set."""
    if value is not None and second is not None:
        raise SettingError(f"give {name} or {other}, not both")


def whole_numbers(name: str, text: str, least: int) -> list[int]:
    """Parse `1,2,3`. Raises SettingError."""
    from flashir.ir.limits import LARGEST_SIZE

    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,13}", part) and least <= int(part) <= LARGEST_SIZE for part in parts):
        raise SettingError(
            f"{name} must be whole numbers from {least} to {LARGEST_SIZE}, such as 1,64,65, got {text!r}"
        )
    return [int(part) for part in parts]


def _value(text: str) -> int | float | bool | str:
    """Parse a number or a bool; other texts, such as `layer_norm`, stay texts."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _read(word: str, path: Path, exports: str | None, lean: bool, idle: bool) -> Source:
    """Read a model from a file or folder that may not exist."""
    if path.is_dir():
        from flashir.models.checkpoint import is_checkpoint, is_run, load_checkpoint

        if is_checkpoint(path) or is_run(path):
            saved = load_checkpoint(path)
            about: dict[str, Any] = {"tokenizer": saved.tokenizer, "reading": saved.reading, "labels": saved.labels}
            return Source(word, "checkpoint", saved.model, saved.params, **about)
        artefact = next((path / name for name in artefact_files() if (path / name).is_file()), None)
        if artefact is None:
            raise InputError(
                "this folder is neither a checkpoint (it has no manifest.json) nor a run, nor an exported model "
                f"(no {' or '.join(artefact_files())})",
                where=word,
                hint=f"{KINDS}; `flashir import` makes a checkpoint of a folder for the hub or of another package",
            )
        return _artefact(word, artefact, exports, lean, idle)
    if path.name in _decoder_files():
        raise InputError("this file is part of an exported model", where=word, hint=f"give its folder, {path.parent}")
    if path.suffix in _exporters():
        return _artefact(word, path, exports, lean, idle)
    from flashir.models.load import load

    return Source(word, "file", load(path))


def artefact_files() -> tuple[str, ...]:
    """The main file of an artefact of each backend."""
    return tuple(exporter.main_file for exporter in _exporters().values())


def _exporters() -> dict[str, Exporter]:
    """The backends that write artefacts, by the suffix of their main file."""
    from flashir.backends.protocols import Exporter
    from flashir.backends.registry import backends

    return {Path(own.main_file).suffix: own for own in backends() if isinstance(own, Exporter)}


def _decoder_files() -> list[str]:
    """The files of an artefact that `export --decode` writes beside the main file."""
    from flashir.backends.protocols import DecoderExporter

    return [name for own in _exporters().values() if isinstance(own, DecoderExporter) for name in own.decoder_files]


def _artefact(word: str, path: Path, exports: str | None, lean: bool, idle: bool) -> Source:
    """Read an artefact and verify its digests."""
    from flashir.backends.protocols import MODEL_TEXT
    from flashir.ir import loads
    from flashir.models.label_names import labels_of
    from flashir.models.tokenizer_file import reading_of, tokenizer_beside

    if not path.is_file():
        raise InputError("cannot read: there is no such file", where=word, hint=KINDS)
    if exports is None:
        raise InputError(
            "this is an exported model; its choices are fixed",
            where=word,
            hint="`flashir show`, `run` and `check` take it",
        )
    backend = _exporters()[path.suffix]
    wanted, _, device = exports.partition(":")
    if wanted != (name := backend.name):
        raise TargetError(
            f"an artefact of {name} runs on {name} targets only, got {exports!r}",
            where=word,
            hint=f"--target {name}:{device}",
        )
    metadata = backend.metadata(path)
    model, run = (loads(metadata[MODEL_TEXT], word), None) if idle else backend.load(path, device, lean=lean)
    tokenizer, read = tokenizer_beside(path, metadata), reading_of(path, metadata)
    labels = labels_of(path, metadata)
    return Source(word, "export", model, None, run, exports, tokenizer, read, labels, path, metadata)
