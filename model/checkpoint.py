"""Checkpoints in the Hugging Face layout: a folder with config.json and model.safetensors or pytorch_model.bin."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pocketbert.errors import first_line
from pocketbert.files import files_written_whole
from pocketbert.reading import read_json, read_typed_json
from pocketbert.typed import Misfit

from .config import HEADS, Head, ModelConfig
from .custom_code import FILE, custom_code
from .errors import ModelError, NotOurs
from .heads import Model, empty_model
from .hugging_face import config_from_json, config_to_json, head_of_tensors, tensor_name
from .initialize import init_parameter

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def load_checkpoint(
    folder: str | Path, head: Head | None = None, seed: int = 0, random_head: bool | None = None
) -> Model:
    """The MobileBERT, BERT or DistilBERT in `folder`, float32 and in evaluation mode.

    `head` is the checkpoint's own unless given. One that the checkpoint has no weights for gets random ones from
    `seed`, with a warning, ready for fine-tuning; with `random_head` also the checkpoint's own may, and where that is
    False none may. Raises `ModelError` that names the file or tensor that is wrong, `NotOurs` for a model that the core
    does not have.
    """
    folder = Path(folder)
    family, config, own_head = read_config(folder)
    tensors = read_weights(folder)
    if head is None and family != "pocketbert" and not _read_object(folder).get("architectures"):
        own_head = head_of_tensors(family, tensors)
    if head is None and own_head is None:
        raise NotOurs(f"{folder}: its head is none of ours: choose one of {', '.join(HEADS)}")
    chosen = head or cast(Head, own_head)
    config = _without_missing_parts(config, family, chosen, tensors)
    _check_decoder(config, chosen, tensors, folder)

    if config.num_hidden_layers > len(tensors):
        raise ModelError(f"{folder}: {len(tensors)} tensors for the {config.num_hidden_layers} layers of config.json")
    model = empty_model(config, chosen)
    base = f"{family}." if any(name.startswith(f"{family}.") for name in tensors) else ""
    state, fresh, used = {}, [], set()
    generator = torch.Generator().manual_seed(seed)
    for ours, parameter in model.named_parameters():
        theirs = tensor_name(config, family, ours, base)
        if theirs == "cls.predictions.bias" and theirs not in tensors:
            theirs = "cls.predictions.decoder.bias"  # the same tensor, and either may have been saved
        if theirs in tensors:
            state[ours] = _checked(tensors[theirs], parameter, theirs, folder)
            used.add(theirs)
        elif ours.startswith("head.") and random_head is False:
            raise ModelError(
                f"{folder} has no {chosen} head: {theirs} is missing; choose another --head, or --random-head to "
                "measure with random weights"
            )
        elif ours.startswith("head.") and (random_head or chosen != own_head):
            state[ours] = torch.empty(parameter.shape)
            init_parameter(ours, state[ours], generator)
            fresh.append(theirs)
        else:
            raise ModelError(f"{folder}: tensor {theirs} {tuple(parameter.shape)} is missing from the checkpoint")
    _check_unused(config, set(tensors) - used, base, folder)
    if fresh:
        warnings.warn(f"{folder} has no {chosen} head: {', '.join(fresh)} are random, fine-tune them", stacklevel=2)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_().eval()


def save_checkpoint(model: Model, folder: str | Path) -> Path:
    """Write config.json and model.safetensors, which `load_checkpoint` and `transformers` read, and return the folder.

    An architecture that `transformers` has no class for is saved under the model type "pocketbert", with code that
    `trust_remote_code=True` loads.
    """
    from safetensors.torch import save_file

    folder, config = Path(folder), model.config
    base = "" if model.head_name == "none" else f"{config.family}."
    tensors = {
        tensor_name(config, config.family, name, base): value.detach().contiguous()
        for name, value in model.state_dict().items()
    }
    with files_written_whole(folder, ModelError) as unfinished:
        save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(config_to_json(config, model.head_name), indent=2) + "\n"
        (unfinished / "config.json").write_text(text)
        if config.family == "pocketbert":
            (unfinished / FILE).write_text(custom_code())
    return folder


def read_config(folder: Path) -> tuple[str, ModelConfig, Head | None]:
    """The model type, which tells how tensors are named, the configuration and the head."""
    content = _read_object(folder)
    try:
        return content.get("model_type", ""), *config_from_json(content)
    except Misfit as error:
        raise ModelError(f"{folder / 'config.json'}: {error}") from error


def read_labels(folder: Path) -> tuple[str, ...]:
    """The names in config.json's id2label, in lower case and by number."""
    names = _read_object(folder).get("id2label")
    if not isinstance(names, dict):
        return ()
    return tuple(str(names[key]).lower() for key in sorted(names, key=lambda key: (len(str(key)), str(key))))


