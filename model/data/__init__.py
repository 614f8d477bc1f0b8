"""From plain text to pre-training batches: corpus -> WordPiece ids -> memory-mapped shards -> masked sentence pairs."""

from .batches import PreTrainingBatches, TwoLengths, loader
from .instances import Masking
from .shards import Shards, prepare
from .vocabulary import read_vocabulary, sentence_tokenizer, train_vocabulary

__all__ = [
    "Masking",
    "PreTrainingBatches",
    "Shards",
    "TwoLengths",
    "loader",
    "prepare",
    "read_vocabulary",
    "sentence_tokenizer",
    "train_vocabulary",
]
