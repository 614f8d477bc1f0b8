import json
from pathlib import Path

import numpy as np
import pytest

from model import ModelError
from model.__main__ import main
from model.finetune import glue, squad
from model.finetune.metrics import compute

GLUE, SQUAD = Path("../shared/data/glue"), Path("../shared/data/squad")
ROWS = {"SST-2": (67349, 872), "CoLA": (8551, 1043), "MRPC": (3667, 408), "STS-B": (5749, 1500), "RTE": (2490, 277)}


@pytest.mark.parametrize("name", [*ROWS, "QNLI"])
def test_original_files_read_whole(name: str) -> None:
    if not (GLUE / name).exists():
        pytest.skip(f"{GLUE / name} is not here")
    task = glue.TASKS[name.lower()]
    for file, count in zip(("train", "dev"), ROWS.get(name, (None, 5463)), strict=True):
        if count is None:
            continue
        examples = glue.read_examples(task, GLUE / name / f"{file}.tsv")
        assert len(examples) == count
        assert len({e.label for e in examples}) >= 2
        assert all(e.first and (e.second is None) == (len(task.columns) == 1) for e in examples)


def test_metrics_are_their_definitions() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    tp, tn = int(((y == 1) & (p == 1)).sum()), int(((y == 0) & (p == 0)).sum())
    fp, fn = int(((y == 0) & (p == 1)).sum()), int(((y == 1) & (p == 0)).sum())
    got = compute(("accuracy", "f1", "matthews"), y, p)
    assert got["accuracy"] == pytest.approx((tp + tn) / 60)
    assert got["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn))
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert got["matthews"] == pytest.approx((tp * tn - fp * fn) / root)
    a, b = rng.normal(size=40), rng.normal(size=40)
    pearson = lambda x, z: ((x - x.mean()) * (z - z.mean())).mean() / x.std() / z.std()  # noqa: E731
    rank = lambda x: x.argsort().argsort().astype(float)  # noqa: E731
    got = compute(("pearson", "spearman"), a, b)
    assert got == pytest.approx({"pearson": pearson(a, b), "spearman": pearson(rank(a), rank(b))})
    assert compute(("pearson", "matthews"), [0, 1, 1], [1, 1, 1]) == {"pearson": 0, "matthews": 0}
    assert compute(("f1", "accuracy"), [0, 0], [0, 0]) == {"f1": 0, "accuracy": 1}  # nothing to find, nothing found


@pytest.mark.parametrize(
    ("truth", "predicted", "exact", "f1_v1", "f1_v2"),
    [
        ("The Cat's hat!", "cats  hat", 1, 1, 1),
        ("an apple a day", "apple", 0, 2 / 3, 2 / 3),
        ("to be or not to be", "to be to", 0, 2 * (1 * 0.5) / 1.5, 2 * (1 * 0.5) / 1.5),
        ("the", "a", 1, 0, 1),  # nothing is left of either
        ("", "cat", 0, 0, 0),
        ("naïve", "naive", 0, 0, 0),
        ("$3.5 million", "35 million", 1, 1, 1),
        ("theatre", "re theat", 0, 0, 0),
        ("—", "–", 0, 0, 0),  # punctuation beyond ASCII counts
    ],
)
def test_exact_match_and_f1(truth: str, predicted: str, exact: float, f1_v1: float, f1_v2: float) -> None:
    assert squad.exact(truth, predicted) == exact
    assert squad.f1(truth, predicted, "1.1") == pytest.approx(f1_v1)
    assert squad.f1(truth, predicted, "2.0") == pytest.approx(f1_v2)


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def data(*questions: tuple[str, list[str]]) -> dict:
    qas = [
        {"id": name, "question": "?", "answers": [{"text": a, "answer_start": 0} for a in answers],
         "is_impossible": not answers}
        for name, answers in questions
    ]  # fmt: skip
    return {"data": [{"paragraphs": [{"context": "x", "qas": qas}]}]}


def test_squad_2_counts_unanswerable_questions_and_finds_thresholds(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = write(tmp_path / "d.json", data(("a", ["one two", "two"]), ("b", []), ("c", ["red"]), ("d", [])))
    predictions = write(tmp_path / "p.json", {"a": "two", "b": "wrong", "c": "red cat", "d": ""})
    odds = write(tmp_path / "o.json", {"a": -2.0, "b": 3.0, "c": 1.0, "d": 4.0})
    command = ["score", "squad-v2.0", "--data", str(file), "--predictions", str(predictions), "--json"]
    third = 100 * 2 / 3
    best = {
        "best_exact": 75, "best_exact_thresh": -2.0,  # nothing is answered but a
        "best_f1": (300 + third) / 4, "best_f1_thresh": 1.0,  # and c
    }  # fmt: skip
    as_predicted = {
        "exact": 50, "f1": (100 + 0 + third + 100) / 4, "total": 4,
        "HasAns_exact": 50, "HasAns_f1": (100 + third) / 2, "HasAns_total": 2,
        "NoAns_exact": 50, "NoAns_f1": 50, "NoAns_total": 2,
    }  # fmt: skip
    without_b = as_predicted | {"exact": 75, "f1": (300 + third) / 4, "NoAns_exact": 100, "NoAns_f1": 100}
    for more, expected in (
        ([], as_predicted),
        (["--null-odds", str(odds)], without_b | best),  # above 1, as the official script has it
        (["--null-odds", str(odds), "--null-threshold", "5"], as_predicted | best),
    ):
        assert main([*command, *more]) == 0
        assert json.loads(capsys.readouterr().out) == pytest.approx(expected)


def test_squad_1_counts_missing_answers_as_wrong(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = write(tmp_path / "d.json", data(("a", ["x", "y"]), ("b", ["z"])))
    predictions = write(tmp_path / "p.json", {"a": "Y."})
    assert main(["score", "squad-v1.1", "--data", str(file), "--predictions", str(predictions)]) == 0
    out = capsys.readouterr().out
    assert "exact_match              50.0000" in out
    assert "1 questions without a prediction count as wrong" in out


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_the_real_dev_sets_score_their_own_answers_fully(version: str) -> None:
    path = SQUAD / f"dev-v{version}.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    questions = squad.read_questions(path)
    truths = {q.id: next((a for a in q.answers if squad.normalize(a)), "") for q in questions}
    result = squad.score(questions, truths, version)
    assert result["exact_match" if version == "1.1" else "exact"] == 100
    assert len(questions) == {"1.1": 10570, "2.0": 11873}[version]
    if version == "2.0":
        assert result["NoAns_total"] == 5945
    assert all(q.context[s : s + len(a)] == a for q in questions for a, s in zip(q.answers, q.starts, strict=True))


def test_scores_agree_with_torchmetrics() -> None:
    reference = pytest.importorskip("torchmetrics.functional.text", reason="torchmetrics is not installed")
    path = SQUAD / "dev-v1.1.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rng, questions = np.random.default_rng(0), squad.read_questions(path)[::5]
    guesses = {}
    for q in questions:  # four words from where the answer begins, or from anywhere
        words = q.context[q.starts[0] if rng.random() < 0.5 else rng.integers(0, len(q.context)) :].split()
        guesses[q.id] = " ".join(words[:4])
    theirs = reference.squad(
        [{"prediction_text": guesses[q.id], "id": q.id} for q in questions],
        [{"answers": {"text": list(q.answers), "answer_start": list(q.starts)}, "id": q.id} for q in questions],
    )
    ours = squad.score(questions, guesses, "1.1")
    assert ours == pytest.approx({name: float(value) for name, value in theirs.items()}, rel=1e-5)
    assert 1 < ours["exact_match"] < ours["f1"] < 60


def test_a_file_larger_than_a_gibibyte_is_no_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate((1 << 30) + 1)  # of nothing: it takes no place
    with pytest.raises(ModelError, match=r"a\.json is larger than 1024 MiB: not a file of this kind"):
        squad.read_questions(tmp_path / "a.json")


def test_glue_predictions_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    task = glue.TASKS["rte"]
    rows = "".join(f"{i}\ta\tb\t{task.labels[i % 2]}\n" for i in range(6))
    file = write(tmp_path / "dev.tsv", "index\tsentence1\tsentence2\tlabel\n" + rows)
    examples = glue.read_examples(task, file)
    path = glue.write_predictions(task, examples, [0, 1, 0, 0, 0, 0], tmp_path / "RTE.tsv")
    assert path.read_text().splitlines()[:2] == ["index\tprediction", "0\tentailment"]
    assert main(["score", "rte", "--data", str(file), "--predictions", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx({"accuracy": 4 / 6})


def test_mnli_qqp_and_test_files_have_columns_of_their_own(tmp_path: Path) -> None:
    mnli = (
        "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n0\t1\t2\tx\ta\tb\tneutral\tneutral\n"
    )
    assert glue.read_examples(glue.TASKS["mnli"], write(tmp_path / "m", mnli))[0].label == 2
    qqp = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n9\t1\t2\ta\tb\t1\n"
    assert glue.read_examples(glue.TASKS["qqp"], write(tmp_path / "q", qqp))[0].second == "b"
    (example,) = glue.read_examples(glue.TASKS["cola"], write(tmp_path / "c", "index\tsentence\n7\tHi.\n"), False)
    assert (example.first, example.label, example.index) == ("Hi.", None, "7")


HEADER = "index\tsentence1\tsentence2\tlabel\n"
GOOD_P = "index\tprediction\n0\tentailment\n"
BAD = [
    ("rte", HEADER + "0\ta\tb\n", GOOD_P, r"data:2: 3 columns, not 4"),
    ("rte", HEADER + "0\ta\tb\tmaybe\n", GOOD_P, r"data:2: label 'maybe'"),
    ("rte", "index\tsentence1\tlabel\n", GOOD_P, r"data:1: no column 'sentence2'"),
    ("rte", HEADER, GOOD_P, r"data has no rows"),
    ("rte", HEADER + "0\ta\tb\tentailment\n", "0\tentailment\n", r"predictions:1: predictions begin with the header"),
    ("rte", HEADER + "0\ta\tb\tentailment\n", GOOD_P + "0\tentailment\n", r"predictions:3: index 0 was predicted"),
    ("rte", HEADER + "0\ta\tb\tentailment\n", GOOD_P + "1\n", r"predictions:3: 1 columns, not 2: index<TAB>prediction"),
    ("rte", HEADER + "0\ta\tb\tentailment\n", GOOD_P + "1\ta\tb\n", r"predictions:3: 3 columns, not 2"),
    ("rte", HEADER + "0\ta\tb\tentailment\n", "index\tprediction\n", r"no prediction for index 0 (1 of 1"),
    ("rte", HEADER + "0\ta\tb\tentailment\n", GOOD_P + "1\tentailment\n", r"index 1 is not in"),
    ("rtee", "", "", r"did you mean rte?"),
    ("squad-v1.1", '{"data": [\n{]}', "{}", r"data:2: not JSON at column 2"),
    ("squad-v1.1", '{"data": [{"paragraphs": [{"context": "", "qas": [{"question": ""}]}]}]}', "{}",
     r"data[0].paragraphs[0].qas[0]: no 'answers'"),
    ("squad-v1.1", data(("a", ["x"])), "[]", r"predictions are a JSON object"),
    ("squad-v1.1", data(("a", ["x"])), '{"a": 1}', r"the answer to a is not text"),
    ("squad-v2.0", data(("a", ["x"]), ("b", [])), '{"a": ""}', r"no prediction for question b (1 of 2"),
    ("squad-v1.1", data(("a", [])), '{"a": ""}', r"question a has no answers: score it as squad-v2.0"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "content", "predictions", "message"), BAD)
def test_bad_files_are_named_in_one_line(
    task: str, content: object, predictions: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file, path = write(tmp_path / "data", content), write(tmp_path / "predictions", predictions)
    assert main(["score", task, "--data", str(file), "--predictions", str(path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not captured.out
