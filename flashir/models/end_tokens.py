"""Tokens that end texts: which they are for a tokenizer, and what training did with them.

A tokenizer.json has no field for it. The configuration files that others keep beside it do; where there are none, the
usual names are looked for among its special tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashir.errors import InputError
from flashir.files.foreign import SMALL, parse_json, read_bytes

NONE = "none"
"""Given where a token could be: there is none."""

USUAL = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<EOS>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
)
SEPARATOR = "[SEP]"  # ends a text where nothing else does, as in BERT

CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Reading:
    """How texts become tokens in training, beside the tokenizer itself.

    Args:
        document_end: the token that each document ends with; None for no such token.
        special_tokens: whether special tokens are read where a text names them; else their names are text.
    """

    document_end: str | None = None
    special_tokens: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def of(cls, found: object) -> Reading:
        """What `as_dict` gave. Raises ValueError where it is of another shape."""
        match found:
            case {"document_end": None | str() as end, "special_tokens": bool() as special}:
                return cls(end, special)
        raise ValueError("not a document_end and special_tokens")


PLAIN = Reading()
"""Text alone, as it is."""


def special_names(tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """The special tokens that a tokenizer.json adds, by name; nothing where it holds no tokenizer."""
    added = tokenizer.get("added_tokens")
    tokens = [each for each in added if isinstance(each, dict)] if isinstance(added, list) else []
    return tuple(
        name for each in tokens if each.get("special") is True and isinstance(name := each.get("content"), str)
    )


def token_ids(tokenizer: Mapping[str, Any]) -> Mapping[str, int]:
    """The ids of a tokenizer.json by name; nothing where it holds no tokenizer."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    found: dict[Any, Any] = {}
    if isinstance(vocab, dict):
        found |= vocab
    elif isinstance(vocab, list):  # of pairs, in Unigram
        found |= {each[0]: token for token, each in enumerate(vocab) if isinstance(each, list) and each}
    for each in added if isinstance(added, list) else ():
        if isinstance(each, dict):
            found[each.get("content")] = each.get("id")
    return {name: token for name, token in found.items() if isinstance(name, str) and isinstance(token, int)}


def end_names(tokenizer: Mapping[str, Any], folder: Path | None = None) -> tuple[str, ...]:
    """The tokens that end texts, the one that ends documents first; none where nothing says so.

    Args:
        tokenizer: what its tokenizer.json says.
        folder: where that lies, with the configuration files of others or without.

    Raises:
        InputError: a configuration file cannot be read, or names a token that the tokenizer does not have.
    """
    configured = [] if folder is None else [*_configured(folder, token_ids(tokenizer))]
    if configured:
        return tuple(dict.fromkeys(configured))
    special = special_names(tokenizer)
    usual = tuple(name for name in USUAL if name in special)
    return usual or tuple(name for name in (SEPARATOR,) if name in special)


def _configured(folder: Path, ids: Mapping[str, int]) -> Iterator[str]:
    """The ends that configuration files name."""
    names = {token: name for name, token in ids.items()}
    for file in CONFIGS:
        end = _read(folder / file).get("eos_token")
        name = end.get("content") if isinstance(end, dict) else end
        if name is not None:
            yield _known(name, name if isinstance(name, str) and name in ids else None, "eos_token", folder / file)
    token = _read(folder / GENERATION).get("eos_token_id")
    for each in token if isinstance(token, list) else [] if token is None else [token]:
        yield _known(each, names.get(each) if isinstance(each, int) else None, "eos_token_id", folder / GENERATION)


def _known(given: object, name: str | None, field: str, file: Path) -> str:
    if name is None:
        raise InputError(
            f"its {field} is {given!r}, which the tokenizer beside it does not have",
            where=str(file),
            hint="bring the files of one tokenizer together, or move this one away",
        )
    return name


def _read(file: Path) -> Mapping[str, Any]:
    """A configuration file; nothing where there is none. Raises InputError."""
    if not file.exists():
        return {}
    content = read_bytes(file, InputError, largest=SMALL)
    return parse_json(content, file, InputError, dict[str, Any], hint="mend the file, or move it away")
