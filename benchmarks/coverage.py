"""Which encoders compile: families of transformers by the forms in which people have their files.

Each cell makes a small random model of a family (norms, biases and scales are random too), writes it in one form,
compiles that for this machine and compares the library with transformers: five masks at three lengths, at most 1e-4 of
the output's range. A cell is right, refused with the reason, or wrong. Cells run one after another, each in a process
of its own with a time limit.

    python benchmarks/coverage.py                          every family and form
    python benchmarks/coverage.py --family bert t5 --form static dynamic
    python benchmarks/coverage.py --docs docs/models.md    also write the table as a page
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import multiprocessing
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

# A script's own folder comes first on the path; the project's root must.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.command import measure_and_show, new_parser, number
from pocketbert.errors import PocketBERTError, first_line
from pocketbert.files import write_whole
from pocketbert.numerics import relative_error

TOKENS = 16
LENGTHS = (TOKENS, 11, 5)
TOLERANCE = 1e-4
COMMON = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 80, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1,
    "sep_token_id": 2, "embedding_size": 16,
}  # fmt: skip
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "class": "EncoderModel"}
XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 4, "n_words": 100, "pad_index": 0}
BART = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 48, "part": "encoder",
        "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}  # fmt: skip
# What differs from COMMON, by transformers' model_type. "class": of its model, where AutoModel's is another;
# "part": the encoder's attribute, where the model has a decoder too.
FAMILIES: dict[str, dict[str, Any]] = {
    "albert": {"num_hidden_groups": 1},
    "bart": BART,
    "bert": {},
    "bert-generation": {},
    "big_bird": {"attention_type": "original_full"},
    "camembert": {"type_vocab_size": 1, "pad_token_id": 1},
    "canine": {"num_hash_buckets": 64, "local_transformer_stride": 8, "upsampling_kernel_size": 4},
    "convbert": {"conv_kernel_size": 5},
    "data2vec-text": {"type_vocab_size": 1, "pad_token_id": 1},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16,
                   "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False,
                   "type_vocab_size": 0},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "electra": {},
    "ernie": {},
    "esm": {"pad_token_id": 1, "mask_token_id": 3, "position_embedding_type": "rotary", "token_dropout": False},
    "eurobert": {"num_key_value_heads": 2, "head_dim": 8},
    "flaubert": XLM,
    "fnet": {},
    "funnel": {"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48, "block_sizes": [1, 1]},
    "gte": {},
    "ibert": {"pad_token_id": 1, "type_vocab_size": 1, "quant_mode": False},
    "jina_embeddings_v3": {},
    "layoutlm": {"max_2d_position_embeddings": 64},
    "lilt": {"max_2d_position_embeddings": 64, "channel_shrink_ratio": 2, "pad_token_id": 1},
    "longformer": {"attention_window": 8, "pad_token_id": 1},
    "luke": {"entity_vocab_size": 10, "entity_emb_size": 16, "pad_token_id": 1},
    "markuplm": {"max_depth": 4, "xpath_unit_hidden_size": 8, "max_xpath_tag_unit_embeddings": 16,
                 "max_xpath_subs_unit_embeddings": 16, "tag_pad_id": 15, "subs_pad_id": 15},
    "mbart": BART,
    "megatron-bert": {},
    "mobilebert": {"hidden_size": 48, "embedding_size": 16, "true_hidden_size": 32, "intra_bottleneck_size": 32},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "mpnet": {"pad_token_id": 1},
    "mt5": T5,
    "nomic_bert": {},
    "nystromformer": {"segment_means_seq_len": 16, "num_landmarks": 4},
    "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
    "roberta": {"type_vocab_size": 1, "pad_token_id": 1},
    "roberta-prelayernorm": {"type_vocab_size": 1, "pad_token_id": 1},
    "roc_bert": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20, "pronunciation_embed_dim": 8,
                 "shape_embed_dim": 8},
    "roformer": {},
    "splinter": {},
    "squeezebert": {"q_groups": 1, "k_groups": 1, "v_groups": 1},
    "t5": T5,
    "umt5": T5,
    "xlm": XLM,
    "xlm-roberta": {"type_vocab_size": 1, "pad_token_id": 1},
    "xlm-roberta-xl": {"type_vocab_size": 1, "pad_token_id": 1},
    "xmod": {"type_vocab_size": 1, "pad_token_id": 1, "languages": ["en_XX"], "default_language": "en_XX"},
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What became of one family in one form.

    outcome: "right", "refused", "wrong", "failed" (a traceback, a crash, the time limit) or "absent": transformers or
    the exporter cannot write this form. note: the reason; error: the greatest, as a share of the output's range;
    generic: kernels that are TVM's own; elastic: whether shorter sequences run at their own length.
    """

    family: str
    form: str
    outcome: str
    note: str = ""
    error: float | None = None
    generic: int | None = None
    elastic: bool | None = None
    seconds: float = 0.0


