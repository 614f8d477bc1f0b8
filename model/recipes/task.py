"""A task of GLUE or SQuAD: its files, its vocabulary, and a model with its head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, NotOurs
from ..finetune.squad import VERSIONS
from .sources import ModelSource

if TYPE_CHECKING:
    from ..finetune.teacher import TeacherModel
    from ..foreign import ForeignModel
    from ..heads import Model


@dataclass(frozen=True)
class TaskData:
    """`train`, `dev` and `test` are the task's own files. The mismatched ones are MNLI's second."""

    vocabulary: str = ""  # the vocab.txt or tokenizer.json beside the model's weights, if there is one
    train: str = ""
    dev: str = ""
    dev_mismatched: str = ""
    test: str = ""  # GLUE's, without labels: predicted as its server wants them
    test_mismatched: str = ""
    diagnostic: str = ""  # GLUE's diagnostic set, for the model of mnli
    sequence_length: int = 128
    stride: int = 128  # SQuAD: from one window to the next, in tokens
    null_threshold: float = 0.0  # SQuAD v2.0


@dataclass(frozen=True)
class TaskTeacher:
    """Task distillation: a model that was fine-tuned on the task, of any family that `transformers` has, and any shape.

    Where its vocabulary is another than the student's, it reads the task's texts with its own tokenizer.
    """

    folder: str = ""  # a checkpoint folder; "": no teacher
    alpha: float = 0.5  # of the task's own loss; the rest is the teacher's
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not (0 <= self.alpha <= 1 and self.temperature > 0):
            raise ModelError("teacher.alpha is from 0 to 1, and teacher.temperature above 0")


def load_teacher(teacher: TaskTeacher, student: Model, task: str, vocabulary: Path) -> TeacherModel:
    """Raises `ModelError` where it has another head or other labels than the student, or answers in other tokens."""
    from ..checkpoint import load_checkpoint, read_labels
    from ..data import vocabulary_in
    from ..finetune.glue import TASKS
    from ..finetune.teacher import TeacherModel, own_tokenizer
    from ..foreign import load_foreign
    from .corpus import same_vocabulary

    folder = Path(teacher.folder)
    alike = same_vocabulary(vocabulary_in(folder), vocabulary)
    if not alike and task in VERSIONS:
        raise ModelError(
            f"teacher.folder {folder} has another vocabulary: it cannot say where the student's answers are"
        )
    model: Model | ForeignModel
    try:
        model = load_checkpoint(folder, student.head_name, random_head=False)
    except NotOurs:
        model = load_foreign(folder, student.head_name)
    found = TeacherModel(model, None if alike else own_tokenizer(folder))
    for name in ("vocab_size", "num_labels"):
        ours, theirs = getattr(student.config, name), getattr(found.settings, name)
        if ours != theirs and not (name == "num_labels" and task in VERSIONS) and (alike or name != "vocab_size"):
            raise ModelError(f"teacher.folder {folder}: {name} is {theirs}, the student's is {ours}")
    ours, theirs = (TASKS[task].labels if task in TASKS else ()), read_labels(folder)
    if theirs != ours and sorted(theirs) == sorted(ours):
        raise ModelError(f"teacher.folder {folder} numbers its labels {', '.join(theirs)}, {task} {', '.join(ours)}")
    return found


def with_vocabulary(data: TaskData, source: ModelSource) -> TaskData:
    """Data with a vocabulary, the model's own where none is given; raises `ModelError` for another than the model's."""
    from ..data import vocabulary_in
    from .corpus import check_vocabulary

    if data.vocabulary:
        check_vocabulary(source.folder, Path(data.vocabulary))
        return data
    own = vocabulary_in(Path(source.folder))
    if not (source.folder and own.exists()):
        raise ModelError(
            "data.vocabulary is missing, and there is no vocab.txt or tokenizer.json beside the model: name it"
        )
    return replace(data, vocabulary=str(own))


def load_model(source: ModelSource, task: str, seed: int) -> Model:
    """With the task's head and number of labels; a new head's weights are random."""
    import warnings

    from ..checkpoint import read_config
    from ..finetune.glue import find_task

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*are random, fine-tune them")
        if task in VERSIONS:
            return source.load("question-answering", seed)
        labels = max(1, len(find_task(task, tuple(VERSIONS)).labels))
        if not source.folder:
            return source.load("sequence-classification", seed, num_labels=labels)
        if read_config(Path(source.folder))[1].num_labels == labels:
            return source.load("sequence-classification", seed)
        return with_labels(source.load("sequence-classification", seed), labels, seed)


def with_labels(model: Model, labels: int, seed: int) -> Model:
    """The same encoder under a classifier with another number of labels."""
    from ..build import create

    other = create(replace(model.config, num_labels=labels), "sequence-classification", seed)
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith("head.classifier.")}
    other.load_state_dict(kept, strict=False)
    return other


def task_tokenizer(data: TaskData, model: Model) -> Any:
    from ..data import read_vocabulary

    tokenizer = read_vocabulary(Path(data.vocabulary))
    size = tokenizer.get_vocab_size()
    if size > model.config.vocab_size:
        raise ModelError(
            f"{data.vocabulary} has {size} pieces, the model {model.config.vocab_size}: not its vocabulary"
        )
    model.config.check_length("data.sequence_length", data.sequence_length)
    return tokenizer
