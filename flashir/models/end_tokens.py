"""End-of-text tokens: which ones a tokenizer has, and how training used them.

tokenizer.json has no field for them. Hugging Face's configuration files next to it do. If there are none, its special
tokens are searched for the usual names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashir.errors import InputError
from flashir.files.foreign import SMALL, parse_json, read_bytes

NONE = "none"
"""The value of an option for no token."""

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
SEPARATOR = "[SEP]"  # the end token if there is no other, as in BERT

CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Reading:
    """How training tokenises texts, besides the tokenizer itself.

    Args:
        document_end: the token appended to each document; None for none.
        special_tokens: whether the name of a special token in a text becomes that token or plain text.
    """

    document_end: str | None = None
    special_tokens: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def of(cls, fields: object) -> Reading:
        """The inverse of `as_dict`. Raises ValueError for any other object."""
        match fields:
            case {"document_end": None | str() as end, "special_tokens": bool() as special}:
                return cls(end, special)
        raise ValueError("not a document_end and special_tokens")


PLAIN = Reading()
"""No document ends, and special tokens as plain text."""


def special_names(tokenizer: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the special tokens in a tokenizer.json; empty if it holds no tokenizer."""
    added = tokenizer.get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return tuple(
        name for token in tokens if token.get("special") is True and isinstance(name := token.get("content"), str)
    )


def token_ids(tokenizer: Mapping[str, Any]) -> Mapping[str, int]:
    """The token ids of a tokenizer.json by name; empty if it holds no tokenizer."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids: list[tuple[Any, Any]] = []
    if isinstance(vocab, dict):
        ids += vocab.items()
    elif isinstance(vocab, list):  # Unigram has a list of pairs
        ids += [(pair[0], token) for token, pair in enumerate(vocab) if isinstance(pair, list) and pair]
    for entry in added if isinstance(added, list) else ():
        if isinstance(entry, dict):
            ids.append((entry.get("content"), entry.get("id")))
    return {name: token for name, token in ids if isinstance(name, str) and isinstance(token, int)}


def end_names(tokenizer: Mapping[str, Any], folder: Path | None = None) -> tuple[str, ...]:
    """The tokens that end texts, the one that ends documents first.

    Args:
        tokenizer: the content of tokenizer.json.
        folder: its folder, which may hold configuration files.

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
    """The end tokens in the configuration files."""
    names = {token: name for name, token in ids.items()}
    for file in CONFIGS:
        end = _read(folder / file).get("eos_token")
        name = end.get("content") if isinstance(end, dict) else end
        if name is not None:
            yield _known(name, name if isinstance(name, str) and name in ids else None, "eos_token", folder / file)
    token = _read(folder / GENERATION).get("eos_token_id")
    for token_id in token if isinstance(token, list) else [] if token is None else [token]:
        yield _known(
            token_id, names.get(token_id) if isinstance(token_id, int) else None, "eos_token_id", folder / GENERATION
        )


def _known(configured: object, name: str | None, field: str, file: Path) -> str:
    if name is None:
        raise InputError(
            f"its {field} is {configured!r}, which the tokenizer next to it does not have",
            where=str(file),
            hint="use the files of one tokenizer, or move this one away",
        )
    return name


def _read(file: Path) -> Mapping[str, Any]:
    """Read a configuration file; empty if it is missing. Raises InputError."""
    if not file.exists():
        return {}
    content = read_bytes(file, InputError, largest=SMALL)
    return parse_json(content, file, InputError, dict[str, Any], hint="fix the file, or move it away")
