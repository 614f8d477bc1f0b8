"""Write one architecture of a search as ONNX, as the search did, and the configurations that train it.

Either a trial of a study, or parameters of a space; those that are not given are of the space's first row. The
weights are seeded and random, so `python -m compile` makes of the file the very library that was measured. Beside it
stand FILE-teacher.toml, for `python -m model pretrain`, and FILE.toml, for `python -m model distill`: the teacher has
the layers, heads and widths that knowledge transfer compares with this student's. A teacher itself (the space
ib-bert) is pre-trained by FILE.toml.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketbert.files import write_whole
from tune.errors import TuneError

if TYPE_CHECKING:
    from model import ModelConfig
    from tune.search.space import Space

SHARED = (
    *("vocab_size", "max_position_embeddings", "embedding_size"),
    *("num_hidden_layers", "hidden_size", "num_attention_heads"),
)
"""What a teacher has in common with its student: the embeddings, which are copied, and what transfer compares."""
STEPS, TRANSFER_STEPS = 500_000, 10_000  # of pre-training and distillation; of transfer, a layer (section 4.2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--study", metavar="NAME", help="with --storage and --trial: a trial that was measured")
    add("--storage", metavar="ADDRESS", help="sqlite:///FILE, another database, or journal:FILE")
    add("--trial", type=int, metavar="N", help="its number in the study")
    add("--space", metavar="NAME", help="mobilebert (the default), mobilebert-toy or ib-bert")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", dest="sets", help="parameters of the space")
    add("--seq-len", type=int, metavar="N", help="tokens in a sequence (default: the trial's, or 128)")
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the .onnx file to write")


def export_architecture(args: argparse.Namespace) -> int:
    from tune.search.artifact import export

    if args.output.suffix != ".onnx":
        raise TuneError(f"-o {args.output}: name a file that ends in .onnx")
    source = (args.study, args.storage, args.trial)
    if any(value is not None for value in source):
        if args.space or args.sets or any(value is None for value in source):
            raise TuneError("give --study, --storage and --trial, or --space and --set")
        space, config, seq_len, origin = of_trial(args.study, args.storage, args.trial)
    else:
        space, config = of_space(args.space or "mobilebert", args.sets)
        seq_len, origin = 128, f"an architecture of the space {space.name}"
    print(export(config, args.output, args.seq_len or seq_len))
    for path, text in training_files(space, config, origin, args.output):
        write_whole(path, text, TuneError)
        print(path)
    return 0


def of_trial(study: str, storage: str, number: int) -> tuple[Space, ModelConfig, int, str]:
    """Its space, its configuration, the tokens of its library, and what it is in words. Raises TuneError."""
    from tune.search.findings import find
    from tune.search.storage import load_study

    findings = find(load_study(study, storage))
    point = findings.point(number)
    figures = f"quality {point.quality:.4g}, {point.ms:.2f} ms, {point.mib:.1f} MiB"
    where = json.dumps(study)  # on one line, whatever it is called
    return findings.space, point.config, point.seq_len, f"trial {number} of the study {where}: {figures}"


def of_space(name: str, sets: list[str]) -> tuple[Space, ModelConfig]:
    """Raises TuneError for what is no parameter of the space, or none of its values."""
    from tune.search.space import find_space

    space = find_space(name)
    parameters = dict(space.parameters(space.rows[space.reference]))
    for text in sets:
        name, _, value = text.partition("=")
        if name not in space.choices:
            raise TuneError(f"--set {text}: the space {space.name} has {', '.join(space.choices)}")
        fitting = [choice for choice in space.choices[name] if str(choice) == value]
        if not fitting:
            raise TuneError(f"--set {text}: choose from {', '.join(map(str, space.choices[name]))}")
        parameters[name] = fitting[0]
    return space, space.config(parameters)


def training_files(space: Space, config: ModelConfig, origin: str, onnx_file: Path) -> list[tuple[Path, str]]:
    """Configurations of `python -m model` by their paths, in the order that they run."""
    from model.presets import IB_BERT, PAPER_MOBILEBERT

    stem = onnx_file.stem
    data: dict[str, Any] = {"text": ["text/train.txt"], "vocabulary": "text/vocab.txt", "folder": "runs/data"}
    lengths = {"sequence_length": 128, "long_sequence_length": config.max_position_embeddings}
    if config.max_position_embeddings <= 128:
        lengths = {"sequence_length": config.max_position_embeddings}
    train = {"steps": STEPS, "batch_size": 64, "accumulate": 8, "learning_rate": 1e-3, "warmup": 0.02}

    def text(comment: str, output: str, preset: tuple[str, ModelConfig], shape: ModelConfig, **sections: Any) -> str:
        name, base = preset
        fields = {key: value for key, value in vars(shape).items() if value != getattr(base, key)}
        top = {"output": f"runs/{output}"} | {k: v for k, v in sections.items() if not isinstance(v, dict)}
        tables = {"model": {"preset": name}, "model.fields": fields, "data": data | lengths, "train": train}
        tables |= {k: v for k, v in sections.items() if isinstance(v, dict)}
        lines = [f"# {comment}", *_lines(top)]
        for section, values in tables.items():
            lines += ["", f"[{section}]", *_lines(values)]
        return "\n".join(lines) + "\n"

    teacher = ("ib-bert-large", IB_BERT)
    if space.base == IB_BERT:
        return [(onnx_file.with_suffix(".toml"), text(f"Pre-trains {origin}", stem, teacher, config))]
    share = 64 * config.num_attention_heads
    inside = max(1, round(1024 / share)) * share  # the nearest to IB-BERT's own that the heads divide
    widths: dict[str, Any] = {"bottleneck_size": inside, "intermediate_size": 4 * inside}
    same = replace(IB_BERT, **widths | {name: getattr(config, name) for name in SHARED})
    first = text(f"The teacher of {toml(f'{stem}.toml')}: run this first", f"{stem}-teacher", teacher, same)
    transfer = {"strategy": "progressive", "transfer_steps": TRANSFER_STEPS * config.num_hidden_layers}
    second = text(
        f"Distils {origin}", stem, ("mobilebert-paper", PAPER_MOBILEBERT), config,
        teacher=f"runs/{stem}-teacher/model", transfer=transfer,
    )  # fmt: skip
    return [(onnx_file.with_name(f"{stem}-teacher.toml"), first), (onnx_file.with_suffix(".toml"), second)]


def _lines(values: dict[str, Any]) -> list[str]:
    return [f"{name} = {toml(value)}" for name, value in values.items()]


def toml(value: Any) -> str:
    """Strings, numbers, booleans and lists of them are as in JSON, but for pairs of surrogates and DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
