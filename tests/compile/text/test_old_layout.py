"""Older sentence-transformers folders keep the tokenizer beside the encoder."""

from pathlib import Path

import pytest

from compile.build import _read_text_side


@pytest.mark.parametrize("where", ["", "0_Transformer"])
def test_the_tokenizer_is_found_beside_the_encoder(where: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "0_Transformer").mkdir()
    (tmp_path / where / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"]) + "\n"
    )
    side = _read_text_side(tmp_path, None, cased=False)
    assert side is not None
    assert side.names[-1] == "word"
