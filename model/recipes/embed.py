"""`embed`: a small model of sentence embeddings, from pairs, from a teacher's vectors, or both."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pocketbert.files import digest, write_whole
from pocketbert.reading import read_json

from ..errors import ModelError
from ..settings import FREE, TrainSettings
from .sources import ModelSource
from .task import TaskData, task_tokenizer, with_vocabulary

if TYPE_CHECKING:
    import numpy as np

    from ..finetune.embedding import Pair
    from ..finetune.features import RowBatches
    from ..heads import Model
    from ..processes import Processes


@dataclass(frozen=True)
class Objective:
    """Factors of the losses, see `model.finetune.embedding.EmbeddingLoss`; at least one is above 0."""

    contrastive: float = 0.0  # of pairs that mean the same against all others of the batch
    cosine: float = 1.0  # of the pairs' cosine against their score, for files with scores
    distilled: float = 0.0  # of the vectors against the teacher's
    temperature: float = 0.05  # of the contrastive term
    positive: float = 4.0  # the least score, of 5, of a pair that means the same

    def __post_init__(self) -> None:
        factors = (self.contrastive, self.cosine, self.distilled)
        if min(factors) < 0 or not any(factors) or not self.temperature > 0:
            raise ModelError("objective: one of contrastive, cosine and distilled must be above 0, and temperature too")


@dataclass(frozen=True)
class EmbedConfig:
    """configs/embed-*.toml. `data.train` and `data.dev` are pairs: TSV with sentence1, sentence2 and perhaps score."""

    output: str
    model: ModelSource
    data: TaskData
    teacher: str = ""  # a sentence-transformers folder, of any vocabulary
    pooling: Literal["mean", "cls", "max"] = "mean"
    dimensions: int = 0  # of the vectors, by a linear behind the pooling; 0: the model's hidden_size
    epochs: float = 4
    objective: Objective = field(default_factory=Objective)
    train: TrainSettings = field(default_factory=lambda: TrainSettings(optimizer="adamw", learning_rate=5e-5))


def embed(config: EmbedConfig) -> str:
    """Train, write the folder that sentence-transformers and `python -m compile` take, and metrics.json."""
    from ..processes import join, leave

    config = replace(config, data=with_vocabulary(config.data, config.model))
    processes = join(config.train.device)
    try:
        metrics = train(config, processes)
    finally:
        leave()
    return f"{Path(config.output) / 'model'}: {json.dumps(metrics)}"


def train(config: EmbedConfig, processes: Processes) -> dict[str, Any]:
    from ..data import read_vocabulary
    from ..distill.strategies import pretraining
    from ..finetune.embedding import EmbeddingLoss, PairBatches, read_pairs, save_sentence_part, sentence_part
    from ..resume import newest
    from ..trainer import Trainer
    from .corpus import keep_vocabulary
    from .finetune import claim

    output, data, settings, objective = Path(config.output), config.data, config.train, config.objective
    if objective.distilled and not config.teacher:
        raise ModelError("objective.distilled needs a teacher: name a sentence-transformers folder")
    for name in ("train", "dev"):
        if not getattr(data, name):
            raise ModelError(f"data.{name} is missing: name a TSV of pairs")
    pairs, dev = read_pairs(Path(data.train)), read_pairs(Path(data.dev))
    for name, some in (("train", pairs), ("dev", dev)):
        if some[0].score is None and (name == "dev" or objective.cosine):
            raise ModelError(f"data.{name} has no column 'score': {_why(name)}")
    model = config.model.load("none", settings.seed)
    hidden = model.config.hidden_size
    model.end_in(sentence_part(config.pooling, hidden, config.dimensions, settings.seed))
    tokenizer = task_tokenizer(data, model)
    if processes.first:
        claim(output, made_from(config))
    processes.wait()
    if (output / "metrics.json").exists():
        return read_json(output / "metrics.json", ModelError)
    sides = rows_of(pairs, tokenizer, data.sequence_length, settings.seed)
    theirs = teacher_vectors(Path(config.teacher), pairs, settings.batch_size) if objective.distilled else []
    batches = PairBatches(sides, theirs)
    steps = round(config.epochs * len(pairs) / (settings.batch_size * settings.accumulate * processes.world))
    stages = (replace(pretraining(model.config.num_hidden_layers, max(1, steps))[0], name="embedding"),)
    factors = (objective.contrastive, objective.cosine, objective.distilled, objective.temperature, objective.positive)
    task = lambda model, stage: EmbeddingLoss(model, *factors)  # noqa: E731
    folder = Trainer(model, task, stages, batches, output, settings, processes).fit()
    if processes.first:
        state = newest(output)
        assert state is not None
        model.load_state_dict(state["model"])
        keep_vocabulary(folder, Path(data.vocabulary), data.sequence_length)
        assert model.sentence is not None
        save_sentence_part(folder, model.sentence, hidden, data.sequence_length)
        metrics = {"dev": scores(model, dev, read_vocabulary(Path(data.vocabulary)), data, settings.batch_size)}
        write_whole(output / "metrics.json", json.dumps(metrics, indent=2) + "\n", ModelError)
    processes.wait()
    return read_json(output / "metrics.json", ModelError)


def _why(name: str) -> str:
    return "correlations are with it" if name == "dev" else "set objective.cosine=0, and contrastive or distilled"


def rows_of(pairs: list[Pair], tokenizer: Any, length: int, seed: int = 0) -> list[RowBatches]:
    """The first sentences and the second ones."""
    from ..finetune.features import RowBatches, encode_examples
    from ..finetune.glue import Example

    sides = []
    for name in ("first", "second"):
        examples = [Example(getattr(pair, name), None, None, "") for pair in pairs]
        rows = encode_examples(tokenizer, examples, length)
        if pairs[0].score is not None:
            scored = zip(rows, pairs, strict=True)
            rows = [replace(row, targets={"score": float(pair.score or 0.0)}) for row, pair in scored]
        sides.append(RowBatches(rows, tokenizer, length, seed))
    return sides


def scores(model: Model, pairs: list[Pair], tokenizer: Any, data: TaskData, size: int) -> dict[str, float]:
    """Pearson's and Spearman's correlation of the vectors' cosines with the scores."""
    from ..finetune.embedding import embed
    from ..finetune.metrics import compute

    u, v = (embed(model, side.in_order(size)) for side in rows_of(pairs, tokenizer, data.sequence_length))
    return compute(("pearson", "spearman"), [pair.score or 0.0 for pair in pairs], (u * v).sum(1).tolist())


