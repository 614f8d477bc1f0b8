"""The text side of a model: a tokenizer as `tokenizers` describes it, read from a folder or a vocab.txt."""
