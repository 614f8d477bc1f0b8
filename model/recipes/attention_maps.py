"""`attention-maps`: what the heads of teacher and students attend to, side by side (Figure 3 of the ACL paper)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pocketbert.files import written_whole

from ..errors import ModelError
from .sources import ModelSource

if TYPE_CHECKING:
    import numpy as np

    from ..heads import Model


LABELLED = 24  # more tokens than this cannot be read beside so small an image


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
    """Draw a row of heads for each model, and return the file."""
    from ..data import read_vocabulary
    from ..data.vocabulary import special_names

    if not config.models:
        raise ModelError("models names no checkpoint folder")
    tokenizer = read_vocabulary(Path(config.vocabulary))
    first = tokenizer.encode(config.text, add_special_tokens=False).tokens
    second = tokenizer.encode(config.second, add_special_tokens=False).tokens if config.second else []
    names = special_names(tokenizer)
    cls, sep = names["[CLS]"], names["[SEP]"]
    tokens = [cls, *first, sep, *second, *([sep] if second else [])]
    ids = [int(tokenizer.token_to_id(token) or 0) for token in tokens]
    types = [0] * (len(first) + 2) + [1] * (len(tokens) - len(first) - 2)
    rows = {}
    for title, folder in config.models.items():
        model = ModelSource(folder=folder).load("none")
        depth = model.config.num_hidden_layers
        layers = config.layers or (1, max(1, depth // 2))
        if outside := [layer for layer in layers if not 1 <= layer <= depth]:
            raise ModelError(f"{title} has no layer {outside[0]}: it has {depth}, counted from 1")
        rows[title] = dict(zip(layers, _maps(model, ids, types, layers), strict=True))
    draw(rows, tokens, Path(config.output))
    return Path(config.output)


def _maps(model: Model, ids: list[int], types: list[int], layers: tuple[int, ...]) -> list[np.ndarray]:
    """The attention of each layer in `layers` (from 1), (heads, T, T)."""
    import torch

    from ..distill.objectives import inputs

    if max(ids) >= model.config.vocab_size:
        raise ModelError(f"the vocabulary has pieces beyond the model's {model.config.vocab_size}: not its own")
    batch = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([types])}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    with torch.inference_mode():
        scores = model.encoder.states(*inputs(model, batch)).attention_scores
    return [scores[layer - 1][0].softmax(-1).numpy() for layer in layers]


def draw(rows: dict[str, dict[int, np.ndarray]], tokens: list[str], path: Path) -> None:
    """A row of images for each title: its layers' heads, (heads, T, T) each; queries go down, keys to the right.

    One scale of colour for all, so that what is dark in one is so in the others; labels where there is room for them.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = {
        title: [(f"L{layer} H{head}", image) for layer, maps in layers.items() for head, image in enumerate(maps, 1)]
        for title, layers in rows.items()
    }
    most = max(image.max() for images in cells.values() for _, image in images)
    columns = max(map(len, cells.values()))
    figure, grid = pyplot.subplots(
        len(rows), columns, figsize=(1.9 * columns + 1.6, 2.1 * len(rows) + 0.8), squeeze=False, layout="compressed"
    )
    for row, ((title, images), axes) in enumerate(zip(cells.items(), grid, strict=True), 1):
        for axis in axes[len(images) :]:
            axis.axis("off")
        for axis, (name, image) in zip(axes, images, strict=False):
            shown = axis.imshow(image, vmin=0, vmax=most, cmap="Blues")
            axis.set_title(name, fontsize=9)
            axis.set(xticks=[], yticks=[])
            if len(tokens) <= LABELLED and row == len(rows):
                axis.set_xticks(range(len(tokens)), tokens, fontsize=6, rotation=90)
        axes[0].set_ylabel(title, fontsize=10)
        if len(tokens) <= LABELLED:
            axes[0].set_yticks(range(len(tokens)), tokens, fontsize=6)
    figure.colorbar(shown, ax=grid, shrink=0.6, label="attention of a query (row) to a key (column)")
    with written_whole(path, ModelError) as file:
        figure.savefig(file, format="png", dpi=150, bbox_inches="tight")
    pyplot.close(figure)
