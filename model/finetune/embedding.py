"""Sentence embeddings: pairs as data, the losses on vectors, and the folder that sentence-transformers reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocketbert.files import write_whole

from ..data.text import lines
from ..errors import ModelError
from ..heads import Model
from ..sentence import Dense, Normalize, Pooling, SentenceEmbedding
from .features import RowBatches
from .losses import forward

HIGHEST = 5.0  # score, as in STS-B


@dataclass(frozen=True)
class Pair:
    """Two sentences, and from 0 to 5 how much they mean the same; None where the file has no scores."""

    first: str
    second: str
    score: float | None


def read_pairs(path: Path) -> list[Pair]:
    """A TSV file with a header: sentence1, sentence2 and, if there is one, score. Raises `ModelError` with the line."""
    rows = ((number, line.rstrip("\r\n").split("\t")) for number, line in enumerate(lines(path), 1) if line.strip())
    header = next(rows, (1, []))[1]
    if missing := [name for name in ("sentence1", "sentence2") if name not in header]:
        raise ModelError(f"{path}:1: no column {missing[0]!r}: pairs have sentence1, sentence2 and perhaps score")
    places = [header.index(name) for name in ("sentence1", "sentence2")]
    score = header.index("score") if "score" in header else None
    pairs = []
    for number, row in rows:
        if len(row) < len(header):
            raise ModelError(f"{path}:{number}: {len(row)} columns, not {len(header)}: the row is cut short")
        value = None if score is None else _score(row[score], path, number)
        pairs.append(Pair(row[places[0]], row[places[1]], value))
    if not pairs:
        raise ModelError(f"{path} has no rows")
    return pairs


def _score(text: str, path: Path, number: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= HIGHEST:
        raise ModelError(f"{path}:{number}: score {text!r}: it must be a number from 0 to {HIGHEST:g}")
    return value


class PairBatches:
    """Two sentences side by side: the batches of `RowBatches` for each, and what the losses compare them with.

    vectors: the teacher's of all first and all second sentences, (pairs, D) each, or nothing.
    """

    def __init__(self, sides: Sequence[RowBatches], vectors: Sequence[np.ndarray]):
        self.sides, self.vectors, self.rows = sides, vectors, sides[0].rows
        self.identity = {"first": sides[0].identity, "second": sides[1].identity, "teacher": bool(vectors)}

    def batch(self, number: int, rank: int, world: int, size: int) -> dict[str, Tensor]:
        """`RowBatches.batch` of each side, its names ending in _1 and _2, score_1 (B,), and teacher_1 and _2 (B, D)."""
        start = (number * world + rank) * size
        places = [divmod(i, len(self.rows)) for i in range(start, start + size)]
        chosen = [int(self.sides[0].order(epoch)[i]) for epoch, i in places]
        batch: dict[str, Tensor] = {}
        for i, side in enumerate(self.sides, 1):
            batch |= {f"{name}_{i}": value for name, value in side.collate([side.rows[c] for c in chosen]).items()}
            if self.vectors:
                batch[f"teacher_{i}"] = torch.from_numpy(self.vectors[i - 1][chosen])
        batch["attention_mask"] = batch["attention_mask_1"]  # what the trainer counts tokens by
        return batch


class EmbeddingLoss(nn.Module):
    """Up to three terms of vectors u and v of a batch's pairs, each with its factor:

    contrastive: the mean of −log softmax(cos(uᵢ, v) / τ)ᵢ and the same from v to u, over the pairs whose score is at
    least `positive`: the others' partners are what each must be told from. cosine: (cos(u, v) − score / 5)².
    distilled: Σ (x − xᵗʳ)² of normalised vectors where the teacher's have as many channels; else the mean squared
    difference of all cosines between the batch's vectors and the teacher's.
    """

    def __init__(self, model: Model, contrastive: float, cosine: float, distilled: float, temperature: float,
                 positive: float):  # fmt: skip
        super().__init__()
        self.model, self.temperature, self.positive = model, temperature, positive
        self.factors = {"contrastive": contrastive, "cosine": cosine, "distilled": distilled}

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        u, v = (F.normalize(vectors(self.model, batch, f"_{i}"), dim=-1) for i in (1, 2))
        terms: dict[str, Tensor] = {}
        if self.factors["contrastive"]:
            terms["contrastive"] = self.contrastive(u, v, batch.get("score_1"))
        if self.factors["cosine"]:
            terms["cosine"] = ((u * v).sum(-1) - batch["score_1"].float() / HIGHEST).square().mean()
        if self.factors["distilled"]:
            ours = torch.cat([u, v])
            theirs = F.normalize(torch.cat([batch["teacher_1"], batch["teacher_2"]]).float(), dim=-1)
            if ours.shape == theirs.shape:
                terms["distilled"] = (ours - theirs).square().sum(-1).mean()
            else:
                terms["distilled"] = (ours @ ours.T - theirs @ theirs.T).square().mean()
        return {"loss": torch.stack([self.factors[name] * term for name, term in terms.items()]).sum(), **terms}

    def contrastive(self, u: Tensor, v: Tensor, score: Tensor | None) -> Tensor:
        scores = u @ v.T / self.temperature  # (B, B)
        chosen = torch.ones_like(scores[0]) if score is None else (score >= self.positive).to(scores.dtype)
        own = torch.arange(len(u), device=u.device)
        losses = F.cross_entropy(scores, own, reduction="none") + F.cross_entropy(scores.T, own, reduction="none")
        return (losses * chosen).sum() / (2 * chosen.sum().clamp(min=1))


def vectors(model: Model, batch: dict[str, Tensor], side: str = "") -> Tensor:
    """The model's sentence_embedding (B, D), in float32."""
    inputs = {name: batch[name + side] for name in ("input_ids", "attention_mask", "token_type_ids")}
    return forward(model, inputs)["sentence_embedding"].float()


