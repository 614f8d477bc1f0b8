"""`evaluate`: a model's metrics on held-out text, a task of GLUE or SQuAD, in float32 or as if in int8."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ModelError
from ..finetune.squad import VERSIONS
from .sources import ModelSource, TextData
from .task import TaskData, load_model, task_tokenizer, with_vocabulary

if TYPE_CHECKING:
    from ..data import PreTrainingBatches
    from ..finetune.glue import Example
    from ..heads import Model


@dataclass(frozen=True)
class EvaluateConfig:
    """configs/evaluate-*.toml. Held-out text is `task = "mlm"` with `text`, any other task has `data`."""

    task: str
    model: ModelSource
    output: str = ""  # where predictions go
    data: TaskData | None = None
    text: TextData | None = None
    batches: int = 50  # of held-out text
    batch_size: int = 32
    device: str = "auto"
    quantize: Literal["none", "int8"] = "none"  # int8: every linear with int8 weights and activations, simulated


def evaluate(config: EvaluateConfig) -> str:
    from ..processes import join
    from ..quantize import fake_quantized

    processes = join(config.device)
    model = config.model.load("mlm") if config.task == "mlm" else load_model(config.model, config.task, 0)
    model.to(processes.device)
    with fake_quantized(model) if config.quantize == "int8" else nullcontext():
        if config.task == "mlm":
            if config.text is None:
                raise ModelError("task mlm needs the section text")
            from ..data import vocabulary_in
            from .corpus import check_vocabulary, pretraining_batches

            batches = pretraining_batches(config.text, model.config.vocab_size, 0, processes)
            check_vocabulary(config.model.folder, vocabulary_in(Path(config.text.folder)))
            return json.dumps(evaluate_words(model, batches, config.batches, config.batch_size))
        if config.data is None:
            raise ModelError(f"task {config.task} needs the section data")
        output = Path(config.output) if config.output else None
        data = with_vocabulary(config.data, config.model)
        return json.dumps(evaluate_task(model, config.task, data, output, config.batch_size))


def evaluate_words(model: Model, batches: PreTrainingBatches, count: int, size: int) -> dict[str, float]:
    """Over `count` batches that are always the same: mlm and nsp in nats, accuracies from 0 to 1."""
    import torch

    from ..data.instances import IGNORED
    from ..distill.objectives import inputs, predictions
    from ..distill.pretraining import masked_language_model, next_sentence_prediction

    device = next(model.parameters()).device
    sums = dict.fromkeys(("words", "mlm", "mlm_accuracy", "rows", "nsp", "nsp_accuracy"), 0.0)
    training = model.training
    model.eval()
    with torch.inference_mode():
        for number in range(count):
            batch = {k: v.to(device) for k, v in batches.batch(number, 0, 1, size).items()}
            words, sentences = predictions(model, batch, model.encoder(*inputs(model, batch)))
            labels = batch["labels"][batch["labels"] != IGNORED]
            sums["words"] += len(labels)
            sums["mlm"] += float(masked_language_model(words, labels)) * len(labels)
            sums["mlm_accuracy"] += float((words.argmax(-1) == labels).sum())
            if sentences is not None:
                sums["rows"] += size
                sums["nsp"] += float(next_sentence_prediction(sentences, batch["next_sentence"])) * size
                sums["nsp_accuracy"] += float((sentences.argmax(-1) == batch["next_sentence"]).sum())
    model.train(training)
    counted = {"mlm": "words", "mlm_accuracy": "words"}
    counted |= {"nsp": "rows", "nsp_accuracy": "rows"} if sums["rows"] else {}
    return {name: sums[name] / sums[of] for name, of in counted.items()}


def evaluate_task(model: Model, task: str, data: TaskData, output: Path | None, batch_size: int) -> dict[str, Any]:
    """Metrics of each development file; predictions and metrics.json go to `output` where it is given."""
    from pocketbert.files import written_whole

    if not (data.dev or data.test):
        raise ModelError("data.dev is missing: name the task's development file, or data.test")
    if (data.test or data.test_mismatched or data.diagnostic) and (task in VERSIONS or not output):
        raise ModelError("data.test is for the tasks of GLUE, and needs an output folder for the predictions")
    if data.diagnostic and task != "mnli":
        raise ModelError("data.diagnostic is predicted by the model of mnli")
    files = {name: file for name in ("dev", "dev_mismatched") if (file := getattr(data, name))}
    run = evaluate_squad if task in VERSIONS else evaluate_glue
    metrics = {name: run(model, task, data, Path(file), output, name, batch_size) for name, file in files.items()}
    if output:
        for name in ("test", "test_mismatched", "diagnostic"):
            if getattr(data, name):
                predict_test(model, task, data, Path(getattr(data, name)), output, name, batch_size)
        with written_whole(output / "metrics.json", ModelError) as opened:
            opened.write((json.dumps(metrics, indent=2) + "\n").encode())
    return metrics


def evaluate_glue(
    model: Model, task: str, data: TaskData, file: Path, output: Path | None, name: str, batch_size: int
) -> dict[str, float]:
    from ..finetune.glue import TASKS, read_examples, write_predictions
    from ..finetune.metrics import compute

    examples = read_examples(TASKS[task], file)
    predicted = predict_glue(model, examples, data, batch_size)
    if output:
        write_predictions(TASKS[task], examples, predicted, output / f"{name}-predictions.tsv")
    labels = [example.label for example in examples if example.label is not None]
    return compute(TASKS[task].metrics, labels, predicted)


def predict_test(model: Model, task: str, data: TaskData, file: Path, output: Path, name: str, batch_size: int) -> None:
    """What the GLUE server takes, see `glue.SUBMITTED`."""
    from ..finetune.glue import SUBMITTED, TASKS, read_examples, write_predictions

    examples = read_examples(TASKS[task], file, labelled=False)
    path = output / SUBMITTED[task][("test", "test_mismatched", "diagnostic").index(name)]
    write_predictions(TASKS[task], examples, predict_glue(model, examples, data, batch_size), path)


def predict_glue(model: Model, examples: list[Example], data: TaskData, batch_size: int) -> list[float]:
    """The label's number or the score of each example."""
    from ..finetune.features import RowBatches, encode_examples
    from ..finetune.losses import labels_of, predict

    tokenizer = task_tokenizer(data, model)
    rows = encode_examples(tokenizer, examples, data.sequence_length)
    return labels_of(predict(model, RowBatches(rows, tokenizer, data.sequence_length).in_order(batch_size)))


