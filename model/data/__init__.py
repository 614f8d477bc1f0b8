"""From plain text to pre-training batches: corpus -> ids of pieces -> memory-mapped shards -> masked sentence pairs."""

from .batches import PreTrainingBatches, TwoLengths, loader
from .instances import Masking
from .shards import Shards, prepare
from .vocabulary import read_vocabulary, sentence_tokenizer, special_ids, train_vocabulary, vocabulary_in

__all__ = [
    "Masking",
    "PreTrainingBatches",
    "Shards",
    "TwoLengths",
    "loader",
    "prepare",
    "read_vocabulary",
    "sentence_tokenizer",
    "special_ids",
    "train_vocabulary",
    "vocabulary_in",
]
