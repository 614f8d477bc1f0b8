"""Any model of `transformers`, loaded and exported by itself: what our own core lacks, and the referee of what it has.

No code from a folder runs (`trust_remote_code` stays off), nothing is fetched, safetensors are preferred and a .bin is
read as tensors alone. Only float32, on the CPU.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pocketbert.errors import first_line
from pocketbert.silence import silent

from .config import Head
from .errors import ModelError
from .heads import Model
from .sentence import SentenceEmbedding, read_sentence_modules

AUTO: dict[Head, str] = {
    "none": "AutoModel",
    "mlm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}
INSTALL = "pip install 'pocketbert[hf]'"
OPSET = 20


def transformers_installed() -> bool:
    return find_spec("transformers") is not None


class ForeignModel(nn.Module):
    """A model of `transformers` as `model(*inputs) -> outputs`, named by `input_names` and `output_names`.

    Of multiple choice it scores one choice, (1, T) -> (1, 1): what the others are makes no difference to that.
    head_name: what it ends in, by our names or its architecture's. longest: the most tokens that it takes, if it says.
    """

    def __init__(self, module: Any, head_name: str, sentence: SentenceEmbedding | None, without: tuple[str, ...] = ()):
        super().__init__()
        self.module, self.head_name, self.sentence = module, head_name, sentence
        takes = inspect.signature(module.forward).parameters
        types = "token_type_ids" in takes and (getattr(module.config, "type_vocab_size", 0) or 0) > 1
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
        if missing := [name for name in names[:2] if name not in takes]:
            raise ModelError(f"{type(module).__name__} takes no {missing[0]}: only encoders of text compile")
        self.input_names = names
        self.longest = _longest(module)
        self.choices = head_name == "MultipleChoice"
        answer = self._answer(*self.example(8))
        self.output_names = [name for name in answer if name not in without]
        if not self.output_names:
            raise ModelError(f"{type(module).__name__} has no output that is a tensor of floats")

    def example(self, tokens: int) -> list[Tensor]:
        """Inputs of one text: ids that every table has, no padding."""
        return [torch.full((1, tokens), int(name != "token_type_ids"), dtype=torch.int64) for name in self.input_names]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        answer = self._answer(*inputs)
        return tuple(answer[name] for name in self.output_names)

    def _answer(self, *inputs: Tensor) -> dict[str, Tensor]:
        given = dict(zip(self.input_names, inputs, strict=True))
        shaped = {name: value.unsqueeze(1) for name, value in given.items()} if self.choices else given
        outputs = self.module(**shaped, return_dict=True)
        if self.sentence is not None:
            return {"sentence_embedding": self.sentence(outputs[0], given["attention_mask"])}
        tensors = {name: value for name, value in outputs.items() if isinstance(value, Tensor)}
        return {name: value for name, value in tensors.items() if value.is_floating_point()}

    @torch.no_grad()
    def answers(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The outputs for each of `samples`, as arrays by name."""
        results = []
        for sample in samples:
            values = self(*(torch.from_numpy(sample[name]).long() for name in self.input_names))
            results.append({name: v.numpy() for name, v in zip(self.output_names, values, strict=True)})
        return results


def _longest(module: Any) -> int | None:
    """The tokens that its position table has rows for; RoBERTa's kin begin behind the row of padding."""
    positions = getattr(module.config, "max_position_embeddings", None)
    embeddings = (m for m in module.modules() if type(m).__name__.endswith("Embeddings"))
    padding = next((m.padding_idx for m in embeddings if hasattr(m, "padding_idx")), None)
    return positions - (0 if padding is None else padding + 1) if isinstance(positions, int) else None


def load_foreign(
    folder: str | Path,
    head: Head | None = None,
    random_head: bool | None = None,
    pooled: bool = True,
    like: Model | None = None,
    eager: bool = False,
) -> ForeignModel:
    """The model in `folder` as `transformers` loads it, with the modules of sentence-transformers if it has those.

    head, random_head, pooled: as `load` takes them. like: our own model of the folder, whose outputs this one has.
    eager: attention as plain operators, whose maps can be asked for.
    Raises `ModelError`, one line, for whatever does not work.
    """
    folder = Path(folder)
    if not transformers_installed():
        raise ModelError(f"{folder}: transformers is not installed: {INSTALL}")
    import transformers

    encoder, sentence = read_sentence_modules(folder, head)
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(encoder, local_files_only=True, trust_remote_code=False)
            config.use_cache = False
            if eager:
                config._attn_implementation = "eager"
            encodes = (config.architectures or [""])[0].endswith("EncoderModel")  # sentence-t5's has no decoder
            kind = getattr(
                transformers, _class_of(config, head, folder, like) if encodes or not sentence else "AutoModel"
            )
            module, info = kind.from_pretrained(
                encoder, config=config, use_safetensors=any(encoder.glob("*.safetensors")), dtype=torch.float32,
                output_loading_info=True, local_files_only=True,
            )  # fmt: skip
            if config.is_encoder_decoder and type(module).__name__.endswith("Model") and module.get_encoder() != module:
                module = module.get_encoder()
    except ModelError:
        raise
    except Exception as error:  # transformers raises whatever a strange folder leads it to
        raise ModelError(f"{folder}: transformers cannot load it: {first_line(error)}") from error
    without = _check_weights(
        folder, module, info, head, bool(random_head), named=bool(config.architectures or sentence)
    )
    try:
        with _quiet(), torch.no_grad():
            return ForeignModel(
                module.eval(), head or _head_name(type(module).__name__), sentence if pooled else None, without
            )
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{folder}: {type(module).__name__} does not run: {first_line(error)}") from error