def evaluate_squad(
    model: Model, task: str, data: TaskData, file: Path, output: Path | None, name: str, batch_size: int
) -> dict[str, float]:
    from pocketbert.files import written_whole

    from ..finetune.features import RowBatches
    from ..finetune.losses import predict
    from ..finetune.spans import SpanSettings, best_answers, final_answers, windows
    from ..finetune.squad import read_questions, score

    tokenizer, version = task_tokenizer(data, model), VERSIONS[task]
    settings = SpanSettings(stride=data.stride, null_threshold=data.null_threshold)
    questions = read_questions(file)
    made = windows(tokenizer, questions, data.sequence_length, settings)
    batches = RowBatches([w.row for w in made], tokenizer, data.sequence_length).in_order(batch_size)
    logits = [(start.numpy(), end.numpy()) for start, end in predict(model, batches)]
    answers, null = best_answers(questions, made, logits, settings)
    predictions, odds = final_answers(questions, answers, null, version, settings)
    if output:
        n_best = {q.id: [vars(a) for a in ranked] for q, ranked in zip(questions, answers, strict=True)}
        written = {"predictions": predictions, "n-best": n_best} | ({"null-odds": odds} if version == "2.0" else {})
        for kind, content in written.items():
            with written_whole(output / f"{name}-{kind}.json", ModelError) as opened:
                opened.write(json.dumps(content).encode())
    return score(questions, predictions, version, odds if version == "2.0" else None)
