"""The runtime's tokenizer for one model: constants in vocabulary.h, and tables in read-only data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.errors import CompileError
from compile.text.compiled import WITHOUT, compile_text
from compile.text.side import TextSide
from compile.text.task import NO_TASK, Task, task_defines

if TYPE_CHECKING:
    from compile.planning.plan import Plan

# What a text gives a model: the names that exporters use.
INPUTS = {
    "input_ids": "PB_TEXT_IDS",
    "attention_mask": "PB_TEXT_MASK",
    "input_mask": "PB_TEXT_MASK",
    "token_type_ids": "PB_TEXT_SEGMENTS",
    "segment_ids": "PB_TEXT_SEGMENTS",
}
# What the parts of a tokenizer that it does not have are set to.
DEFAULTS = {"PB_STABLE": "0", "PB_COMPOSITIONS": "0", "PB_GRAPHEMES": "0"}


def text_inputs(plan: Plan, vocabulary: TextSide) -> list[str]:
    """What each input of the model takes of a text, in the runtime's words. Raises CompileError if it wants more."""
    inputs = plan.program.inputs
    for value in inputs:
        if value.name not in INPUTS or value.dtype not in ("int64", "int32") or value.shape != (1, plan.program.tokens):
            raise CompileError(
                f"input {value.name!r} is {value.dtype} {list(value.shape)}: text gives a model input_ids, "
                f"attention_mask and token_type_ids of [1, {plan.program.tokens}] integers; {WITHOUT}"
            )
    roles = [INPUTS[value.name] for value in inputs]
    if "PB_TEXT_IDS" not in roles or len(set(roles)) < len(roles):
        raise CompileError(f"text: the model needs one input of ids, at most one mask; {WITHOUT}")
    if not plan.program.elastic and "PB_TEXT_MASK" not in roles:
        raise CompileError(
            f"text: the model takes just {plan.program.tokens} tokens and no attention_mask: export it with one, so "
            f"that a text can be padded, or {WITHOUT}"
        )
    allowed = plan.program.ranges.get(inputs[roles.index("PB_TEXT_IDS")].name)
    if allowed and len(vocabulary.names) > allowed.high:
        raise CompileError(
            f"text: the tokenizer has {len(vocabulary.names)} pieces, but the model has {allowed.high}: give its own"
        )
    return roles


def write_vocabulary(
    side: TextSide | None,
    inputs: Sequence[str],
    folder: Path,
    task: Task | None = None,
    outputs: Sequence[tuple[str, tuple[int, ...]]] = (),
) -> list[Path]:
    """vocabulary.h and, where there is a tokenizer, the source that takes in its tables; returns the sources.

    task, outputs: what a text is read for, and the names and shapes of what the model gives. Raises CompileError for a
    tokenizer that is not covered, and where the model does not give what the task reads.
    """
    if side is None:
        _write_defines(
            {"PB_PIECES": "0", "PB_PAD": "-1", "PB_MAX_TOKENS": "0", "PB_TEXT_INPUTS": "0", "PB_LOWER": "-1"} | NO_TASK,
            folder,
        )
        return []
    from compile.codegen.weights import assembler_source  # beside the plan, which knows tvm
    from compile.kernels.contract import ALIGNMENT

    text = compile_text(side, lower=task is not None and task.kind == "answer")
    mask = next((n for name in ("[MASK]", "<mask>") if (n := side.tokenizer.token_to_id(name)) is not None), None)
    of_task, labels = task_defines(task, outputs, mask)
    _write_defines(DEFAULTS | text.defines | of_task | {"PB_TEXT_INPUTS": ", ".join(inputs)}, folder)
    source = folder / "vocabulary.c"
    facts = {"pb_facts": np.frombuffer(describe_text(side, task).encode() + b"\0", np.uint8)}
    parts = []
    for name, table in (text.tables | labels | facts).items():
        (folder / f"{name}.bin").write_bytes(table.tobytes())
        parts.append(assembler_source(name, alignment=ALIGNMENT))
    source.write_text("".join(parts))
    return [source]


def describe_text(side: TextSide, task: Task | None) -> str:
    """What a library says of itself, as JSON with the manifest's names: what for, how text is read, who says so."""
    vocabulary = {"pieces": len(side.names), "cased": side.cased, "kind": side.kind, "max_tokens": side.max_tokens}
    settings = [asdict(setting) for setting in side.settings]
    facts: dict[str, Any] = {"task": None, "vocabulary": vocabulary | {"settings": settings}}
    if task:
        activation = task.activation if task.labels else None
        facts |= {"task": task.kind, "activation": activation, "pooling": task.pooling, "normalized": task.normalize}
    return json.dumps(facts)


def _write_defines(defines: Mapping[str, str], folder: Path) -> None:
    (folder / "vocabulary.h").write_text("".join(f"#define {name} {value}\n" for name, value in defines.items()))