def original(
    folder: Path, head: Head | None, model: Model | ForeignModel
) -> tuple[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]]:
    """The version of `transformers`, and what it answers to samples. Raises `ModelError` where it cannot."""
    if not transformers_installed():
        raise ModelError("transformers is not installed")
    if not isinstance(model, ForeignModel):
        if model.config.family == "pocketbert":
            raise ModelError("transformers does not have this architecture")
        model = load_foreign(folder, head, pooled=model.sentence is not None, like=model)
    return f"transformers {version('transformers')}", model.answers


def _check_weights(
    folder: Path, module: Any, info: Mapping[str, Any], head: str | None, random_head: bool, named: bool
) -> tuple[str, ...]:
    """Raises `ModelError` where weights are missing; returns the outputs that the checkpoint has no weights for."""
    missing = sorted(info["missing_keys"])
    pooler = [name for name in missing if "pooler" in name]
    if missing and not random_head and pooler != missing:
        raise ModelError(
            f"{folder}: {type(module).__name__} needs {missing[0]}, which is missing; choose another --head, or "
            "--random-head to measure with random weights"
        )
    if head is None and not named and (heads := sorted(info["unexpected_keys"])):
        raise ModelError(f"{folder}: config.json names no architecture, and {heads[0]} may be of a head: choose --head")
    return ("pooler_output",) if pooler else ()


def _class_of(config: Any, head: Head | None, folder: Path, like: Model | None) -> str:
    import transformers

    if like and like.head_name != "none" and (head or not config.architectures):
        return "AutoModelForPreTraining" if "prediction_logits" in like.output_names else AUTO[like.head_name]
    if head:
        return AUTO[head]
    name: str = (config.architectures or ["AutoModel"])[0]
    if not hasattr(transformers, name):
        raise ModelError(f"{folder}: transformers {transformers.__version__} has no {name}: choose --head none")
    if config.is_encoder_decoder and name.endswith("Generation"):
        raise ModelError(f"{folder}: {name} writes text: only encoders compile; --head none takes its encoder")
    return name


HEAD_SUFFIXES = {
    "ForMaskedLM": "mlm",
    "ForPreTraining": "mlm",
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}


def _head_name(architecture: str) -> str:
    suffix = "For" + architecture.rpartition("For")[2]
    return HEAD_SUFFIXES.get(suffix, suffix.removeprefix("For") if "For" in architecture else "none")


def export_foreign(
    model: ForeignModel, path: Path, *, seq_len: int, why_not: Callable[[Path], str | None] = lambda path: None
) -> Path:
    """Write `model` as an ONNX file of one text of any length. Raises `ModelError` where neither exporter can.

    why_not: what is wrong with a file, for its reader; None for nothing. A tracer writes the choices of its example.
    """
    names, example = model.input_names, model.example(seq_len)
    if model.longest is not None and seq_len > model.longest:
        raise ModelError(f"sequence length {seq_len} exceeds the {model.longest} positions of the model: choose fewer")
    reasons = []
    for options in (
        {"dynamo": False, "opset_version": 17, "dynamic_axes": {name: {1: "sequence"} for name in names}},
        {"dynamo": True, "opset_version": OPSET, "external_data": False, "verbose": False},
    ):
        try:
            with _quiet(), torch.no_grad():
                torch.onnx.export(
                    model.eval(), tuple(example), str(path), input_names=names, output_names=model.output_names,
                    **options,
                )  # fmt: skip
        except Exception as error:  # the exporters raise whatever a model leads them to
            reasons.append(first_line(error).partition(" This is step")[0])
            continue
        reason = why_not(path)
        if reason is None:
            return path
        reasons.append(reason)
    raise ModelError(f"torch cannot export {type(model.module).__name__} to ONNX: {'; '.join(dict.fromkeys(reasons))}")


@contextmanager
def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), silent():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
