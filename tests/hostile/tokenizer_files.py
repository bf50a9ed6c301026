"""tokenizer.json files that ask for too much, or that the library panics at."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

from flashir.train.data import Tokenizer

BASE: dict[str, Any] = json.loads(Tokenizer.bytes().text)

AT_READING = "refused when it is read"
AT_USE = "refused at the latest when it reads a text"
HARMLESS = "odd, but a tokenizer"


def changed(*path: str, to: Any) -> str:
    """The tokenizer of bytes, but for one place."""
    made = copy.deepcopy(BASE)
    inner = made
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = to
    return json.dumps(made)


def _replace(pattern: dict[str, str], content: str = "x") -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _charsmap(data: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


def _unigram(unk: int | None, *tokens: str, byte_fallback: bool = False) -> dict[str, Any]:
    vocab = [[token, -1.0 - n] for n, token in enumerate(tokens)]
    return {"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": byte_fallback}


def _template(piece: dict[str, Any], times: int) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": [piece] * times, "pair": [], "special_tokens": {}}


_BPE = BASE["model"]
_WORDPIECE = {
    "type": "WordPiece",
    "unk_token": "[UNK]",
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}
_ADDED = {
    "id": 257,
    "content": "x",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
_DOUBLE = _replace({"String": "a"}, "aa")

FILES: dict[str, tuple[str, str]] = {
    "an id of 4 billion": (changed("model", "vocab", "zz", to=4294967295), AT_READING),
    "an id of 400 million": (changed("model", "vocab", "zz", to=400_000_000), AT_READING),
    "an id that is too large for the library": (changed("model", "vocab", "zz", to=4294967296), AT_READING),
    "an id of 50 digits": (changed("model", "vocab", "zz", to=10**50), AT_READING),
    "an id of 5000 digits": (json.dumps(BASE).replace(": 255", ": " + "9" * 4500), AT_READING),
    "a negative id": (changed("model", "vocab", "zz", to=-1), AT_READING),
    "an id that is no number": (changed("model", "vocab", "zz", to="1"), AT_READING),
    "an added token far off": (changed("added_tokens", to=[{**_ADDED, "id": 4294967295}]), AT_READING),
    "one id twice": (changed("model", "vocab", "zz", to=5), HARMLESS),
    "an added token that is a special one": (changed("added_tokens", to=[{**_ADDED, "content": "\n"}]), HARMLESS),
    "an added token that is the mask": (changed("added_tokens", to=[{**_ADDED, "content": "<mask>"}]), HARMLESS),
    "an added token of nothing": (changed("added_tokens", to=[{**_ADDED, "content": ""}]), HARMLESS),
    "added tokens that are a number": (changed("added_tokens", to=3), AT_READING),
    "a decoder that is a list": (changed("decoder", to=[1]), AT_READING),
    "a decoder of nothing": (changed("decoder", to={"type": "Sequence", "decoders": []}), HARMLESS),
    "a decoder that strips what is not there": (
        changed("decoder", to={"type": "Strip", "content": "h", "start": 10**6, "stop": 10**6}),
        AT_USE,
    ),
    "a decoder that strips twice": (
        changed("decoder", to={"type": "Strip", "content": "a", "start": 1, "stop": 1}),
        AT_USE,
    ),
    "a decoder that doubles": (
        changed("decoder", to={"type": "Sequence", "decoders": [_DOUBLE] * 40}),
        AT_READING,
    ),
    "merges of one": (changed("model", "merges", to=["q"]), AT_READING),
    "merges of unknown tokens": (changed("model", "merges", to=["a zz9"]), AT_READING),
    "a prefix longer than a token": (
        changed(
            "model",
            to={
                **_BPE,
                "continuing_subword_prefix": "##",
                "vocab": {"a": 0, "b": 1, "ab": 2, "##": 3},
                "merges": [["a", "b"]],
            },
        ),
        AT_READING,
    ),
    "a dropout of 7": (changed("model", "dropout", to=7.0), AT_READING),
    "a regex that is none": (changed("pre_tokenizer", to=_split("(((")), AT_READING),
    "a deep regex": (changed("pre_tokenizer", to=_split("(" * 5000 + ")" * 5000)), AT_READING),
    "a regex that explodes": (changed("pre_tokenizer", to=_split("(a+)+$")), AT_USE),
    "another that does": (changed("pre_tokenizer", to=_split("(a|aa)+$")), AT_USE),
    "a regex of nothing": (changed("pre_tokenizer", to=_split("")), HARMLESS),
    "pieces of no length": (changed("pre_tokenizer", to={"type": "FixedLength", "length": 0}), AT_USE),
    "a replaced regex of nothing": (changed("normalizer", to=_replace({"Regex": ""}, "x" * 1000)), AT_READING),
    "a replaced string of nothing": (changed("normalizer", to=_replace({"String": ""})), AT_READING),
    "one of them inside a sequence": (
        changed("normalizer", to={"type": "Sequence", "normalizers": [{"type": "NFC"}, _replace({"Regex": ""})]}),
        AT_READING,
    ),
    "a replaced regex that may be nothing": (changed("normalizer", to=_replace({"Regex": "q*"})), AT_USE),
    "a replaced beginning": (changed("normalizer", to=_replace({"Regex": "^"})), AT_USE),
    "a replaced border": (changed("normalizer", to=_replace({"Regex": "\\b"})), AT_USE),
    "a normalizer that doubles": (
        changed("normalizer", to={"type": "Sequence", "normalizers": [_DOUBLE] * 40}),
        AT_READING,
    ),
    "a normalizer that doubles by a regex": (
        changed("normalizer", to={"type": "Sequence", "normalizers": [_replace({"Regex": "(?=a)"}, "a")] * 40}),
        AT_READING,
    ),
    "a normalizer that prepends nothing": (changed("normalizer", to={"type": "Prepend", "prepend": ""}), AT_READING),
    "a map of nothing": (changed("normalizer", to=_charsmap(b"")), AT_READING),
    "a map of 4 GB that is not there": (
        changed("normalizer", to=_charsmap(b"\xff\xff\xff\xff" + b"\0" * 40)),
        AT_READING,
    ),
    "a map that is no base64": (
        changed("normalizer", to={"type": "Precompiled", "precompiled_charsmap": "\u00e9"}),
        AT_READING,
    ),
    "a map of noise": (changed("normalizer", to=_charsmap(b"\x08\0\0\0" + b"\xff" * 40)), AT_USE),
    "an unknown token that is not there": (changed("model", "unk_token", to="<nope>"), HARMLESS),
    "no tokens": (changed("model", "vocab", to={}), AT_READING),
    "no tokens at all": (changed("model", to=_unigram(None)), AT_READING),
    "words without unknown": (changed("model", to={**_WORDPIECE, "vocab": {"a": 0, "b": 1}}), AT_USE),
    "whole words without unknown": (
        changed("model", to={"type": "WordLevel", "unk_token": "[UNK]", "vocab": {"a": 0, "b": 1}}),
        AT_USE,
    ),
    "unigram without unknown": (changed("model", to=_unigram(None, "a", "b")), AT_USE),
    "unigram with another's unknown": (changed("model", to=_unigram(99, "a", "b")), AT_READING),
    "unigram of nothing": (changed("model", to=_unigram(0, "", "b")), HARMLESS),
    "unigram of infinite scores": (
        changed("model", to={"type": "Unigram", "unk_id": 0, "vocab": [["a", 1e308], ["b", -1e308]]}),
        HARMLESS,
    ),
    "a model of its own kind": (changed("model", to={"type": "Mine"}), AT_READING),
    "a model that is a list": (changed("model", to=[]), AT_READING),
    "a truncation to nothing": (
        changed("truncation", to={"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 99}),
        HARMLESS,
    ),
    "a padding to a billion": (
        changed(
            "padding",
            to={
                "strategy": {"Fixed": 10**9},
                "direction": "Right",
                "pad_to_multiple_of": 0,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            },
        ),
        HARMLESS,
    ),
    "a template of a special token that is not there": (
        changed("post_processor", to=_template({"SpecialToken": {"id": "x", "type_id": 0}}, 1)),
        HARMLESS,
    ),
    "a template of another text": (
        changed("post_processor", to=_template({"Sequence": {"id": "B", "type_id": 0}}, 1)),
        AT_USE,
    ),
    "a template of many texts": (
        changed("post_processor", to=_template({"Sequence": {"id": "A", "type_id": 0}}, 10**5)),
        AT_READING,
    ),
    "lists without end": ("[" * 100_000, AT_READING),
    "objects without end": ('{"a":' * 100_000, AT_READING),
    "a deep decoder": (
        changed("decoder", to=None).replace(
            '"decoder": null', '"decoder": ' + '{"type": "Sequence", "decoders": [' * 90 + "]}" * 90
        ),
        AT_READING,
    ),
    "no JSON": ("\x00", AT_READING),
    "nothing": ("", AT_READING),
    "a number": ("3", AT_READING),
    "a list": ("[]", AT_READING),
    "an empty object": ("{}", AT_READING),
    "a lone surrogate": (json.dumps(BASE).replace('"zz"', '"\\ud800"').replace('"<mask>"', '"\\ud800"'), AT_READING),
}
"""By what is odd: the text of the file, and how it ends."""
