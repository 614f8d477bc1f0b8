import json
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model import ModelConfig, ModelError, create, load_checkpoint, save_checkpoint
from model.__main__ import main
from model.commands.config import read
from model.data import read_vocabulary
from model.finetune import squad
from model.finetune.features import Row, RowBatches, encode_examples
from model.finetune.glue import Example
from model.finetune.losses import Classification, Taught
from model.finetune.spans import SpanSettings, _fullest, best_answers, final_answers, windows
from model.finetune.squad import Question
from model.quantize import fake_quantized, round_rows, round_weight
from model.recipes import evaluate as evaluating
from model.recipes.attention_maps import _maps
from model.recipes.finetune import FinetuneConfig, claim, sweep
from model.recipes.task import TaskData, TaskTeacher, load_teacher

SQUAD = Path("../shared/data/squad/dev-v2.0.json")
VOCABULARY = Path("../shared/data/vocab/bert-base-uncased-vocab.txt")
TINY = ModelConfig(
    vocab_size=200, max_position_embeddings=64, embedding_size=16, num_hidden_layers=2, hidden_size=32,
    bottleneck_size=16, attention_input="stream", num_attention_heads=2, intermediate_size=32,
    num_feedforward_networks=1,
)  # fmt: skip


@pytest.fixture
def words(corpus: Path) -> list[str]:
    return sorted(set(corpus.read_text().lower().replace(".", "").split()))


def config(tmp_path: Path, vocabulary: Path, task: str, **data: str) -> Path:
    save_checkpoint(create(TINY, "mlm", 1), tmp_path / "start")
    files = "".join(f'{k} = "{v}"\n' for k, v in data.items())
    path = tmp_path / "finetune.toml"
    path.write_text(f"""
output = "{tmp_path}/run"
task = "{task}"
epochs = 4
[model]
folder = "{tmp_path}/start"
[train]
batch_size = 8
learning_rate = 3e-3
optimizer = "adamw"
device = "cpu"
[data]
vocabulary = "{vocabulary}"
sequence_length = 48
{files}
""")
    return path


def sentiment(tmp_path: Path, vocabulary: Path, words: list[str]) -> Path:
    """The configuration of a task in which one word decides."""
    rng = random.Random(0)
    for name, count in (("train", 200), ("dev", 40)):
        rows = []
        for _ in range(count):
            label = rng.randint(0, 1)
            rows.append(f"{words[label * 3]} {' '.join(rng.choices(words[10:], k=4))}\t{label}\n")
        (tmp_path / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    return config(tmp_path, vocabulary, "sst-2", train=f"{tmp_path}/train.tsv", dev=f"{tmp_path}/dev.tsv")


def test_a_classifier_that_is_trained_for_int8_reports_what_int8_answers(
    tmp_path: Path, vocabulary: Path, words: list[str], capsys: pytest.CaptureFixture
) -> None:
    path = sentiment(tmp_path, vocabulary, words)
    sets = ["--set", "quantize.precision=int8", "--set", "quantize.keep_float=['*classifier*']"]
    assert main(["finetune", str(path), *sets]) == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["dev"]["accuracy"] > 0.9
    sets[-1] = "quantize.keep_float=['x']"
    assert main(["finetune", str(path), "--set", f"output={tmp_path}/other", *sets]) == 2
    assert "no layer is called 'x'" in capsys.readouterr().err


def test_a_classifier_learns_and_its_predictions_score_as_reported(
    tmp_path: Path, vocabulary: Path, words: list[str], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sentiment(tmp_path, vocabulary, words)
    assert main(["finetune", str(path)]) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())["dev"]
    assert metrics["accuracy"] > 0.9
    capsys.readouterr()
    command = ["score", "sst-2", "--data", f"{tmp_path}/dev.tsv", "--json"]
    assert main([*command, "--predictions", f"{tmp_path}/run/dev-predictions.tsv"]) == 0
    assert json.loads(capsys.readouterr().out) == metrics
    evaluate = tmp_path / "evaluate.toml"
    evaluate.write_text(f"""
task = "sst-2"
model = {{ folder = "{tmp_path}/run/model" }}
device = "cpu"
data = {{ vocabulary = "{vocabulary}", dev = "{tmp_path}/dev.tsv", sequence_length = 48 }}
""")
    assert main(["evaluate", str(evaluate)]) == 0
    assert json.loads(capsys.readouterr().out)["dev"] == metrics
    quantized: list[Any] = []
    monkeypatch.setattr("model.quantize.fake_quantized", lambda model: quantized.append(model) or fake_quantized(model))
    assert main(["evaluate", str(evaluate), "--set", "quantize=int8"]) == 0
    assert len(quantized) == 1
    assert json.loads(capsys.readouterr().out)["dev"]["accuracy"] > 0.85
    rows = [line.split("\t")[0] for line in (tmp_path / "dev.tsv").read_text().splitlines()[1:]]
    (tmp_path / "test.tsv").write_text("index\tsentence\n" + "".join(f"{i}\t{row}\n" for i, row in enumerate(rows)))
    sets = [f"data.test={tmp_path}/test.tsv", "data.dev=''", "data.vocabulary=''", f"output={tmp_path}"]
    assert main(["evaluate", str(evaluate), *(word for text in sets for word in ("--set", text))]) == 0
    assert (tmp_path / "SST-2.tsv").read_text() == (tmp_path / "run/dev-predictions.tsv").read_text()
    vocabulary.with_name("other.txt").write_text(vocabulary.read_text() + "other\n")
    assert main(["evaluate", str(evaluate), "--set", f"data.vocabulary={vocabulary.with_name('other.txt')}"]) == 2
    assert "was trained with another vocabulary" in capsys.readouterr().err


def test_a_student_learns_a_task_from_a_teacher_of_another_shape(
    tmp_path: Path, vocabulary: Path, words: list[str], small: Callable, capsys: pytest.CaptureFixture
) -> None:
    """Without a label: alpha is 0."""
    path = sentiment(tmp_path, vocabulary, words)
    assert main(["finetune", str(path), "--set", f"output={tmp_path}/teacher"]) == 0
    own = json.loads((tmp_path / "start/config.json").read_text())["vocab_size"]
    student = small("mobilebert", num_hidden_layers=1, vocab_size=own, attention_dropout=0.0)
    save_checkpoint(create(student, "mlm", 3), tmp_path / "student")
    taught = f"model.folder={tmp_path}/student teacher.folder={tmp_path}/teacher/model teacher.alpha=0"
    sets = [word for text in taught.split() for word in ("--set", text)]
    assert main(["finetune", str(path), *sets]) == 0
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
    assert log[-1]["loss"] == pytest.approx(log[-1]["kd"])
    assert json.loads((tmp_path / "run/metrics.json").read_text())["dev"]["accuracy"] > 0.9
    settings = tmp_path / "teacher/model/config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps(content | {"id2label": {"0": "1", "1": "0"}}))
    capsys.readouterr()
    assert main(["finetune", str(path), *sets, "--set", f"output={tmp_path}/other"]) == 2
    assert "numbers its labels 1, 0, sst-2 0, 1" in capsys.readouterr().err
    assert main(["finetune", str(path), *sets, "--set", f"teacher.folder={tmp_path}/student"]) == 2
    assert "has no sequence-classification head" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["Roberta", "Electra"])
