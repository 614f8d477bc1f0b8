"""Sentence embeddings: the losses by hand, runs from pairs and a teacher, transformers as referee."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from model import ModelError
from model.__main__ import main
from model.finetune.embedding import EmbeddingLoss, read_pairs

FIELDS = (
    "{vocab_size = 200, max_position_embeddings = 32, num_hidden_layers = 1, embedding_size = 8, hidden_size = 16, "
    "bottleneck_size = 8, intermediate_size = 16, num_attention_heads = 2, attention_dropout = 0.0}"
)


class Vectors(torch.nn.Module):
    """Stands in for a model: a token's id is its vector's row."""

    def __init__(self, table: torch.Tensor):
        super().__init__()
        self.table = torch.nn.Parameter(table)

    def forward(self, ids, mask, types):
        return {"sentence_embedding": self.table[ids[:, 0]]}


@pytest.mark.parametrize("width", [4, 6])
def test_the_losses_are_their_equations(width: int) -> None:
    rng = np.random.default_rng(0)
    table, theirs = rng.normal(size=(6, 4)), rng.normal(size=(6, width))
    score = np.array([5.0, 4.0, 1.0])
    batch = {f"{name}_{i}": torch.tensor([[3 * i - 3], [3 * i - 2], [3 * i - 1]]) for i in (1, 2)
             for name in ("input_ids", "attention_mask", "token_type_ids")}  # fmt: skip
    batch |= {
        "score_1": torch.tensor(score),
        "teacher_1": torch.tensor(theirs[:3]),
        "teacher_2": torch.tensor(theirs[3:]),
    }
    terms = EmbeddingLoss(Vectors(torch.tensor(table)), 2.0, 3.0, 5.0, 0.5, 4.0)(batch)  # type: ignore[arg-type]
    x = table / np.linalg.norm(table, axis=1, keepdims=True)
    t = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    cosines = np.array([[x[i] @ x[3 + j] for j in range(3)] for i in range(3)])
    contrastive = 0.0
    for i in (0, 1):  # the third pair does not mean the same
        for row in (cosines[i], cosines[:, i]):
            contrastive -= row[i] / 0.5 - np.log(sum(np.exp(c / 0.5) for c in row))
    expected = {
        "contrastive": contrastive / 4,
        "cosine": sum((cosines[i, i] - score[i] / 5) ** 2 for i in range(3)) / 3,
    }
    if width == 4:
        expected["distilled"] = sum(((x[i] - t[i]) ** 2).sum() for i in range(6)) / 6
    else:
        expected["distilled"] = sum((x[i] @ x[j] - t[i] @ t[j]) ** 2 for i in range(6) for j in range(6)) / 36
    expected["loss"] = 2 * expected["contrastive"] + 3 * expected["cosine"] + 5 * expected["distilled"]
    assert {name: float(value.detach()) for name, value in terms.items()} == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def pairs(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences beside themselves in another order (5) and beside others (0)."""
    rng = random.Random(0)
    words = [piece for piece in vocabulary.read_text().splitlines() if len(piece) == 4 and piece.isalpha()]
    rows = []
    for i in range(48):
        first, other = rng.sample(words, 4), rng.sample(words, 4)
        second = rng.sample(first, 4) if i % 2 else other
        rows.append(f"{i}\t{' '.join(first)}\t{' '.join(second)}\t{5.0 if i % 2 else 0.0}\n")
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("index\tsentence1\tsentence2\tscore\n" + "".join(rows))
    return path


def run(folder: Path, pairs: Path, vocabulary: Path, *sets: str) -> int:
    path = folder / "embed.toml"
    path.write_text(f"""
output = "{folder}/run"
epochs = 10
[model]
preset = "mobilebert-paper"
fields = {FIELDS}
[data]
vocabulary = "{vocabulary}"
train = "{pairs}"
dev = "{pairs}"
sequence_length = 16
[train]
optimizer = "adamw"
batch_size = 16
learning_rate = 1e-2
device = "cpu"
""")
    return main(["embed", str(path), *(word for text in sets for word in ("--set", text))])


def test_an_embedder_learns_and_teaches_and_transformers_makes_the_same_vectors(
    pairs: Path, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    assert run(tmp_path, pairs, vocabulary, "dimensions=12", "objective.contrastive=0.1") == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["dev"]["spearman"] > 0.7
    folder = tmp_path / "run/model"
    ours = model.load(folder)
    assert ours.output_names == ["sentence_embedding"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoder = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    texts = [pair.first for pair in read_pairs(pairs)[:3]] + ["ba"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert batch["input_ids"][0, 0] == 2  # [CLS]
    with torch.no_grad():
        hidden = encoder(**batch)["last_hidden_state"]
        mask = batch["attention_mask"][..., None]
        dense = model.checkpoint.read_weights(folder / "2_Dense")
        pooled = (hidden * mask).sum(1) / mask.sum(1) @ dense["linear.weight"].T + dense["linear.bias"]
        expected = pooled / pooled.norm(dim=1, keepdim=True)
        got = ours(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])["sentence_embedding"]
    assert got.shape == (4, 12)
    assert torch.allclose(got, expected, atol=1e-6)
    modules = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    assert modules == ["Transformer", "Pooling", "Dense", "Normalize"]
    # The same, taught by it alone.
    taught = (
        "objective.cosine=0",
        "objective.distilled=1",
        f"teacher={folder}",
        "dimensions=12",
        "model.fields.num_hidden_layers=2",
    )
    assert run(tmp_path, pairs, vocabulary, *taught, f"output={tmp_path}/taught") == 0
    log = [json.loads(line) for line in (tmp_path / "taught/log.jsonl").open()]
    assert log[-1]["distilled"] < 0.5 * log[0]["distilled"]


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["objective.cosine=0"], "one of contrastive, cosine and distilled must be above 0"),
        (["objective.distilled=1"], "objective.distilled needs a teacher"),
        (["data.dev="], "data.dev is missing"),
    ],
)
def test_what_cannot_be_trained_is_named(
    sets: list[str], message: str, pairs: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, pairs, vocabulary, *sets) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\n", "pairs.tsv:1: no column 'sentence1'"),
        ("sentence1\tsentence2\tscore\nx\ty\n", "pairs.tsv:2: 2 columns, not 3"),
        ("sentence1\tsentence2\tscore\nx\ty\t6\n", "pairs.tsv:2: score '6'"),
        ("sentence1\tsentence2\n", "pairs.tsv has no rows"),
    ],
)
def test_a_file_that_holds_no_pairs_is_named_by_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text(text)
    with pytest.raises(ModelError, match=message):
        read_pairs(tmp_path / "pairs.tsv")