def teacher_vectors(folder: Path, pairs: list[Pair], size: int) -> list[np.ndarray]:
    """The teacher's vectors of all first and all second sentences, by its own tokenizer."""
    from ..build import load
    from ..finetune.embedding import embed

    model = load(folder)
    if model.sentence is None:
        raise ModelError(f"teacher {folder} has no modules.json with Pooling: name a sentence-transformers folder")
    length = min(model.config.longest, 256)
    return [embed(model, side.in_order(size)) for side in rows_of(pairs, _tokenizer_of(folder), length)]


def _tokenizer_of(folder: Path) -> Any:
    """Its tokenizer.json without what it adds, cuts and pads, else its vocab.txt."""
    from ..data import read_vocabulary
    from ..data.vocabulary import read_tokenizer

    if not (folder / "tokenizer.json").exists():
        return read_vocabulary(folder / "vocab.txt")
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    if tokenizer.token_to_id("[CLS]") is None or tokenizer.token_to_id("[SEP]") is None:
        raise ModelError(f"{folder / 'tokenizer.json'} has no [CLS] and [SEP]: the teacher must be of BERT's kind")
    return tokenizer


def made_from(config: EmbedConfig) -> dict[str, Any]:
    """All that decides the results; files and folders by their content."""
    settings = {f"train.{name}": value for name, value in asdict(config.train).items() if name not in FREE}
    settings |= {f"objective.{name}": value for name, value in asdict(config.objective).items()}
    settings |= {name: getattr(config, name) for name in ("pooling", "dimensions", "epochs")}
    settings |= {"model.preset": config.model.preset, "model.fields": config.model.fields, "task": "embed"}
    settings["data.sequence_length"] = config.data.sequence_length
    for name in ("vocabulary", "train", "dev"):
        settings[f"data.{name}"] = digest(getattr(config.data, name), ModelError)
    for name, folder in (("teacher", config.teacher), ("model.folder", config.model.folder)):
        files = [p for p in Path(folder).iterdir() if p.suffix in (".json", ".safetensors", ".bin")] if folder else []
        settings[name] = {file.name: digest(file, ModelError) for file in sorted(files)}
    return json.loads(json.dumps(settings))