class Absent(Exception):
    """This form of this family cannot be written; the message says by whom."""


class Encoder:
    """A family's small random model: `module(input_ids, attention_mask)` is its last hidden state (B, T, H)."""

    def __init__(self, family: str) -> None:
        import torch
        import transformers

        changes = dict(COMMON | FAMILIES[family])
        kind, part = changes.pop("class", None), changes.pop("part", None)
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(family, **changes)
        if kind:
            kind = type(config).__name__.replace("Config", kind)
        whole = getattr(transformers, kind)(config) if kind else transformers.AutoModel.from_config(config)
        self.model = randomise(getattr(whole, part) if part else whole)
        self.module = _first_output(self.model)

    def __call__(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            result: np.ndarray = self.module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        return result


def randomise(module: Any) -> Any:
    """Matrices as Xavier would have them, norm weights from U(0.8, 1.2), all other vectors from N(0, 0.1)."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
            elif name.endswith("weight"):
                parameter.uniform_(0.8, 1.2)
            else:
                parameter.normal_(0, 0.1)
    return module.eval()


def _first_output(model: Any) -> Any:
    import torch

    class FirstOutput(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask)[0]

    return FirstOutput().eval()


# --- forms: each writes `encoder` below `folder` and returns what `compile` is given


def export(encoder: Encoder, folder: Path, *, dynamic: bool, dynamo: bool = False) -> Path:
    """The file that torch's older exporter or its newer one (dynamo) writes."""
    import torch

    path, ids = folder / "model.onnx", torch.randint(5, 90, (2 if dynamic and dynamo else 1, TOKENS))
    names = ["input_ids", "attention_mask"]
    options: dict[str, Any] = {"opset_version": 18 if dynamo else 17, "dynamo": dynamo, "input_names": names}
    if dynamo:
        options["external_data"] = False
    if dynamo and dynamic:
        axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        options["dynamic_shapes"] = (axes, axes)
    elif dynamic:
        options["dynamic_axes"] = {name: {0: "batch_size", 1: "sequence_length"} for name in [*names, "y"]}
    try:
        torch.onnx.export(
            encoder.module, (ids, torch.ones_like(ids)), str(path), output_names=["y"], verbose=False, **options
        )
    except Exception as error:
        raise Absent(f"torch.onnx: {first_line(error)}") from error
    return path


FORMS: dict[str, Callable[[Encoder, Path], Path]] = {
    "static": lambda encoder, folder: export(encoder, folder, dynamic=False),
    "dynamic": lambda encoder, folder: export(encoder, folder, dynamic=True),
    "dynamo": lambda encoder, folder: export(encoder, folder, dynamic=True, dynamo=True),
}


def measure_cell(family: str, form: str, folder: Path) -> Cell:
    """Write, compile, compare."""
    from compile import build, load

    try:
        encoder = Encoder(family)
        source = FORMS[form](encoder, folder)
    except Absent as error:
        return Cell(family, form, "absent", str(error))
    try:
        built = build(source, target="host", seq_len=TOKENS, out=folder / "artifact", text=False)
    except PocketBERTError as error:
        return Cell(family, form, "refused", str(error).replace(str(folder), "."))
    worst, elastic = 0.0, built.manifest.shorter_sequences
    with load(built.folder) as library:
        names = [entry.name for entry in built.manifest.inputs]
        for ids, mask in samples(LENGTHS if elastic else LENGTHS[:1]):
            feeds = {name: mask if "mask" in name else ids if "ids" in name else np.zeros_like(ids) for name in names}
            feeds |= {name: np.zeros_like(ids) for name in names if "type" in name}
            result = next(iter(library.run(feeds).values()))
            worst = max(worst, relative_error({"y": result}, {"y": encoder(ids, mask)}))
    return Cell(
        family, form, "right" if worst <= TOLERANCE else "wrong", "" if worst <= TOLERANCE else f"error {worst:.1e}",
        worst, len(built.manifest.generic_kernels), elastic,
    )  # fmt: skip


def samples(lengths: tuple[int, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids and masks (1, T): no padding, padding behind of two lengths, padding in front, holes."""
    rng = np.random.default_rng(0)
    for length in lengths:
        ids = rng.integers(5, 90, (1, length))
        for begin, end, step in ((0, length, 1), (0, length - 1, 1), (0, 2, 1), (2, length, 1), (0, length, 2)):
            mask = np.zeros((1, length), np.int64)
            mask[:, begin:end:step] = 1
            yield ids, mask


# --- all cells


def _in_child(family: str, form: str, sender: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), \
            contextlib.redirect_stderr(io.StringIO()):  # fmt: skip
        try:
            cell = measure_cell(family, form, Path(folder))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            note = f"{type(error).__name__}: {first_line(error)} ({Path(where.filename).name}:{where.lineno})"
            cell = Cell(family, form, "failed", note)
    sender.send(cell)


def run_cell(family: str, form: str, limit: float) -> Cell:
    """`measure_cell` in a process that is forked from this one, which has imported what takes long."""
    begin = time.perf_counter()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(family, form, sender))
    child.start()
    sender.close()
    try:
        cell = receiver.recv() if receiver.poll(limit) else Cell(family, form, "failed", f"more than {limit:g} s")
    except EOFError:
        child.join()
        cell = Cell(family, form, "failed", f"the process ended with status {child.exitcode}")
    child.kill()
    child.join()
    return Cell(**{**asdict(cell), "seconds": round(time.perf_counter() - begin, 1)})


def measure(args: argparse.Namespace) -> dict[str, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise PocketBERTError("families are transformers': pip install torch transformers") from error
    import compile.pipeline  # noqa: F401  tvm, before the forks

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"transformers": transformers.__version__, "torch": torch.__version__, "cells": []}
    for family in args.family:
        for form in args.form:
            cell = run_cell(family, form, args.limit)
            result["cells"].append(asdict(cell))
            print(f"{family} {form}: {cell.outcome} {cell.note} ({cell.seconds} s)", file=sys.stderr, flush=True)
            if args.docs:  # what was measured stays, also of a run that is stopped
                write_whole(args.docs, page(result), PocketBERTError)
    return result


MARKS = {"right": "✓", "refused": "refused", "wrong": "WRONG", "failed": "FAILED", "absent": "–"}


def mark(cell: Cell) -> str:
    """A cell of the table: how many generic kernels a right one has, and whether it takes one length alone."""
    words = [MARKS[cell.outcome]]
    if cell.outcome == "right":
        words += [f"{cell.generic} generic"] * bool(cell.generic) + ["one length"] * (not cell.elastic)
    return ", ".join(words)


def rows(result: dict[str, Any]) -> tuple[list[str], list[list[str]], list[Cell]]:
    """The table's head and rows, and the cells that need a word of explanation."""
    cells = [Cell(**cell) for cell in result["cells"]]
    forms = list(dict.fromkeys(cell.form for cell in cells))
    families = dict.fromkeys(cell.family for cell in cells)
    marks = {(cell.family, cell.form): mark(cell) for cell in cells}
    table = [[family, *(marks.get((family, form), "") for form in forms)] for family in families]
    return ["family", *forms], table, [cell for cell in cells if cell.note]


def totals(result: dict[str, Any]) -> str:
    outcomes = [cell["outcome"] for cell in result["cells"] if cell["outcome"] != "absent"]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("right", "refused", "wrong", "failed"))
    return f"{len(outcomes)} cells: {counts}"


def show(result: dict[str, Any]) -> None:
    console = Console(highlight=False)
    head, body, notes = rows(result)
    table = Table(*head)
    for row in body:
        table.add_row(*row)
    console.print(table)
    for cell in notes:
        console.print(escape(f"{cell.family}, {cell.form}: {MARKS[cell.outcome]}: {cell.note}"))
    console.print(totals(result))


def page(result: dict[str, Any]) -> str:
    """docs/models.md."""
    head, body, notes = rows(result)
    lines = [
        "# Models",
        "",
        f"Made by `python benchmarks/coverage.py --docs docs/models.md` with transformers {result['transformers']} and "
        f"torch {result['torch']}: small random models of each family, five masks at three lengths, at most "
        f"{TOLERANCE:g} of the output's range from transformers.",
        "",
        f"{totals(result)}.",
        "",
        "| " + " | ".join(head) + " |",
        "| " + " | ".join("---" for _ in head) + " |",
        *("| " + " | ".join(row) + " |" for row in body),
        "",
        "✓ right; “n generic”: kernels that are TVM's own, right but slow; “one length”: the library runs the compiled "
        "length alone; – : the exporter cannot write this form.",
        "",
        *(f"* {cell.family}, {cell.form}: {MARKS[cell.outcome]}: {cell.note}" for cell in notes),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME", help=", ".join(FAMILIES))
    add("--form", nargs="+", choices=FORMS, default=list(FORMS), metavar="NAME", help=", ".join(FORMS))
    add("--limit", type=number(float, 1, 3600), default=300.0, metavar="S", help="seconds for a cell (default: 300)")
    add("--docs", type=Path, metavar="FILE", help="write the table as a page of the documentation")
    return measure_and_show(parser, measure, show)


if __name__ == "__main__":
    sys.exit(main())
