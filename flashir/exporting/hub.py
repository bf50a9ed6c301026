"""A folder for the Hugging Face hub: weights, config and tokenizer files, a card, and code that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashir.backends.decoding import extending
from flashir.backends.hosting import HubBackend
from flashir.backends.registry import having
from flashir.errors import SettingError, TargetError, option
from flashir.execution.prepare import Prepared, prepare
from flashir.exporting.checks import Check, DecoderCheck
from flashir.exporting.exported import Exported
from flashir.exporting.folder import check_free, with_files
from flashir.generation.generate import longest, piece_of
from flashir.ir import Graph, dumps
from flashir.models.checkpoint import TOKENIZER
from flashir.models.end_tokens import CONFIGS, GENERATION, Reading
from flashir.models.tokenizer_file import Beside
from flashir.models.weight_file import write
from flashir.version import __version__

HUB = "hub"
CARD, CODE, CONFIG, WEIGHTS = "README.md", "modeling_flashir.py", "config.json", "model.safetensors"


def refuse_for_hub(names: Iterable[str]) -> None:
    """Raise SettingError for options of `export` that a folder for the hub does not have."""
    if problems := [f"{option(name)} does nothing: the folder has float32 weights and one decoder" for name in names]:
        raise SettingError(problems, where=HUB)


def export_to_hub(
    model: Graph,
    out: Path,
    params: Mapping[str, Any] | None,
    *,
    seed: int,
    tokenizer: Path | None,
    reading: Reading | None,
    ends: Iterable[int] | None,
    max_len: int | None,
    length: int | None,
    force: bool,
    **choices: Any,
) -> Exported:
    """Write a folder that transformers loads with `trust_remote_code`. Arguments and errors as for `export`.

    Before it is committed, the model and its decoder are compared with the interpreter on the backend that the code
    uses. Existing files of other names stay.
    """
    if length is not None:
        raise SettingError(f"{option('length', length)} does nothing: the code reads texts of any length", where=HUB)
    backend = next(iter(having(HubBackend)), None)
    if backend is None:
        raise TargetError("no backend writes for the hub", where=HUB, hint="pip install 'flashir[torch]'")
    ready = prepare(model, f"{backend}:cpu", params, seed=seed, **choices)
    assert isinstance(ready.backend, HubBackend)
    check = Check(ready, "the exported weights" if params is not None else f"random weights (seed {seed})")
    beside = None if tokenizer is None else Beside.of(tokenizer, reading)
    if beside is not None and ends is not None:
        beside = beside.ending(tuple(ends))
    stop = tuple(ends) if ends is not None else () if beside is None else beside.ends
    _compare(ready, check, max_len)
    files = {
        CONFIG: _json(_config(ready, stop, max_len)),
        GENERATION: _json(_generation(stop)),
        CODE: ready.backend.hub_code.encode(),
        CARD: _card(ready, check).encode(),
    }
    if beside is not None:
        files[CONFIGS[0]] = _json(beside.config)

    def commit() -> Path:
        if not force:
            check_free(out)  # again, because another export may have finished meanwhile
        write(out / WEIGHTS, ready.params, {"format": "pt"})
        return out / WEIGHTS

    def commit_files() -> Path:
        return with_files(out, files, commit)

    path = commit_files() if beside is None else beside.put(out, commit_files)
    names = (WEIGHTS, *files, *(() if beside is None else (TOKENIZER,)))
    written = tuple(out / name for name in names)
    return Exported(path, ready.plan, tuple(check.verdicts), (), files=written, compared=tuple(check.compared))


def _compare(ready: Prepared, check: Check, max_len: int | None) -> None:
    """Compare the model and its decoder with the interpreter. Raises the errors of `Check` and `extending`."""
    assert isinstance(ready.backend, HubBackend)
    graph = ready.plan.graph
    extension = extending(graph, max_len=max_len).lowered(ready.lowering)
    (extend,) = ready.backend.continuing(extension.graphs, ready.params, "cpu")
    whole = ready.backend.compile(ready.lowered, ready.params, "cpu")
    DecoderCheck(check, longest(graph, max_len), None, piece_of(graph))(whole, extend)


def _config(ready: Prepared, ends: tuple[int, ...], max_len: int | None) -> dict[str, Any]:
    model = ready.plan.graph
    module = CODE.removesuffix(".py")
    return {
        "model_type": "flashir",
        "architectures": ["FlashirForCausalLM"],
        "auto_map": {"AutoConfig": f"{module}.FlashirConfig", "AutoModelForCausalLM": f"{module}.FlashirForCausalLM"},
        "vocab_size": model.outputs[0].type.shape[-1],
        "dtype": "float32",
        "max_len": max_len,
        "ir": dumps(model),
        "flashir_version": __version__,
        **_generation(ends),
    }


def _generation(ends: tuple[int, ...]) -> dict[str, Any]:
    """The tokens that end a text; the first of them fills rows that have ended."""
    return {"eos_token_id": ends[0] if len(ends) == 1 else [*ends], "pad_token_id": ends[0]} if ends else {}


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _card(ready: Prepared, check: Check) -> str:
    """The model card, in Markdown with a header in YAML."""
    plan = ready.plan
    checked = "\n".join(f"- {line}" for line in check.verdicts)
    chunk = "" if plan.chunk is None else f" It works in chunks of {plan.chunk} tokens."
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [flashir, custom_code]
---

# {plan.graph.name}

A causal language model with {plan.parameters:,} parameters in float32, written by [flashir] {__version__}.{chunk}
Its state does not grow with the text, except for caches of full attention.

    pip install 'flashir[torch]' transformers

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("this folder", trust_remote_code=True)
```

## How it was verified

Before this folder was written, its results were compared with the float64 interpreter:

{checked}

## The model

```
{dumps(plan.graph).strip()}
```

[flashir]: https://pypi.org/project/flashir/
"""