def _read_object(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise ModelError(f"{folder} has no config.json: give the folder of a Hugging Face checkpoint")
    content = read_json(path, ModelError)
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object")
    return content


@dataclass(frozen=True)
class _Index:
    """What an index of several files holds. weight_map: tensor to file."""

    weight_map: dict[str, str]
    metadata: Any = None


def read_weights(folder: Path) -> dict[str, Tensor]:
    whole = next(
        (f for name in WEIGHTS if (f := folder / name).exists() or (folder / f"{name}.index.json").exists()), None
    )
    if whole is None:
        raise ModelError(f"{folder} has neither {' nor '.join(WEIGHTS)}")
    files = [whole]
    if not whole.exists():
        index = folder / f"{whole.name}.index.json"
        names = sorted(set(read_typed_json(_Index, index, ModelError).weight_map.values()))
        if outside := [name for name in names if Path(name).name != name]:
            raise ModelError(f"{index} names {outside[0]}, which is not a file of its folder")
        files = [folder / name for name in names]
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read_file(file)
    # TensorFlow's names for a norm's γ and β, still found in old files
    return {k.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): v
            for k, v in tensors.items()}  # fmt: skip


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise whatever a broken file leads them to
        raise ModelError(f"{file} cannot be read, it may be cut short: {first_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{file} is not a state dict of tensors")
    return content


def _without_missing_parts(config: ModelConfig, family: str, head: Head, tensors: dict[str, Tensor]) -> ModelConfig:
    """The same without the parts that checkpoints of some heads leave out: the pooler, next sentence prediction."""
    if (
        head == "none"
        and family != "pocketbert"
        and config.pooler == "tanh"
        and not any(n.endswith("pooler.dense.weight") for n in tensors)
    ):
        config = replace(config, pooler=None)
    if head == "mlm" and family != "pocketbert" and "cls.seq_relationship.weight" not in tensors:
        config = replace(config, next_sentence=False)
    return config


def _check_decoder(config: ModelConfig, head: Head, tensors: dict[str, Tensor], folder: Path) -> None:
    """The mlm head's decoder is the embedding table; a checkpoint may hold it twice, but not differently."""
    for name in ("cls.predictions.decoder.weight", "vocab_projector.weight"):
        if head == "mlm" and name in tensors:
            table = next((v for k, v in tensors.items() if k.endswith("embeddings.word_embeddings.weight")), None)
            if table is None or not torch.equal(table, tensors[name]):
                raise NotOurs(f"{folder}: tensor {name} differs from the embedding table: untied is not supported")


def _checked(tensor: Tensor, parameter: Tensor, name: str, folder: Path) -> Tensor:
    if tensor.dtype not in FLOATS or tensor.layout is not torch.strided:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
        raise ModelError(f"{folder}: tensor {name} is {_kind(tensor)}: weights are dense {kinds}")
    if tensor.shape != parameter.shape:
        raise ModelError(
            f"{folder}: tensor {name} has shape {tuple(tensor.shape)}, config.json asks for {tuple(parameter.shape)}"
        )
    return tensor.float().contiguous()


def _kind(tensor: Tensor) -> str:
    layout = "" if tensor.layout is torch.strided else f", {tensor.layout}"
    return str(tensor.dtype).removeprefix("torch.") + layout


def _check_unused(config: ModelConfig, unused: set[str], base: str, folder: Path) -> None:
    """Refuse encoder tensors that no parameter took, except those that `transformers` makes and never reads."""
    never_read = ["position_ids", "embedding_transformation"]
    if config.attention_input == "bottleneck":
        never_read.append("bottleneck.attention")
    for name in sorted(unused):
        if name.startswith((f"{base}embeddings.", f"{base}encoder.", f"{base}transformer.")) and not any(
            part in name for part in never_read
        ):
            raise ModelError(f"{folder}: tensor {name} has no place in the model that config.json describes")