def test_a_teacher_of_another_family_reads_its_own_tokens(
    family: str, tmp_path: Path, vocabulary: Path, words: list[str], byte_level_bpe: Callable
) -> None:
    """RoBERTa's byte-level BPE beside the student's WordPiece; ELECTRA with the student's own vocabulary."""
    import transformers

    path, longest = sentiment(tmp_path, vocabulary, words), 60
    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 300}
    sizes |= {"max_position_embeddings": longest + 2, "intermediate_size": 32, "pad_token_id": 1}
    if family == "Roberta":
        byte_level_bpe(tmp_path / "theirs/tokenizer.json")
    else:
        (tmp_path / "theirs").mkdir()
        shutil.copy(vocabulary, tmp_path / "theirs/vocab.txt")
        own = json.loads((tmp_path / "start/config.json").read_text())["vocab_size"]
        sizes |= {"vocab_size": own, "embedding_size": 16, "pad_token_id": 0}
    torch.manual_seed(0)
    made = getattr(transformers, f"{family}Config")(**sizes, id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1})
    theirs = getattr(transformers, f"{family}ForSequenceClassification")(made).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    sets = [f"teacher.folder={tmp_path}/theirs", "teacher.alpha=0", "train.log_every=1", "epochs=0.2"]
    assert main(["finetune", str(path), *(word for text in sets for word in ("--set", text))]) == 0
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
    assert log[-1]["loss"] == pytest.approx(log[-1]["kd"])

    student = load_checkpoint(tmp_path / "run/model")
    teacher = load_teacher(TaskTeacher(str(tmp_path / "theirs")), student, "sst-2", vocabulary)
    examples = [Example(" ".join(words[:n]), words[5], 1.0, "") for n in (2, 6)]
    tokenizer = read_vocabulary(vocabulary)
    batches = RowBatches(
        teacher.read(encode_examples(tokenizer, examples, 20), examples), tokenizer, 20, 0, teacher.pad
    )
    (batch,) = batches.in_order(2)
    if family == "Roberta":
        loaded = transformers.PreTrainedTokenizerFast(
            tokenizer_file=str(tmp_path / "theirs/tokenizer.json"), pad_token="<pad>"
        )
        asked = loaded([e.first for e in examples], [e.second for e in examples], padding=True, return_tensors="pt")
        assert torch.equal(batch["teacher_input_ids"], asked["input_ids"])
        assert torch.equal(batch["teacher_attention_mask"], asked["attention_mask"])
        asked = {"input_ids": asked["input_ids"], "attention_mask": asked["attention_mask"]}
    else:
        assert "teacher_input_ids" not in batch
        asked = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        assert torch.allclose(teacher(batch)["logits"], theirs(**asked).logits, atol=1e-6)
    if family == "Roberta":
        with pytest.raises(ModelError, match="has another vocabulary: it cannot say where the student's answers are"):
            load_teacher(TaskTeacher(str(tmp_path / "theirs")), student, "squad-v1.1", vocabulary)
        (tmp_path / "theirs/tokenizer.json").unlink()
        (tmp_path / "theirs/vocab.txt").write_text(vocabulary.read_text() + "other\n")
        assert load_teacher(TaskTeacher(str(tmp_path / "theirs")), student, "sst-2", vocabulary).tokenizer is not None


