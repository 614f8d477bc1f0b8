import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import model
from model import Model, ModelConfig

NARROW = {"hidden_size": 96, "embedding_size": 96, "intermediate_size": 384}
NARROWER = {
    "ib-bert-large": {"bottleneck_size": 640, "intermediate_size": 768},
    "bert-base": NARROW,
    "distilbert-6l": NARROW,
    "distilbert-4l": NARROW,
}


@pytest.fixture(scope="session")
def small() -> Callable[..., ModelConfig]:
    """A preset with two layers and a small vocabulary, and narrower where it is wide."""

    def make(preset: str, **changes: object) -> ModelConfig:
        smaller = {"num_hidden_layers": 2, "vocab_size": 1000, "max_position_embeddings": 64}
        return replace(model.PRESETS[preset], **(smaller | NARROWER.get(preset, {}) | changes))

    return make


@pytest.fixture(scope="session")
def randomized() -> Callable[..., Model]:
    """A model whose norm weights and biases are random too, so that none of them can be lost unnoticed."""

    def make(config: ModelConfig | str, head: str = "none", seed: int = 0) -> Model:
        module = model.create(config, head, seed)
        model.randomize_norms(module, seed)
        return module

    return make


@pytest.fixture(scope="session")
def inputs() -> Callable[..., dict[str, Tensor]]:
    """A padded batch of random tokens, as the forward arguments of a configuration."""

    def make(config: ModelConfig, batch: int = 3, length: int = 24, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, config.vocab_size, (batch, length), generator=generator)
        lengths = torch.randint(length // 2, length, (batch, 1), generator=generator)
        mask = (torch.arange(length) < lengths).long()
        types = torch.randint(0, 2, (batch, length), generator=generator)
        named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: named[name] for name in config.input_names}

    return make


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """The bound of every comparison: 1e-5 of the output range."""

    def check(actual: Tensor | np.ndarray, expected: Tensor | np.ndarray, bound: float = 1e-5) -> None:
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        assert actual.shape == expected.shape
        error = np.abs(actual - expected).max() / np.ptp(expected)
        assert error <= bound, f"{error:.1e} of the output range"

    return check


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty documents of made-up words, one paragraph a line."""
    rng = random.Random(0)
    words = [
        "".join(rng.choice("bdfglmnprst") + rng.choice("aeiou") for _ in range(rng.randint(1, 3))) for _ in range(80)
    ]
    sentence = lambda: " ".join(rng.choices(words, k=rng.randint(3, 16))).capitalize() + "."  # noqa: E731
    paragraph = lambda: " ".join(sentence() for _ in range(rng.randint(1, 6)))  # noqa: E731
    texts = ["\n".join(paragraph() for _ in range(rng.randint(1, 4))) for _ in range(30)]
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n\n".join(texts) + "\n")
    return path


@pytest.fixture(scope="session")
def vocabulary(corpus: Path) -> Path:
    from model.data import train_vocabulary

    return train_vocabulary([corpus], corpus.with_name("vocab.txt"), 200)


@pytest.fixture(scope="session")
def byte_level_bpe(corpus: Path) -> Callable[[Path], Path]:
    """byte_level_bpe(path): a tokenizer.json of RoBERTa's kind, learnt from the corpus, of 300 pieces."""
    from tokenizers import ByteLevelBPETokenizer, processors

    def make(path: Path) -> Path:
        trained = ByteLevelBPETokenizer()
        names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        trained.train([str(corpus)], 300, show_progress=False, special_tokens=names)
        trained.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        path.parent.mkdir(exist_ok=True)
        trained.save(str(path))
        return path

    return make


@pytest.fixture
def prepared(corpus: Path, vocabulary: Path, tmp_path: Path) -> Path:
    """The corpus as token shards."""
    from model.data import prepare

    return prepare([corpus], vocabulary, tmp_path / "prepared")
