"""A folder for the Hugging Face hub: weights, config and tokenizer files, a card, and code that transformers loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashir.backends.decoding import extending
from flashir.backends.hosting import HubBackend
from flashir.backends.protocols import Written
from flashir.backends.registry import having
from flashir.errors import SettingError, TargetError, option
from flashir.execution.prepare import Prepared
from flashir.exporting.checks import Check, DecoderCheck
from flashir.exporting.folder import json_file
from flashir.exporting.writers import Writer
from flashir.generation.generate import longest, piece_of
from flashir.ir import dumps
from flashir.models.end_tokens import GENERATION
from flashir.models.weight_file import write
from flashir.reference.inputs import vocabulary
from flashir.version import __version__

HUB = "hub"
CARD, CODE, CONFIG, WEIGHTS = "README.md", "modeling_flashir.py", "config.json", "model.safetensors"


def refuse_for_hub(options: Mapping[str, object]) -> None:
    """Raise SettingError for options of `export` that are given and that a folder for the hub does not have."""
    texts = [option(name) for name, value in options.items() if value is not None and value is not False]
    if problems := [
        f"{text} does nothing: the folder has float32 weights, and code of PyTorch for any length" for text in texts
    ]:
        raise SettingError(problems, where=HUB)


def hub_target() -> str:
    """The target that the code in the folder uses. Raises TargetError if no backend has such code."""
    backend = next(iter(having(HubBackend)), None)
    if backend is None:
        raise TargetError("no backend writes for the hub", where=HUB, hint="pip install 'flashir[torch]'")
    return f"{backend}:cpu"


def hub_writer(
    prepared: Prepared,
    check: Check,
    ends: tuple[int, ...],
    labels: Sequence[str],
    training: Sequence[str],
    max_len: int | None,
) -> Writer:
    """Writes a folder that transformers loads with `trust_remote_code`. Existing files of other names stay.

    The model and its decoder are compared first, on the backend that the code uses.

    Raises:
        SettingError: the model has no decoder, or `max_len` is missing.
        ArtefactError: a check failed.
    """
    assert isinstance(prepared.backend, HubBackend)
    _compare(prepared, check, max_len)
    files = {
        CONFIG: json_file(_config(prepared, ends, labels, max_len)),
        GENERATION: json_file(_generation(ends)),
        CODE: prepared.backend.hub_code.encode(),
        CARD: _card(prepared, check, labels, training).encode(),
    }

    def put(out: Path, _: Mapping[str, str]) -> Written:
        write(out / WEIGHTS, prepared.params, {"format": "pt"})
        return Written(out / WEIGHTS)

    return Writer(put, files)


def _compare(prepared: Prepared, check: Check, max_len: int | None) -> None:
    """Compare the model and its decoder with the interpreter. Raises the errors of `Check` and `extending`."""
    assert isinstance(prepared.backend, HubBackend)
    graph = prepared.plan.graph
    extension = extending(graph, max_len=max_len).lowered(prepared.lowering)
    (extend,) = prepared.backend.continuing(extension.graphs, prepared.params, "cpu")
    whole = prepared.backend.compile(prepared.lowered, prepared.params, "cpu")
    DecoderCheck(check, longest(graph, max_len), None, piece_of(graph))(whole, extend)


def _config(prepared: Prepared, ends: tuple[int, ...], labels: Sequence[str], max_len: int | None) -> dict[str, Any]:
    model = prepared.plan.graph
    module = CODE.removesuffix(".py")
    return {
        "model_type": "flashir",
        "architectures": ["FlashirForCausalLM"],
        "auto_map": {"AutoConfig": f"{module}.FlashirConfig", _auto(labels): f"{module}.FlashirForCausalLM"},
        "vocab_size": vocabulary(model, model.inputs[0]),
        "dtype": "float32",
        "max_len": max_len,
        "ir": dumps(model),
        "flashir_version": __version__,
        **_generation(ends),
        **_label_names(labels),
    }


def _auto(labels: Sequence[str]) -> str:
    """The class of transformers that loads the folder."""
    return "AutoModelForTokenClassification" if labels else "AutoModelForCausalLM"


def _generation(ends: tuple[int, ...]) -> dict[str, Any]:
    """The tokens that end a text; the first of them fills rows that have ended."""
    return {"eos_token_id": ends[0] if len(ends) == 1 else [*ends], "pad_token_id": ends[0]} if ends else {}


def _label_names(labels: Sequence[str]) -> dict[str, Any]:
    """The names of the scores under the names that transformers gives them."""
    names = dict(enumerate(labels))
    return {"id2label": names, "label2id": {name: score for score, name in names.items()}} if names else {}


def _card(prepared: Prepared, check: Check, labels: Sequence[str], training: Sequence[str]) -> str:
    """The model card, in Markdown with a header in YAML."""
    plan = prepared.plan
    checked = "\n".join(f"- {line}" for line in check.verdicts)
    chunk = "" if plan.chunk is None else f" It works in chunks of {plan.chunk} tokens."
    purpose = f" It scores these labels for each token: {', '.join(labels)}." if labels else ""
    trained = "\n".join(f"- {line}" for line in training) or f"Not recorded. The parameters are {check.weights}."
    return f"""---
library_name: transformers
pipeline_tag: {"token-classification" if labels else "text-generation"}
tags: [flashir, custom_code]
---

# {plan.graph.name}

A causal model with {plan.parameters:,} parameters in float32, written by [flashir] {__version__}.{chunk}{purpose}
Its state does not grow with the text, except for caches of full attention.

    pip install 'flashir[torch]' transformers

```python
from transformers import {_auto(labels)}

model = {_auto(labels)}.from_pretrained("this folder", trust_remote_code=True)
```

## Training

{trained}

## How it was verified

Before this folder was written, its results were compared with the float64 interpreter:

{checked}

## The model

```
{dumps(plan.graph).strip()}
```

[flashir]: https://pypi.org/project/flashir/
"""
