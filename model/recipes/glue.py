"""`glue`: the GLUE score of fine-tuned models, and the archive that the GLUE server takes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pocketbert.files import written_whole
from pocketbert.reading import read_json

from ..errors import ModelError
from ..finetune.glue import SUBMITTED, TASKS

WNLI = "index\tprediction\n" + "".join(f"{index}\t0\n" for index in range(146))
"""The most frequent label for all of its test set: its development set contradicts its training set, so that models
do worse, and papers (Devlin et al., 2018) leave it out."""


def runs_of(folders: Sequence[Path]) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Task to its run's folder (a sweep's best) and metrics; raises `ModelError` for no run, or two of a task."""
    runs: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in folders:
        if (folder / "sweep.json").exists():
            folder /= str(read_json(folder / "sweep.json", ModelError)["runs"][0]["folder"])
        if not (folder / "metrics.json").exists():
            raise ModelError(f"{folder} holds no finished run: name the output folders of finetune")
        task = read_json(folder / "made-from.json", ModelError)["task"]
        if task not in TASKS:
            raise ModelError(f"{folder} is of {task}, which is no task of GLUE's score")
        if task in runs:
            raise ModelError(f"{folder} and {runs[task][0]} are both of {task}: name one of them")
        runs[task] = folder, read_json(folder / "metrics.json", ModelError)
    return runs


def glue_score(runs: dict[str, tuple[Path, dict[str, Any]]]) -> dict[str, float]:
    """Each task's score in percent, the mean of its metrics (and of both sets of mnli), and their mean as `glue`.

    As the GLUE server and the MobileBERT paper (Table 4) have it, without WNLI; `glue` is there with all eight tasks.
    """
    scores = {}
    for task in filter(runs.__contains__, TASKS):
        values = [v for metrics in runs[task][1].values() for v in metrics.values()]
        scores[task] = 100 * sum(values) / len(values)
    return scores | ({"glue": sum(scores.values()) / len(TASKS)} if len(scores) == len(TASKS) else {})


def write_submission(runs: dict[str, tuple[Path, dict[str, Any]]], path: Path) -> None:
    """All predictions as one archive; raises `ModelError` naming what is missing."""
    if missing := [task for task in TASKS if task not in runs]:
        raise ModelError(f"a submission needs all tasks: {', '.join(missing)} missing")
    files = [runs[task][0] / name for task, names in SUBMITTED.items() for name in names]
    if absent := [file for file in files if not file.exists()]:
        raise ModelError(f"{absent[0]} is not there: evaluate with data.test, data.test_mismatched, data.diagnostic")
    with written_whole(path, ModelError) as opened, zipfile.ZipFile(opened, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
        archive.writestr("WNLI.tsv", WNLI)


def glue(folders: Sequence[Path], submission: Path | None, as_json: bool) -> str:
    """What to print."""
    runs = runs_of(folders)
    scores = glue_score(runs)
    if submission:
        write_submission(runs, submission)
    if as_json:
        return json.dumps(scores, indent=2)
    lines = [f"{name:8}{value:7.1f}" for name, value in scores.items()]
    if missing := [task for task in TASKS if task not in runs]:
        lines.append(f"no GLUE score: {', '.join(missing)} missing")
    return "\n".join(lines)
