"""A preset, a Hugging Face folder or an .onnx file becomes ONNX, with what else is known of the model."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compile.errors import CompileError
from compile.running.samples import Sample
from compile.running.verify import Original
from pocketbert.command import require_own_rooms
from pocketbert.errors import first_line
from pocketbert.numerics import TOLERANCE, relative_error
from pocketbert.temporary import TemporaryFolder

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Source:
    """A model as ONNX.

    origin: where it came from, for the manifest; original: what `graph` was exported from, to verify that as well.
    """

    graph: onnx.ModelProto
    name: str
    origin: dict[str, Any]
    original: Original | None = None


def obtain(
    source: str,
    seq_len: int,
    head: str | None,
    random_head: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    pooled: bool = True,
) -> Source:
    """Load and export what `source` names.

    Options are those of `build`; pooled: a sentence-transformers folder gives sentence_embedding, not what it pools.
    """
    from passes import files

    path, clock = Path(source), _Clock(progress)
    if path.suffix == ".onnx" or path.is_file():
        if head:
            raise CompileError(f"--head {head}: an .onnx file has the head that it was exported with")
        graph = files.read(path)
        clock.lap("read the model")
        return Source(graph, path.stem, {"file": path.name})
    require_own_rooms("model")
    import model as core  # torch: only for what is not ONNX yet

    folder = path.is_dir()
    try:
        module: Any = core.load(source, head=head, seed=seed, random_head=random_head, pooled=pooled)  # type: ignore[arg-type]
        write: Any = core.export
    except core.NotOurs as reason:
        if not core.transformers_installed():
            raise CompileError(f"{reason}; or install transformers, which may have it: {core.INSTALL}") from reason
        module = core.load_foreign(path, head, random_head, pooled)  # type: ignore[arg-type]
        write = partial(core.export_foreign, why_not=partial(_why_not, module, seq_len))
    clock.lap("load the checkpoint" if folder else "make the model")
    with TemporaryFolder() as work:
        graph = files.read(write(module, work / "model.onnx", seq_len=seq_len))
    clock.lap("export to ONNX")
    name = folder_name(path) if folder else source
    origin = {"checkpoint": name} if folder else {"preset": name, "seed": seed}
    name += f"-{head}" if head and head != "none" else ""
    if not folder:
        return Source(graph, name, {**origin, "head": head})
    original = None if random_head else _original(path, head, module)
    return Source(graph, name, {**origin, "head": head}, original)


def _why_not(module: Any, seq_len: int, path: Path) -> str | None:
    """Why an exported file is not the model: an exporter may have taken choices by the one text that it saw."""
    from passes.verify import run_model

    rng, samples = np.random.default_rng(0), []
    ids = min(getattr(module.module.config, "vocab_size", 0) or 100, 1000)
    for kept in (np.arange(seq_len) <= seq_len // 2, np.arange(seq_len) % 3 != 1):
        values = {name: np.zeros((1, seq_len), np.int64) for name in module.input_names}
        values |= {"input_ids": rng.integers(0, ids, (1, seq_len)), "attention_mask": kept[None].astype(np.int64)}
        samples.append(values)
    try:
        answers = run_model(onnx.load(path), samples)
        off = max(relative_error(got, want) for got, want in zip(answers, module.answers(samples), strict=True))
    except Exception as error:  # ONNX Runtime raises types of its own
        return f"ONNX Runtime cannot run its file ({first_line(error)})"
    return None if off < TOLERANCE else f"its file is {off:.0e} of the range off where a text is padded"


def folder_name(folder: Path) -> str:
    """What the folder's model is called: in the cache of the Hugging Face hub the folder itself is a commit's hash."""
    place = folder.resolve()
    if place.parent.name == "snapshots" and place.parents[1].name.startswith("models--"):
        return place.parents[1].name.rpartition("--")[2]
    return place.name


def require_name(model: Path) -> None:
    """Raises CompileError for a folder whose name is a hash and none of a model."""
    if model.is_dir() and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", folder_name(model)):
        raise CompileError(f"{model}: the folder's name is a hash: say with --name what the model is called")


def _original(folder: Path, head: str | None, module: Any) -> Original:
    import model as core

    def answers(samples: list[Sample]) -> tuple[str, list[Sample]] | str:
        try:
            name, run = core.original(folder, head, module)  # type: ignore[arg-type]
        except core.ModelError as reason:
            return str(reason)
        return name, run(samples)

    return answers


class _Clock:
    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.begin = progress, time.perf_counter()

    def lap(self, name: str) -> None:
        if self.progress:
            self.progress(name, time.perf_counter() - self.begin)
        self.begin = time.perf_counter()
