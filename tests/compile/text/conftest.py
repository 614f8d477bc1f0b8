"""Folders of small random models, for the tokenizers that tests put into them, and their libraries."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.kept import keep


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


@pytest.fixture(scope="session")
def built(
    folder_of_bert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory, objects: Path
) -> Callable[..., tuple[Path, Path]]:
    """built(head, labels, modules, config): an artifact for this machine, and the folder that it was built from.

    labels: how many; modules: as sentence-transformers saves it; config: more of config.json.
    """
    from transformers import BertTokenizer

    import compile

    def write(folder: Path, head: str, labels: int, modules: bool, config: dict[str, Any]) -> None:
        letters = [chr(code) for code in range(0x21, 0x7F)] + list("éабвгд日本語한국😀")
        special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
        pieces = dict.fromkeys([*special, *letters, *(f"##{letter}" for letter in letters), "the", "model", "##ing"])
        BertTokenizer(vocab={piece: n for n, piece in enumerate(pieces)}, do_lower_case=False).save_pretrained(folder)
        folder_of_bert(folder, head, num_labels=labels, vocab_size=len(pieces))
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        if modules:
            kinds = {"models.Transformer": "", "models.Pooling": "1_Pooling", "models.Normalize": "2_Normalize"}
            parts = [{"type": f"sentence_transformers.{kind}", "path": place} for kind, place in kinds.items()]
            (folder / "modules.json").write_text(json.dumps(parts))
            (folder / "1_Pooling").mkdir()
            pooling = {
                "word_embedding_dimension": 32,
                "pooling_mode_mean_tokens": True,
                "pooling_mode_cls_token": False,
            }
            (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))

    made: dict[str, Path] = {}

    def make(head: str, labels: int = 2, modules: bool = False, **config: Any) -> tuple[Path, Path]:
        key = json.dumps([head, labels, modules, config])
        if key not in made:
            made[key] = place = tmp_path_factory.mktemp("tasks") / "task"

            def build() -> None:
                write(place / "model", head, labels, modules, config)
                compile.build(place / "model", target="host", seq_len=48, out=place / "artifact")

            keep(objects, ("a task", key), place, build)
        return made[key] / "artifact", made[key] / "model"

    return make


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """modules(folder): the WebAssembly artifact of what `built` was given."""
    import compile

    made: dict[Path, Path] = {}

    def make(folder: Path) -> Path:
        if folder not in made:
            out = tmp_path_factory.mktemp("web") / "model"
            made[folder] = compile.build(folder, target="wasm32", seq_len=48, out=out).folder
        return made[folder]

    return make
