"""What stands behind an encoder in a sentence-transformers folder: modes of pooling by their formulas, and modules."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model import ModelError
from model.finetune.embedding import save_sentence_part, sentence_part
from model.sentence import MODES, Pooling, read_sentence_modules


def folder_of(path: Path, *modules: tuple[str, dict[str, Any] | None, dict[str, torch.Tensor]]) -> Path:
    """A folder of modules by their types, each with its config and its weights."""
    listed = [{"type": f"sentence_transformers.models.{kind}", "path": f"{i}_{kind}"} for i, (kind, *_) in
              enumerate(modules)]  # fmt: skip
    path.mkdir(exist_ok=True)
    (path / "modules.json").write_text(json.dumps(listed))
    for entry, (_, config, weights) in zip(listed, modules, strict=True):
        (path / entry["path"]).mkdir()
        if config is not None:
            (path / entry["path"] / "config.json").write_text(json.dumps(config))
        if weights:
            save_file(weights, path / entry["path"] / "model.safetensors")
    return path


ENCODER = ("Transformer", None, {})
MEAN = ("Pooling", {"pooling_mode": "mean"}, {})


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_reads_the_tokens_that_the_mask_has(mode: str) -> None:
    rng = np.random.default_rng(0)
    hidden, lengths = rng.standard_normal((3, 5, 4)).astype(np.float32), [5, 3, 1]
    mask = torch.tensor([[int(t < n) for t in range(5)] for n in lengths])
    got = Pooling((mode,))(torch.from_numpy(hidden), mask).numpy()
    for row, h, n in zip(got, hidden, lengths, strict=True):
        weights = np.arange(1, n + 1)[:, None]
        wanted = {
            "cls": h[0], "max": h[:n].max(0), "mean": h[:n].mean(0),
            "mean_sqrt_len_tokens": h[:n].sum(0) / np.sqrt(n),
            "weightedmean": (weights * h[:n]).sum(0) / weights.sum(), "lasttoken": h[n - 1],
        }[mode]  # fmt: skip
        np.testing.assert_allclose(row, wanted, rtol=1e-5, atol=1e-6)


def test_modules_follow_one_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dense = {"linear.weight": torch.randn(3, 8), "linear.bias": torch.randn(3)}
    norm = {"norm.weight": torch.rand(3) + 0.5, "norm.bias": torch.randn(3)}
    folder = folder_of(
        tmp_path / "m", ENCODER, ("Pooling", {"pooling_mode": ["mean", "cls"]}, {}), ("Dropout", None, {}),
        ("Dense", {"activation_function": "torch.nn.modules.activation.ReLU"}, dense), ("LayerNorm", {}, norm),
        ("Normalize", None, {}),
    )  # fmt: skip
    encoder, modules = read_sentence_modules(folder)
    assert encoder == folder / "0_Transformer"
    assert modules is not None
    hidden, mask = torch.randn(2, 5, 4), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    pooled = torch.cat([hidden[:, 0], torch.stack([hidden[0, :3].mean(0), hidden[1].mean(0)])], 1)
    y = torch.relu(pooled @ dense["linear.weight"].T + dense["linear.bias"])
    y = torch.nn.functional.layer_norm(y, (3,), norm["norm.weight"], norm["norm.bias"])
    torch.testing.assert_close(modules(hidden, mask), y / y.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (("Dense", {}, {"linear.bias": torch.ones(3)}), "linear.weight is missing, or no weight of a Dense"),
        (("Dense", {}, {"linear.weight": torch.ones(3)}), "no weight of a Dense"),
        (("LayerNorm", {}, {"norm.weight": torch.ones(3, 3)}), "no weight of a LayerNorm"),
        (("Dense", {"activation_function": "a.Mish"}, {"linear.weight": torch.ones(3, 8)}), "Mish is not known: Tanh"),
        (("CNN", {}, {}), "CNN is not known"),
    ],
)
def test_a_module_that_cannot_be_is_named(module: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=said):
        read_sentence_modules(folder_of(tmp_path / "m", ENCODER, MEAN, module))


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ((), "its first module is missing"),
        ((MEAN,), "its first module is Pooling"),
        ((ENCODER, ("Dense", {}, {})), "Dense follows the Transformer"),
        ((ENCODER, ("Pooling", {"pooling_mode": "median"}, {})), "'median' is not known"),
        ((ENCODER, ("Pooling", {"pooling_mode": 5}, {})), "pooling_mode 5 is not known"),
        ((ENCODER, ("Pooling", {"pooling_mode": ["cls", {}]}, {})), "pooling_mode {} is not known"),
        ((ENCODER, ("Pooling", {"pooling_mode_mean_tokens": False}, {})), "no mode of pooling is on"),
    ],
)
def test_a_folder_without_encoder_or_pooling(modules: Any, said: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", *modules)
    with pytest.raises(ModelError, match=said):
        read_sentence_modules(folder)
    if modules and modules[0] == ENCODER:  # another head needs none of it
        assert read_sentence_modules(folder, "mlm") == (folder / "0_Transformer", None)


@pytest.mark.parametrize("dimensions", [0, 3])
@pytest.mark.parametrize("mode", ["cls", "max", "mean"])
def test_what_is_saved_reads_back(mode: str, dimensions: int, tmp_path: Path) -> None:
    made = sentence_part(mode, 4, dimensions, seed=1)
    save_sentence_part(tmp_path, made, 4, 32)
    encoder, read = read_sentence_modules(tmp_path)
    assert encoder == tmp_path
    assert read is not None
    assert read.pooling.modes == (mode,)
    hidden, mask = torch.randn(2, 5, 4), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert torch.equal(read(hidden, mask), made(hidden, mask))
    assert read(hidden, mask).shape == (2, dimensions or 4)
    config = json.loads((tmp_path / "1_Pooling/config.json").read_text())
    assert config["word_embedding_dimension"] == 4
    assert json.loads((tmp_path / "sentence_bert_config.json").read_text())["max_seq_length"] == 32


def test_a_folder_without_modules_is_the_encoder_itself(tmp_path: Path) -> None:
    assert read_sentence_modules(tmp_path) == (tmp_path, None)
    alone = folder_of(tmp_path / "m", ENCODER)
    assert read_sentence_modules(alone) == (alone / "0_Transformer", None)
