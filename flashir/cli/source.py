"""What the word MODEL of a command line means: a model of the zoo, a file, a checkpoint or run, or an artefact."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashir.errors import InputError, SettingError, TargetError, suggest

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
    """A model, and where it comes from.

    Args:
        word: MODEL as it was typed.
        kind: `zoo`, `file`, `checkpoint` or `export`.
        model: at the level of blocks.
        params: those of a checkpoint.
        tokenizer: the file of its tokenizer, where it has one.
        reading: how training read texts, where a checkpoint or an artefact says so.
        run: an artefact as something that runs, on `target`; None where it is `idle`.
        target: of an artefact, `backend:device`.
        main: the main file of an artefact.
        metadata: what an artefact carries.
    """

    word: str
    kind: str
    model: Graph
    params: Mapping[str, npt.NDArray[np.float32]] | None = None
    run: Run | None = None
    target: str | None = None
    tokenizer: Path | None = None
    reading: Reading | None = None
    main: Path | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def weights(
        self, file: Path | None = None, seed: int | None = None, strict: bool = True, *, reference: bool = False
    ) -> Weights:
        """The parameters that the model runs with: those given, of the checkpoint, or inside the artefact, else fresh.

        Args:
            file: the safetensors file, checkpoint or run of `--params`.
            seed: of `--seed`.
            strict: whether what the model does not have is kept, to be refused.

        Raises:
            SettingError: two of them are given at once, or one for an artefact, which has its own.
            ParameterError: those given do not fit the artefact.
            FlashirError: they cannot be read, or are damaged.
        """
        from flashir.cli.weights import Weights

        given = [name for name, value in (("--params", file), ("--seed", seed)) if value is not None]
        if len(given) == 2 or (given and self.params is not None):
            both = " and ".join(given) if len(given) == 2 else f"{given[0]} and the parameters of the checkpoint"
            raise SettingError(f"there can be only one set of parameters, got {both}")
        if given and self.kind == "export" and not reference:
            raise SettingError(
                f"{given[0]} cannot be set: {self.word} is exported, its parameters are inside",
                hint="`flashir check`, and `flashir run` with --verify, compare it with others",
            )
        if file is not None:
            from flashir.models.checkpoint import read_params
            from flashir.models.parameters import checked, fitted

            arrays = fitted(self.model, read_params(file), strict=strict)
            return Weights("file", checked(self.model, arrays) if self.kind == "export" else arrays, str(file))
        if self.params is not None:
            return Weights("checkpoint", self.params, self.word)
        if self.kind == "export" and seed is None:
            inside = Weights("artefact", None, self.word, random_seed(self.metadata))
            return replace(inside, arrays=self._stored()) if reference else inside
        return Weights("random", None, seed=seed or 0)

    def _stored(self) -> Mapping[str, npt.NDArray[Any]]:
        """The parameters inside an artefact. Raises ArtefactError where they cannot be read back."""
        from flashir.backends.protocols import Exporter
        from flashir.backends.registry import backend_of

        assert self.main is not None and self.target is not None
        found = backend_of(self.target)
        assert isinstance(found, Exporter)
        return found.stored(self.main)[1]

    def tolerance(self, model: Graph) -> float:
        """By how much results may differ from the interpreter's; more, where an artefact has narrow weights."""
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
    exports: str | None = None,
    lean: bool = False,
    idle: bool = False,
) -> Source:
    """The model that a word means.

    Args:
        word: MODEL as typed. A name of the zoo comes first; `./flash` is the folder of that name.
        settings: each `key=value`, for a model of the zoo.
        size, task: settings too.
        exports: accept an exported artefact, and run it on the device of this target.
        lean: an artefact is only looked at; take little memory.
        idle: an artefact is not made to run at all.

    Raises:
        SettingError: the word means nothing, or settings are malformed, unknown, or given for what has none.
        FlashirError: what stands behind the word cannot be read.
    """
    given = read_settings(settings or (), size, task)
    if word in (names := zoo_names()):
        from flashir.models.load import model

        return Source(word, "zoo", model(word, **given))
    path = Path(word)
    if not (path.exists() or path.suffix or "/" in word or "\\" in word):
        kinds = f"{KINDS}, or what `flashir export` wrote" if exports else KINDS
        raise SettingError(f"unknown model {word!r}{suggest(word, names)}", hint=kinds)
    if given:
        raise SettingError(
            f"{', '.join(given)} cannot be set: {word} is no name of the zoo, so its settings stand in the model",
            hint="--chunk, --cumsum and --dtype work for every model",
        )
    return _read(word, path, exports, lean, idle)


def random_seed(metadata: Mapping[str, str]) -> int | None:
    """The seed of an artefact's parameters, where it was exported with fresh ones; see `flashir.export`."""
    from flashir.exporting.export import SEED

    return int(text) if (text := metadata.get(SEED, "")).isdigit() else None


def zoo_names() -> list[str]:
    """Every model that a frontend has by name."""
    from flashir.backends.registry import frontends

    return [name for frontend in frontends() for name in frontend.models()]


