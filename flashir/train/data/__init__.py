"""Training data: from files to batches.

Text files -> documents -> token shards -> a corpus -> packed rows, shifted or masked.
Lines of JSON -> labelled examples -> padded rows.
"""

from flashir.train.data.batches import Batches, ahead
from flashir.train.data.corpus import Corpus
from flashir.train.data.labelled import LABELLED, Labelled, label_names, labelled
from flashir.train.data.labelled_batches import LabelledBatches
from flashir.train.data.shards import prepare, tokenised
from flashir.train.data.text import Document, Progress, documents, words
from flashir.train.data.text_batches import TextBatches
from flashir.train.data.tokenizer import TASKS, Tokenizer

__all__ = [
    "LABELLED",
    "TASKS",
    "Batches",
    "Corpus",
    "Document",
    "Labelled",
    "LabelledBatches",
    "Progress",
    "TextBatches",
    "Tokenizer",
    "ahead",
    "documents",
    "label_names",
    "labelled",
    "prepare",
    "tokenised",
    "words",
]