def embed(model: Model, batches: Sequence[dict[str, Tensor]]) -> np.ndarray:
    """(rows, D), normalised, in evaluation mode."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    with torch.inference_mode():
        parts = [vectors(model, {k: t.to(device) for k, t in b.items() if t.ndim == 2}).cpu() for b in batches]
    model.train(training)
    return F.normalize(torch.cat(parts), dim=-1).numpy()


def sentence_part(pooling: str, hidden_size: int, dimensions: int, seed: int) -> SentenceEmbedding:
    """Pooling, a Dense to `dimensions` channels (0: none) and a norm of 1."""
    rest: list[nn.Module] = [Normalize()]
    if dimensions:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.empty(dimensions, hidden_size)
        nn.init.normal_(weight, std=hidden_size**-0.5, generator=generator)
        rest.insert(0, Dense(weight, torch.zeros(dimensions), "Identity"))
    return SentenceEmbedding(Pooling((pooling,)), rest)


def save_sentence_part(folder: Path, sentence: SentenceEmbedding, hidden_size: int, length: int) -> None:
    """Beside the encoder in `folder`, as sentence-transformers has it; modules.json, which makes it count, at last."""
    from safetensors.torch import save

    kinds = ["Transformer", "Pooling", *(type(part).__name__ for part in sentence.rest)]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    files: dict[str, Any] = {
        "sentence_bert_config.json": {"max_seq_length": length, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine"},
    }
    (mode,) = sentence.pooling.modes
    flags = {f"pooling_mode_{flag}": name == mode for name, flag in POOLING_FLAGS.items()}
    files["1_Pooling/config.json"] = {"word_embedding_dimension": hidden_size, **flags}
    for module, part in zip(modules[2:], sentence.rest, strict=True):
        if isinstance(part, Dense):
            outputs, inputs = part.weight.shape
            activation = "torch.nn.modules.linear.Identity"
            sizes = {"in_features": inputs, "out_features": outputs, "bias": True, "activation_function": activation}
            files[f"{module['path']}/config.json"] = sizes
            tensors = {f"linear.{name}": value.detach().contiguous() for name, value in part.named_parameters()}
            write_whole(folder / str(module["path"]) / "model.safetensors", save(tensors), ModelError)
    for name, content in (files | {"modules.json": modules}).items():
        write_whole(folder / name, json.dumps(content, indent=2) + "\n", ModelError)


POOLING_FLAGS = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens"}
