"""What a model learns, from its inputs and its result."""

from __future__ import annotations

from flashir.errors import InputError, SettingError
from flashir.ir import Graph
from flashir.reference.cross_entropy import is_causal, logits_width
from flashir.reference.inputs import MASK, SEGMENT_IDS, masking_inputs, vocabulary
from flashir.train.data import LABELLED, Tokenizer


def task_of(model: Graph) -> str:
    """What a model learns.

    Tokens if its result is logits: `lm` if it is causal, `mlm` if it is bidirectional. Otherwise labels: `class` with
    scores [b, n], `tags` with scores [b, t, n].

    Raises:
        SettingError: as for `scores_of`.
    """
    scores_of(model)
    if logits_width(model) is not None:
        return "lm" if is_causal(model) else "mlm"
    return "class" if model.outputs[0].type.rank == 2 else "tags"


def scores_of(model: Graph) -> int:
    """The number of scores of a position: the vocabulary, or the number of labels. Raises SettingError."""
    result = model.outputs[0].type
    width = result.shape[-1] if result.rank in (2, 3) and result.dtype.is_float else None
    if not isinstance(width, int):
        raise SettingError(
            f"the result {result} is neither logits nor scores of labels, [b, n] or [b, t, n]",
            where=f"@{model.name}",
        )
    return width


def vocabulary_of(model: Graph) -> int:
    """The vocabulary size of a model. Raises InputError if its first input is not tokens."""
    rows = vocabulary(model, model.inputs[0]) if model.inputs else None
    if rows is None:
        raise InputError(
            "the first input of the model must be tokens",
            where=f"@{model.name}",
            hint="give a model that embeds its first input, as every built-in model does",
        )
    return rows


def feature_width(model: Graph) -> int | None:
    """The numbers per row of a model of features [b, t, d]; None for a model of tokens."""
    first = model.inputs[0].type if model.inputs else None
    width = first.shape[-1] if first is not None and first.dtype.is_float and first.rank == 3 else None
    return width if isinstance(width, int) else None


def mask_inputs(model: Graph) -> dict[str, bool]:
    """Whether a model takes segment ids and a padding mask besides its first input: `segments` and `mask` of batches.

    Raises:
        InputError: the model takes other inputs, or in another order.
    """
    present = masking_inputs(model)
    if tuple(present.values()) != model.inputs[1:] or list(present) == [MASK, SEGMENT_IDS]:
        inputs = ", ".join(f"{value.name}: {value.type}" for value in model.inputs)
        raise InputError(
            f"the model takes ({inputs}); wanted tokens, then optional segment ids, then an optional mask",
            where=f"@{model.name}",
        )
    return {"segments": SEGMENT_IDS in present, "mask": MASK in present}


def check_tokenizer(model: Graph, tokenizer: Tokenizer) -> None:
    """Raises InputError if the vocabulary of the model is not that of the tokenizer."""
    task = task_of(model)
    tokenizer.check("lm" if task in LABELLED else task, vocabulary_of(model))
