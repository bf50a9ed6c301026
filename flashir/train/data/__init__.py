"""Training data: text files -> documents -> token shards -> a corpus -> packed rows, shifted or masked."""

from flashir.train.data.batches import Batches, ahead
from flashir.train.data.corpus import Corpus
from flashir.train.data.shards import prepare, tokenised
from flashir.train.data.text import Document, Progress, documents, words
from flashir.train.data.tokenizer import TASKS, Tokenizer

__all__ = [
    "TASKS",
    "Batches",
    "Corpus",
    "Document",
    "Progress",
    "Tokenizer",
    "ahead",
    "documents",
    "prepare",
    "tokenised",
    "words",
]
