"""Folders of small random models, for the tokenizers that tests put into them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def folder_of_bert(randomized: Callable) -> Callable[..., Path]:
    """folder_of_bert(folder, head): adds a one-layer BERT with random weights to a folder."""
    import model

    def make(folder: Path, head: Any = "none", **changes: Any) -> Path:
        sizes = {"num_hidden_layers": 1, "vocab_size": 1000, "max_position_embeddings": 64, "hidden_size": 32}
        sizes |= {"embedding_size": 32, "intermediate_size": 64, "num_attention_heads": 2} | changes
        module = randomized(replace(model.PRESETS["bert-base"], **sizes), head, seed=1)
        tokenizer = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
        for path in list(folder.iterdir()) if folder.exists() else []:
            path.unlink()
        model.save_checkpoint(module, folder)
        for name, data in tokenizer.items():
            (folder / name).write_bytes(data)
        return folder

    return make
