"""`attention-maps`: what the heads of teacher and students attend to, side by side (Figure 3 of the ACL paper)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..files import written_whole
from .config import ModelSource

if TYPE_CHECKING:
    import numpy as np

    from ..heads import Model


@dataclass(frozen=True)
class AttentionMapsConfig:
    """configs/attention-maps.toml"""

    output: str  # the .png file
    vocabulary: str
    models: dict[str, str]  # title to checkpoint folder, the teacher first
    text: str = "The cat sat on the mat because it was warm."
    second: str = ""  # a second sentence
    layers: tuple[int, ...] = ()  # from 1; none: the first and the middle one


def attention_maps(config: AttentionMapsConfig) -> Path:
    """Draw a row of heads for each layer and model, and return the file."""
    from ..data import read_vocabulary

    if not config.models:
        raise ModelError("models names no checkpoint folder")
    tokenizer = read_vocabulary(Path(config.vocabulary))
    first = tokenizer.encode(config.text, add_special_tokens=False).tokens
    second = tokenizer.encode(config.second, add_special_tokens=False).tokens if config.second else []
    tokens = ["[CLS]", *first, "[SEP]", *second, *(["[SEP]"] if second else [])]
    ids = [int(tokenizer.token_to_id(token) or 0) for token in tokens]
    types = [0] * (len(first) + 2) + [1] * (len(tokens) - len(first) - 2)
    rows = []
    for title, folder in config.models.items():
        model = ModelSource(folder=folder).load("none")
        depth = model.config.num_hidden_layers
        layers = config.layers or (1, max(1, depth // 2))
        if outside := [layer for layer in layers if not 1 <= layer <= depth]:
            raise ModelError(f"{title} has no layer {outside[0]}: it has {depth}, counted from 1")
        rows += [
            (f"{title}, layer {layer}", maps)
            for layer, maps in zip(layers, _maps(model, ids, types, layers), strict=True)
        ]
    draw(rows, tokens, Path(config.output))
    return Path(config.output)


def _maps(model: Model, ids: list[int], types: list[int], layers: tuple[int, ...]) -> list[np.ndarray]:
    """The attention of each layer in `layers` (from 1), (heads, T, T)."""
    import torch

    from ..distill.tasks import inputs

    if max(ids) >= model.config.vocab_size:
        raise ModelError(f"the vocabulary has pieces beyond the model's {model.config.vocab_size}: not its own")
    batch = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with torch.inference_mode():
        scores = model.encoder.states(*inputs(model, batch)).attention_scores
    return [scores[layer - 1][0].softmax(-1).numpy() for layer in layers]


def draw(rows: list[tuple[str, np.ndarray]], tokens: list[str], path: Path) -> None:
    """One row of images for each title and its heads (heads, T, T); queries go down, keys to the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    heads = max(len(maps) for _, maps in rows)
    figure, grid = pyplot.subplots(len(rows), heads, figsize=(2.2 * heads + 1, 2.4 * len(rows)), squeeze=False)
    for (title, maps), axes in zip(rows, grid, strict=True):
        for head, axis in enumerate(axes):
            axis.set_xticks([])
            axis.set_yticks([])
            if head >= len(maps):
                axis.axis("off")
                continue
            axis.imshow(maps[head], vmin=0, vmax=1, cmap="Blues")
            axis.set_title(f"head {head + 1}", fontsize=7)
        _label(axes[0], title, tokens)
    figure.tight_layout()
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=120)
    pyplot.close(figure)


def _label(axis: Any, title: str, tokens: list[str]) -> None:
    axis.set_ylabel(title, fontsize=7)
    if len(tokens) <= 40:
        axis.set_yticks(range(len(tokens)), tokens, fontsize=4)
