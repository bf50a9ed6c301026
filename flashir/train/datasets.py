"""The data of a recipe: text for a model that predicts tokens, labelled examples for one that predicts labels."""

from __future__ import annotations

from flashir.errors import SettingError, option
from flashir.ir import Graph
from flashir.train.corpora import Corpora, corpora
from flashir.train.data import LABELLED, Tokenizer
from flashir.train.distributed import Report
from flashir.train.examples import Examples, examples
from flashir.train.recipe import Recipe
from flashir.train.task import task_of


def read_data(model: Graph, recipe: Recipe, tokenizer: Tokenizer | None, report: Report) -> Corpora | Examples:
    """The training data and the held-out data; the tokenizer is None for a model of features.

    Raises:
        SettingError: no data are given, or the number of labels is not that of the model.
        InputError: with all problems of the files.
    """
    if not recipe.data:
        raise SettingError("there is no training data", where="data", hint=option("data", "FILE or FOLDER"))
    if task_of(model) in LABELLED:
        return examples(model, recipe, tokenizer, report)
    assert tokenizer is not None
    return corpora(recipe, tokenizer, report)