def read_settings(pairs: Iterable[str], size: str | None = None, task: str | None = None) -> dict[str, Any]:
    """`depth=12 causal=true chunk=auto norm=scale_norm` as values. Raises SettingError with every problem."""
    given: dict[str, Any] = {name: value for name, value in (("size", size), ("task", task)) if value is not None}
    problems = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not text:
            problems.append(f"a setting is given as -s key=value, got {pair!r}")
        elif name in given:
            problems.append(f"{name} is given twice")
        else:
            given[name] = _value(text.strip())
    if problems:
        raise SettingError(problems)
    return given


def read_choices(pairs: Iterable[str] | None, **options: Any) -> dict[str, Any]:
    """`--choose tile=64` and the options that choices have of their own, as values; what is not given is left out.

    Raises:
        SettingError: a pair is malformed, or a choice is given twice.
    """
    given = {name: value for name, value in options.items() if value is not None}
    problems = []
    for pair in pairs or ():
        name, equals, text = (part.strip() for part in pair.partition("="))
        if not equals or not name or not text:
            problems.append(f"a choice is given as --choose name=value, got {pair!r}")
        elif name in given:
            problems.append(f"{name} is given twice")
        else:
            given[name] = _value(text)
    if problems:
        raise SettingError(problems)
    return given


def only_one(name: str, value: object, other: str, second: object) -> None:
    """Raises SettingError where two options that exclude each other are both given."""
    if value is not None and second is not None:
        raise SettingError(f"give {name} or {other}, not both")


def whole_numbers(name: str, text: str, least: int) -> list[int]:
    """`1,2,3` as numbers. Raises SettingError."""
    from flashir.ir.limits import LARGEST_SIZE

    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,13}", part) and least <= int(part) <= LARGEST_SIZE for part in parts):
        raise SettingError(
            f"{name} must be whole numbers from {least} to {LARGEST_SIZE}, such as 1,64,65, got {text!r}"
        )
    return [int(part) for part in parts]


def _value(text: str) -> int | float | bool | str:
    """A number, true or false; else the text itself, as in `auto` or `layer_norm`."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _read(word: str, path: Path, exports: str | None, lean: bool, idle: bool) -> Source:
    """The model in a file or folder that need not exist."""
    if path.is_dir():
        from flashir.models.checkpoint import is_checkpoint, is_run, load_checkpoint

        if is_checkpoint(path) or is_run(path):
            found = load_checkpoint(path)
            model, params = found.model, found.params
            return Source(word, "checkpoint", model, params, tokenizer=found.tokenizer, reading=found.reading)
        artefact = next((path / name for name in artefact_files() if (path / name).is_file()), None)
        if artefact is None:
            raise InputError(
                "this folder is neither a checkpoint (it has no manifest.json) nor a run, nor an exported model "
                f"(no {' or '.join(artefact_files())})",
                where=word,
                hint=KINDS,
            )
        return _artefact(word, artefact, exports, lean, idle)
    if path.name in _decoder_files():
        raise InputError("this is a part of an exported model", where=word, hint=f"give its folder, {path.parent}")
    if path.suffix in _exporters():
        return _artefact(word, path, exports, lean, idle)
    from flashir.models.load import load

    return Source(word, "file", load(path))


def artefact_files() -> tuple[str, ...]:
    """The main file of an artefact of each backend."""
    return tuple(exporter.main_file for exporter in _exporters().values())


def _exporters() -> dict[str, Exporter]:
    """The backends that write artefacts, by the suffix of the main file."""
    from flashir.backends.protocols import Exporter
    from flashir.backends.registry import backends

    return {Path(each.main_file).suffix: each for each in backends() if isinstance(each, Exporter)}


def _decoder_files() -> list[str]:
    """The other graphs of an artefact that `export --decode` wrote."""
    from flashir.backends.protocols import DecoderExporter

    return [name for each in _exporters().values() if isinstance(each, DecoderExporter) for name in each.decoder_files]


def _artefact(word: str, path: Path, exports: str | None, lean: bool, idle: bool) -> Source:
    """An artefact, the digests of what is read verified."""
    from flashir.ir import loads
    from flashir.models.tokenizer_file import beside, reading_of

    if not path.is_file():
        raise InputError("cannot read: there is no such file", where=word, hint=KINDS)
    if exports is None:
        raise InputError(
            "this is an exported model; its choices are fixed",
            where=word,
            hint="`flashir show`, `run` and `check` take it",
        )
    found = _exporters()[path.suffix]
    wanted, _, device = exports.partition(":")
    if wanted != (name := found.name):
        raise TargetError(
            f"an artefact of {name} runs on {name}:.. only, got {exports!r}",
            where=word,
            hint=f"--target {name}:{device}",
        )
    metadata = found.metadata(path)
    model, run = (loads(metadata["flashir.model"], word), None) if idle else found.load(path, device, lean=lean)
    tokenizer, read = beside(path, metadata), reading_of(path, metadata)
    return Source(word, "export", model, None, run, exports, tokenizer, read, path, metadata)