def test_the_teachers_loss_is_its_equation() -> None:
    task = Taught(Classification(torch.nn.Identity()), torch.nn.Identity(), 0.3, 2.0)  # type: ignore[arg-type]
    theirs, ours = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]), np.array([[0.2, 0.1, -1.0], [2.0, 0.0, 0.0]])
    p, q = (np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True) for x in (theirs, ours))
    expected = 4 * (p * np.log(p / q)).sum(1).mean()
    assert float(task.teach(torch.tensor(theirs), torch.tensor(ours))) == pytest.approx(expected, rel=1e-5)
    assert float(task.teach(torch.tensor([[1.0]]), torch.tensor([[3.0]]))) == 4.0  # a score's


def test_a_teachers_temperature_is_above_zero_and_its_share_one_at_most() -> None:
    for alpha, temperature in ((0.0, 0.5), (1.0, 1e-3)):
        TaskTeacher(alpha=alpha, temperature=temperature)
    for alpha, temperature in ((-0.1, 2.0), (1.1, 2.0), (0.5, 0.0), (0.5, -1.0)):
        with pytest.raises(ModelError, match=r"alpha.*temperature"):
            TaskTeacher(alpha=alpha, temperature=temperature)


def test_a_sweep_tries_every_combination_and_scores_are_regression(
    tmp_path: Path,
    vocabulary: Path,
    words: list[str],
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    rows = "".join(f"{i}\tg\tf\ty\t0\ts\ts\t{words[i]} {words[1]}\t{words[2]}\t{i % 6}.0\n" for i in range(16))
    (tmp_path / "all.tsv").write_text(header + rows)
    path = config(tmp_path, vocabulary, "sts-b", train=f"{tmp_path}/all.tsv", dev=f"{tmp_path}/all.tsv")
    sets = ["--set", "epochs=1", "--set", "sweep.batch_size=[4, 8]", "--set", "sweep.learning_rate=[1e-3, 1e-4]"]
    assert main(["finetune", str(path), *sets]) == 0
    said = capsys.readouterr()
    made = sorted(p.parent.name for p in (tmp_path / "run").glob("*/metrics.json"))
    assert made[0] == "batch-4-rate-0.0001-epochs-1"
    assert len(made) == 4
    assert "run 4 of 4: batch size 8, learning rate 0.0001, 1 epochs" in said.err
    assert "fine-tuning: loss" in said.err
    ranking = json.loads((tmp_path / "run/sweep.json").read_text())["runs"]
    assert [r["metric"] for r in ranking] == sorted((r["metric"] for r in ranking), reverse=True)
    best = ranking[0]["folder"]
    assert said.out.splitlines()[-1].startswith(f"{tmp_path}/run/{best}/model: ")
    assert len(said.out.splitlines()) == 1 + 4 + 1
    assert load_checkpoint(tmp_path / "run" / best / "model").config.num_labels == 1
    left = [p for name in ("model", "checkpoints") for p in (tmp_path / "run").glob(f"*/{name}")]
    assert {p.parent.name for p in left} == {best}  # the others' weights are gone
    before = (tmp_path / "run" / made[0] / "metrics.json").stat().st_mtime_ns
    assert main(["finetune", str(path), *sets]) == 0  # nothing is trained twice
    assert (tmp_path / "run" / made[0] / "metrics.json").stat().st_mtime_ns == before
    assert capsys.readouterr().out == said.out
    monkeypatch.setenv("RANK", "1")  # the second of torchrun's processes
    assert main(["finetune", str(path), *sets]) == 0
    assert capsys.readouterr() == ("", "")


def test_halving_tries_everything_briefly_and_the_best_third_longer(
    tmp_path: Path, vocabulary: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sentiment(tmp_path, vocabulary, words)
    sets = ["sweep.batch_size=[16, 32]", "sweep.learning_rate=[1e-5, 2e-5, 3e-5]", "sweep.epochs=[2, 3, 5, 6, 8, 10]"]
    ran: list[tuple[int, float, float]] = []

    def run_once(run: FinetuneConfig) -> dict:
        ran.append((run.train.batch_size, run.train.learning_rate, run.epochs))
        return {"dev": {"accuracy": run.train.learning_rate * 1e4 + run.train.batch_size / 1000}}

    forgotten: list[Path] = []
    monkeypatch.setattr("model.recipes.finetune._forget_weights", forgotten.append)
    monkeypatch.setattr("model.recipes.finetune.run_once", run_once)
    said = sweep(read(path, FinetuneConfig, sets))
    best = Path(said.splitlines()[-1].partition("/model: ")[0])
    assert best not in forgotten
    assert len({*forgotten}) == len({folder.name for folder in forgotten}) == 8  # all others'
    assert sorted(ran[:6]) == sorted((size, rate, 2) for size in (16, 32) for rate in (1e-5, 2e-5, 3e-5))
    assert ran[6:] == [(32, 3e-5, 6), (16, 3e-5, 6), (32, 3e-5, 10)]
    ran.clear()
    sweep(read(path, FinetuneConfig, [*sets, "sweep.halving=false"]))
    assert len(set(ran)) == 36


def finished(folder: Path, task: str, metrics: dict, *predictions: str) -> Path:
    folder.mkdir()
    (folder / "made-from.json").write_text(json.dumps({"task": task}))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    for name in predictions:
        (folder / name).write_text(f"index\tprediction\n0\t{task}\n")
    return folder


def test_the_glue_score_is_the_mean_of_eight_tasks_and_a_submission_has_all_files(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    metrics = {
        "cola": {"matthews": 0.5}, "sst-2": {"accuracy": 0.9}, "mrpc": {"accuracy": 0.8, "f1": 0.9},
        "sts-b": {"pearson": 0.8, "spearman": 0.7}, "qqp": {"accuracy": 0.9, "f1": 0.7}, "qnli": {"accuracy": 0.88},
        "rte": {"accuracy": 0.6},
    }  # fmt: skip
    folders = [
        finished(tmp_path / task, task, {"dev": values}, f"{'CoLA' if task == 'cola' else task.upper()}.tsv")
        for task, values in metrics.items()
    ]
    assert main(["glue", *map(str, folders)]) == 0
    assert "no GLUE score: mnli missing" in capsys.readouterr().out
    zipped = tmp_path / "submission.zip"
    assert main(["glue", *map(str, folders), "--submission", str(zipped)]) == 2
    assert "a submission needs all tasks: mnli missing" in capsys.readouterr().err
    both = {"dev": {"accuracy": 0.84}, "dev_mismatched": {"accuracy": 0.82}}
    run = finished(tmp_path / "best", "mnli", both, "MNLI-m.tsv", "MNLI-mm.tsv")
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": [{"folder": "best", "metric": 0.83}]}))
    folders.append(tmp_path)  # a sweep stands for its best run
    assert main(["glue", *map(str, folders), "--submission", str(zipped)]) == 2
    assert "AX.tsv is not there: evaluate with data.test, data.test_mismatched, data.diagnostic" in (
        capsys.readouterr().err
    )
    assert not zipped.exists()
    (run / "AX.tsv").write_text("index\tprediction\n")
    assert main(["glue", *map(str, folders), "--submission", str(zipped), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["mnli"] == pytest.approx(83.0)
    assert scores["glue"] == pytest.approx((50 + 90 + 85 + 75 + 80 + 83 + 88 + 60) / 8)
    with zipfile.ZipFile(zipped) as archive:
        names = ["AX", "CoLA", "MNLI-m", "MNLI-mm", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B", "WNLI"]
        assert sorted(archive.namelist()) == [f"{name}.tsv" for name in names]
        wnli = archive.read("WNLI.tsv").decode().splitlines()
    assert wnli[0] == "index\tprediction"
    assert wnli[1:] == [f"{i}\t0" for i in range(146)]
    assert main(["glue", str(run), str(run)]) == 2
    assert "are both of mnli" in capsys.readouterr().err
    assert main(["glue", str(tmp_path / "nothing")]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_results_are_not_handed_to_a_run_of_other_settings_data_or_model(
    tmp_path: Path, vocabulary: Path, words: list[str], capsys: pytest.CaptureFixture
) -> None:
    path = sentiment(tmp_path, vocabulary, words)
    assert main(["finetune", str(path), "--set", "epochs=1"]) == 0
    kept = (tmp_path / "run/metrics.json").read_bytes()
    (tmp_path / "other.tsv").write_text((tmp_path / "dev.tsv").read_text() + f"{words[0]}\t1\n")
    save_checkpoint(create(TINY, "mlm", 2), tmp_path / "other")
    for changed, name in (
        ("epochs=2", "epochs (1.0 then, 2.0 now)"),
        ("task=rte", "task (sst-2 then, rte now)"),
        ("train.learning_rate=1e-3", "train.learning_rate"),
        ("quantize.precision=int8", "quantize.precision"),
        (f"data.dev={tmp_path}/other.tsv", "data.dev"),
        (f"model.folder={tmp_path}/other", "model.folder"),
    ):
        capsys.readouterr()
        assert main(["finetune", str(path), "--set", "epochs=1", "--set", changed]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"run holds a run with another {name}" in line
        assert (tmp_path / "run/metrics.json").read_bytes() == kept
    same = ["--set", "epochs=1", "--set", "train.log_every=1", "--set", f"data.dev={tmp_path}/./dev.tsv"]
    assert main(["finetune", str(path), *same]) == 0
    (tmp_path / "run/made-from.json").unlink()
    assert main(["finetune", str(path), "--set", "epochs=1"]) == 2
    assert "holds the results of an unknown run" in capsys.readouterr().err


def test_a_runs_settings_are_compared_before_its_checkpoint_is_read(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/step-00000001.pt").write_bytes(b"cut short")
    (tmp_path / "made-from.json").write_text('{"epochs": 3.0}')
    claim(tmp_path, {"epochs": 3.0})
    with pytest.raises(ModelError, match=r"holds a run with another epochs \(3\.0 then, 4\.0 now\)"):
        claim(tmp_path, {"epochs": 4.0})


def test_each_file_without_labels_is_predicted_into_the_servers_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluating, "predict_glue", lambda model, examples, *_: [2.0] * len(examples))
    given: Any = None
    for count, name in enumerate(("test", "test_mismatched", "diagnostic"), 1):
        rows = "".join(f"{i}\ta\tb\n" for i in range(count))
        (tmp_path / name).write_text("index\tsentence1\tsentence2\n" + rows)
    three = TaskData(**{name: str(tmp_path / name) for name in ("test", "test_mismatched", "diagnostic")})
    assert evaluating.evaluate_task(given, "mnli", three, tmp_path, 8) == {}
    for count, file in enumerate(("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"), 1):
        answers = "".join(f"{i}\tneutral\n" for i in range(count))
        assert (tmp_path / file).read_text() == "index\tprediction\n" + answers
    for task, output, said in (
        ("rte", tmp_path, "data.diagnostic is predicted by the model of mnli"),
        ("mnli", None, "and needs an output folder"), ("squad-v1.1", tmp_path, "data.test is for the tasks of GLUE"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=said):
            evaluating.evaluate_task(given, task, three, output, 8)


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_answers_are_learnt_from_windows(version: str, tmp_path: Path, vocabulary: Path, words: list[str]) -> None:
    rng, qas = random.Random(0), []
    paragraphs = []
    for i in range(24):
        context = " ".join(rng.choices(words[5:], k=40))
        answer = context.split()[7]
        qas = [
            {"id": f"{i}", "question": words[0], "answers": [{"text": answer, "answer_start": context.find(answer)}]}
        ]
        paragraphs.append({"context": context, "qas": qas})
    if version == "2.0":
        paragraphs[0]["qas"][0] |= {"answers": [], "is_impossible": True}
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    file = f"{tmp_path}/squad.json"
    path = config(tmp_path, vocabulary, f"squad-v{version}", train=file, dev=file)
    assert main(["finetune", str(path), "--set", "epochs=1", "--set", "data.stride=8"]) == 0
    files = {"dev-predictions.json", "dev-n-best.json"} | ({"dev-null-odds.json"} if version == "2.0" else set())
    assert {p.name for p in (tmp_path / "run").glob("dev-*")} == files
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())["dev"]
    if version == "1.1":
        assert set(metrics) == {"exact_match", "f1"}
    else:
        assert metrics.keys() >= {"exact", "f1", "NoAns_exact", "best_exact", "best_f1_thresh"}
        assert (metrics["total"], metrics["NoAns_total"]) == (24, 1)


def perfect(made: list, targets: list) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits that point where training would have them point."""
    logits = []
    for window, target in zip(made, targets, strict=True):
        size = window.offset + len(window.row.second) + 1
        start, end = np.zeros(size), np.zeros(size)
        start[int(target.row.targets["start"])] = end[int(target.row.targets["end"])] = 5.0
        logits.append((start, end))
    return logits


def test_windows_of_real_paragraphs_give_the_answers_back() -> None:
    if not (SQUAD.exists() and VOCABULARY.exists()):
        pytest.skip(f"{SQUAD} is not here")
    tokenizer, settings = read_vocabulary(VOCABULARY), SpanSettings(stride=40)
    questions = squad.read_questions(SQUAD)[:600]
    made = windows(tokenizer, questions, 128, settings)
    assert len(made) > 1.5 * len(questions)
    assert all(len(w.row.first) + len(w.row.second or []) + 3 <= 128 for w in made)
    targets = windows(tokenizer, questions, 128, settings, training=True)
    answers, null = best_answers(questions, made, perfect(made, targets), settings)
    predictions, odds = final_answers(questions, answers, null, "2.0", settings)
    result = squad.score(questions, predictions, "2.0", odds)
    assert result["NoAns_exact"] == 100
    assert result["HasAns_f1"] > 97  # tokens are words' parts: "1990" of "1990s" comes back whole
    assert all(sum(a.probability for a in ranked) == pytest.approx(1) for ranked in answers if ranked)
    assert all(len(ranked) <= settings.best for ranked in answers)


def test_a_window_teaches_the_answers_that_it_holds_whole(vocabulary: Path, words: list[str]) -> None:
    tokenizer, context, seen = read_vocabulary(vocabulary), " ".join(words[5:45]), set()
    for first in range(37):
        answer = " ".join(words[5 + first : 8 + first])
        begin = len(" ".join(words[5 : 5 + first])) + (first > 0)
        question = Question("q", words[5], context, (answer,), (begin,))
        for window in windows(tokenizer, [question], 24, SpanSettings(stride=10), training=True):
            assert window.offset == len(window.row.first) + 2  # [CLS] question [SEP]
            held = [i for i, (a, b) in enumerate(window.characters) if a < begin + len(answer) and b > begin]
            low, high = window.characters[0][0], window.characters[-1][1]
            whole = bool(held) and low <= begin and begin + len(answer) <= high
            seen.add((whole, len(held) > 0))
            wanted = (held[0] + window.offset, held[-1] + window.offset) if whole else (0, 0)
            assert (window.row.targets["start"], window.row.targets["end"]) == wanted
    assert seen == {(True, True), (False, True), (False, False)}


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [(9, None, (6, None)), (9, 2, (3, 2)), (2, 9, (2, 3)), (9, 9, (2, 3)), (9, 8, (3, 2)), (3, 2, (3, 2))],
)
def test_a_row_is_as_long_as_fits(
    first: int, second: int | None, kept: tuple[int, int | None], vocabulary: Path
) -> None:
    example = Example("." * first, None if second is None else "." * second, None, "0")
    (row,) = encode_examples(read_vocabulary(vocabulary), [example], 8)
    assert (len(row.first), None if row.second is None else len(row.second)) == kept


def test_pairs_are_cut_as_tokenizers_cuts_them(vocabulary: Path, words: list[str]) -> None:
    """As the app's tokenizer does."""
    from tokenizers import processors

    tokenizer, rng = read_vocabulary(vocabulary), random.Random(0)
    texts = [" ".join(rng.choices(words, k=rng.randrange(1, 16))) for _ in range(200)]
    examples = [Example(a, b, None, "0") for a, b in zip(texts[::2], texts[1::2], strict=True)]
    rows = encode_examples(tokenizer, examples, 20)
    ends = [(piece, tokenizer.token_to_id(piece)) for piece in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.enable_truncation(20)
    wanted = tokenizer.encode_batch([(example.first, example.second) for example in examples])
    assert sum(len(encoding.ids) == 20 for encoding in wanted) > 30
    batches = RowBatches(rows, tokenizer, 20)
    for encoding, row in zip(wanted, rows, strict=True):
        assert batches.collate([row])["input_ids"][0].tolist() == encoding.ids


@pytest.mark.parametrize("pad", [0, None])
def test_a_text_is_the_same_in_a_batch_with_longer_ones(
    vocabulary: Path, words: list[str], pad: int | None, tmp_path: Path
) -> None:
    """Of a model that reads each token's neighbours: what was trained is what a library computes, without padding."""
    begin = create(replace(TINY, pad_token_id=pad), "none", 1)
    torch.nn.init.normal_(begin.encoder.embeddings.word.weight)
    save_checkpoint(begin, tmp_path / "begin")
    shutil.copy(vocabulary, tmp_path / "begin/vocab.txt")
    train = tmp_path / "train.tsv"
    lines = [f"{' '.join(words[i : i + 1 + i % 7])}\t{i % 2}" for i in range(40)]
    train.write_text("\n".join(["sentence\tlabel", *lines, ""]))
    sets = {"model.folder": tmp_path / "begin", "data.train": train, "data.dev": train, "output": tmp_path / "run"}
    sets |= {"data.sequence_length": 16, "epochs": 2, "train.learning_rate": 1e-2}
    given = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    assert main(["finetune", "configs/finetune-reviews.toml", *given]) == 0
    model = load_checkpoint(tmp_path / "run/model").eval()
    ids = torch.tensor([[2, 50, 60, 3]])
    padded = torch.cat([ids, torch.zeros(1, 5, dtype=torch.int64)], 1)
    with torch.no_grad():
        alone = model(ids, torch.ones_like(ids), torch.zeros_like(ids))["logits"]
        together = model(padded, (torch.arange(9)[None] < 4).long(), torch.zeros_like(padded))["logits"]
    assert torch.allclose(alone, together, atol=1e-6) == (pad is not None)


def test_the_extremes_of_a_row_are_exact_in_int8() -> None:
    weight = torch.tensor([[-1.27, 0.6, 0.014], [0.0, 0.0, 0.0]])
    assert torch.allclose(round_weight(weight), torch.tensor([[-1.27, 0.6, 0.01], [0.0, 0.0, 0.0]]), atol=1e-6)
    rows = torch.tensor([[1.0, 2.54, 1.004], [-1.0, -2.54, -0.5], [-1.27, 1.27, 0.0]])
    wanted = torch.tensor([[1.0, 2.54, 1.0], [-1.0, -2.54, -0.5], [-1.27, 1.27, 0.0]])
    assert torch.allclose(round_rows(rows), wanted, atol=1e-6)


def test_every_token_is_fullest_in_one_window_and_answers_may_not_be_long(vocabulary: Path, words: list[str]) -> None:
    tokenizer = read_vocabulary(vocabulary)
    context = " ".join(words[:60])
    question = Question("q", words[0], context, (words[3],), (context.find(words[3]),))
    made = windows(tokenizer, [question], 40, SpanSettings(stride=10))
    tokens = len(tokenizer.encode(context, add_special_tokens=False).ids)
    assert sum(sum(w.fullest) for w in made) == tokens
    size = made[0].offset + len(made[0].characters) + 1
    start, end = np.zeros(size), np.zeros(size)
    start[made[0].offset], end[made[0].offset + 20] = 9.0, 9.0
    for length, score in ((5, 9.0), (20, 9.0), (21, 18.0)):  # that answer is 21 tokens long
        settings = SpanSettings(stride=10, answer_length=length)
        (ranked,), _ = best_answers([question], made[:1], [(start, end)], settings)
        assert ranked[0].score == score


def test_the_score_of_no_answer_is_the_least_of_a_questions_windows(vocabulary: Path, words: list[str]) -> None:
    context = " ".join(words[:60])
    questions = [Question(name, words[0], context, (), ()) for name in ("a", "b")]
    made = windows(read_vocabulary(vocabulary), questions, 40, SpanSettings(stride=10))
    first = [window.question for window in made].count(0)
    scores = [3.0, -1.0, *[2.0] * (first - 2), *[7.0] * (len(made) - first)]
    logits = []
    for window, score in zip(made, scores, strict=True):
        start = np.full(window.offset + len(window.characters) + 1, -9.0)
        start[0] = score / 2
        logits.append((start, start.copy()))
    assert best_answers(questions, made, logits, SpanSettings())[1] == [-1.0, 7.0]


@pytest.mark.parametrize(
    ("spans", "token", "window"),
    [
        ([(0, 10), (4, 14), (8, 12)], 6, 0),
        ([(0, 10), (4, 14), (8, 12)], 7, 1),
        ([(0, 10), (4, 14), (8, 12)], 10, 1),
        ([(0, 4), (4, 8)], 3, 0),
        ([(0, 4), (4, 8)], 4, 1),
        ([(0, 9), (4, 14)], 6, 1),  # as full in both, and the second is longer
        ([(0, 9), (4, 12)], 6, 0),
        ([(0, 9), (4, 24)], 5, 0),  # not where it is merely longer
        ([(0, 300), (252, 302)], 301, 1),  # nor where it is much longer and ends before the token
        ([(0, 50), (2, 302)], 1, 0),  # or begins behind it
    ],
)
def test_a_tokens_fullest_window(spans: list[tuple[int, int]], token: int, window: int) -> None:
    assert _fullest(spans, token) == window


def test_no_answer_wins_by_more_than_the_threshold(vocabulary: Path) -> None:
    question = Question("q", "?", "text", (), ())
    from model.finetune.spans import Answer

    for threshold, expected in ((0.0, ""), (2.0, "text")):
        settings = SpanSettings(null_threshold=threshold)
        predictions, odds = final_answers([question], [[Answer("text", 4.0)]], [5.0], "2.0", settings)
        assert (predictions, odds) == ({"q": expected}, {"q": 1.0})
    assert final_answers([question], [[Answer("text", 4.0)]], [5.0], "1.1", SpanSettings())[0] == {"q": "text"}


def test_batches_pad_to_their_longest_and_epochs_visit_every_row(vocabulary: Path) -> None:
    tokenizer = read_vocabulary(vocabulary)
    rows = [Row([10 + i], [20] * i if i else None, {"label": i}) for i in range(5)]
    batches = RowBatches(rows, tokenizer, 16, seed=1)
    seen = torch.cat([batches.batch(k, 0, 1, 5)["label"] for k in range(2)]).tolist()
    assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))
    assert seen[:5] != seen[5:]
    assert batches.batch(0, 0, 1, 5)["label"].tolist() == seen[:5]  # an epoch before the last one asked for
    (batch,) = batches.in_order(5)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    assert batch["input_ids"][0].tolist() == [cls, 10, sep, 0, 0, 0, 0, 0]
    assert batch["input_ids"][2].tolist() == [cls, 12, sep, 20, 20, sep, 0, 0]
    assert batch["token_type_ids"][2].tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5, 6, 7, 8]


def test_fake_quantisation_is_close_and_leaves_no_trace(randomized: Callable, inputs: Callable) -> None:
    module = randomized(TINY)
    arguments = inputs(TINY)
    with torch.no_grad():
        exact = module(**arguments)["last_hidden_state"]
        with fake_quantized(module):
            rounded = module(**arguments)["last_hidden_state"]
        assert torch.equal(module(**arguments)["last_hidden_state"], exact)
    error = (rounded - exact).norm() / exact.norm()
    assert 1e-5 < error < 0.05


def test_attention_maps_are_drawn(tmp_path: Path, vocabulary: Path, corpus: Path) -> None:
    pytest.importorskip("matplotlib")
    save_checkpoint(create(TINY, "mlm", 1), tmp_path / "model")
    path = tmp_path / "maps.toml"
    path.write_text(f"""
output = "{tmp_path}/maps.png"
vocabulary = "{vocabulary}"
text = "{corpus.read_text().splitlines()[0][:40]}"
models = {{ teacher = "{tmp_path}/model", student = "{tmp_path}/model" }}
""")
    assert main(["attention-maps", str(path)]) == 0
    assert (tmp_path / "maps.png").read_bytes().startswith(b"\x89PNG")
    assert main(["attention-maps", str(path), "--set", "layers=[1, 2]"]) == 0
    for layer in (0, 3):
        assert main(["attention-maps", str(path), "--set", f"layers=[1, {layer}]"]) == 2
    made = load_checkpoint(tmp_path / "model")
    for layer in made.encoder.layers:
        layer.attention.query.weight.data *= 10_000  # random weights attend to all alike
    last, first = _maps(made, [2, 5, 6, 7, 3], [0, 0, 1, 1, 1], (2, 1))
    assert np.array_equal(_maps(made, [2, 5, 6, 7, 3], [0, 0, 1, 1, 1], (1,))[0], first)
    for each in (first, last):
        assert each.shape == (2, 5, 5)
        np.testing.assert_allclose(each.sum(-1), 1, rtol=1e-5)  # of a query over its keys
        assert np.abs(each.sum(1) - 1).max() > 0.01


def test_settings_are_checked(tmp_path: Path, vocabulary: Path, capsys: pytest.CaptureFixture) -> None:
    path = config(tmp_path, vocabulary, "sst-2")
    bad = [
        ("train.stepz=3", "train.stepz is unknown: did you mean steps?"),
        ("train.steps=many", "train.steps is 'many': it must be a whole number"),
        ("train.steps=0", "train.steps is 0: it must be at least 1"),
        ("train.optimizer=sgd", "train.optimizer is 'sgd': choose from 'lamb', 'adamw'"),
        ("epochs", "--set epochs: write it as key=value"),
        ("output.x=1", "output is not a section"),
        ("task=sst", "did you mean sst-2?"),
        ("model.folder=missing", "missing has no config.json"),
        ("model.preset=tinybert", "give the model either a folder or a preset"),
        ("data.vocabulary=missing", "data.train is ''"),
    ]
    for change, message in bad:
        assert main(["finetune", str(path), "--set", change]) == 2, change
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1
    assert read(path, FinetuneConfig, ["train.learning_rate=1"]).train.learning_rate == 1.0
    path.write_text(f"task = 'rte'\noutput = 'x'\nmodel.folder = '{tmp_path}/start'\ndata = {{}}\ntrain.seed = 7\n")
    train = read(path, FinetuneConfig).train
    assert (train.seed, train.optimizer, train.learning_rate) == (7, "adamw", 5e-5)  # fine-tuning's own defaults
    path.write_text("output = \n")
    with pytest.raises(ModelError, match=r"finetune.toml: .*line 1"):
        read(path, FinetuneConfig)
    path.write_text("output = 'x'\n")
    with pytest.raises(ModelError, match=r"finetune.toml: task is missing"):
        read(path, FinetuneConfig)


def test_the_configurations_that_come_with_it_are_valid() -> None:
    from importlib import import_module

    from model.commands.table import CONFIGURED

    files = {file: c for file in Path("configs").glob("*.toml") for c in CONFIGURED if file.name.startswith(c)}
    assert set(files.values()) == set(CONFIGURED)
    for file, command in files.items():
        module = import_module(f"model.recipes.{command.replace('-', '_')}")
        read(file, getattr(module, CONFIGURED[command][1]))


def test_fake_quantisation_computes_what_the_int8_kernels_do() -> None:
    """A linear on rows of all sizes against the reference of the kernels; ties apart, to rounding."""
    from compile.kernels.int8_reference import linear

    torch.manual_seed(0)
    layer = torch.nn.Linear(96, 24)
    x = torch.randn(50, 96) * torch.exp(4 * torch.randn(50, 1))
    x[0], x[1] = 0, x[1].abs()
    x[2] *= 0.3 * 2.0**-100 / np.ptp(x[2].numpy())  # below the least range that a row counts as
    with fake_quantized(torch.nn.ModuleList([layer])), torch.no_grad():
        got = layer(x).numpy()
    weight = layer.weight.detach().numpy().T
    scales = np.abs(weight).max(0) / np.float32(127)
    wanted = linear(x.numpy(), np.rint(weight / scales).astype(np.int8), scales, layer.bias.detach().numpy())
    assert np.abs(got - wanted).max() < 1e-2 * np.abs(wanted).max()
    assert np.mean(np.abs(got - wanted) > 1e-5 * np.abs(wanted).max(1, keepdims=True)) < 0.05


def test_gradients_go_straight_through_rounding() -> None:
    layer = torch.nn.Linear(8, 3)
    x = torch.randn(5, 8, requires_grad=True)
    with fake_quantized(torch.nn.ModuleList([layer])):
        layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert x.grad is not None
    rounded = round_weight(layer.weight).detach()
    assert torch.allclose(x.grad, rounded.sum(0).expand(5, 8))
    assert torch.allclose(layer.weight.grad, round_rows(x).detach().sum(0).expand(3, 8), atol=1e-5)


def test_layers_that_stay_float_are_named(randomized: Callable) -> None:
    layers = torch.nn.ModuleDict({"a": torch.nn.Linear(4, 4), "classifier": torch.nn.Linear(4, 2)})
    x = torch.randn(3, 4)
    exact = {name: layer(x) for name, layer in layers.items()}
    with fake_quantized(layers, ["class*"]):
        assert torch.equal(layers["classifier"](x), exact["classifier"])
        assert not torch.equal(layers["a"](x), exact["a"])
    with (
        pytest.raises(ModelError, match="keep_float: no layer is called 'clasifier'"),
        fake_quantized(layers, ["clasifier"]),
    ):
        pass
