"""What a library says of texts, against transformers' pipelines and sentence-transformers' rules on the same folder."""

import ctypes
import json
import random
import re
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compile
from compile.errors import CompileError
from compile.running.tasks import _Answer, _Entity, _Label, _Text
from compile.runtime import SRC
from compile.text.task import Task, read_task, stated_task, task_defines
from tests.support.tokenizers import WORDS, random_text

MOODS = {"0": "bad", "1": "söso", "2": 'g"ood'}
TYPES = {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC", "5": "MISC"}
Build = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Of few enough tokens."""
    rng = random.Random(0)
    return [random_text(rng, WORDS)[:20] for _ in range(60)]


def pipeline(task: str, folder: Path, **options: Any) -> Any:
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers.pipeline(task, model=str(folder), tokenizer=str(folder), device="cpu", **options)


@pytest.mark.parametrize(
    ("labels", "config"),
    [
        (3, {"id2label": MOODS}),
        (4, {"problem_type": "multi_label_classification"}),
    ],
    ids=["one label of three", "any of four"],
)
def test_labels_of_a_text(labels: int, config: dict[str, Any], built: Build, texts: list[str]) -> None:
    artifact, folder = built("sequence-classification", labels, **config)
    referee = pipeline("text-classification", folder)
    with compile.load(artifact) as library:
        assert library.manifest.task == "classify"
        for text in texts:
            wanted = referee(text, top_k=None)
            got = library.classify(text)
            assert [label.name for label in got] == [label["label"] for label in wanted], ascii(text)
            assert np.allclose([label.score for label in got], [label["score"] for label in wanted], atol=2e-6)
        pair = referee({"text": texts[0], "text_pair": texts[1]}, top_k=None)
        assert [label.name for label in library.classify(texts[0], texts[1])] == [label["label"] for label in pair]
        assert library.classify(texts[0], top=1) == library.classify(texts[0])[:1]
        assert all(label.score >= 0.4 for label in library.classify(texts[0], threshold=0.4))
        with pytest.raises(compile.CompileError, match=r"54 tokens more than the model takes: .*truncate=True"):
            library.classify("a " * 100)
        assert library.classify("a " * 100, truncate=True) == library.classify("a " * 46)
        for other in (library.embed, library.entities, library.fill):
            with pytest.raises(compile.CompileError, match="for another task"):
                other("a")


def test_entities_in_a_text(built: Build, texts: list[str]) -> None:
    artifact, folder = built("token-classification", len(TYPES), id2label=TYPES)
    referee, seen = pipeline("token-classification", folder, aggregation_strategy="simple"), set()
    with compile.load(artifact) as library:
        for text in texts:
            wanted, got = referee(text), library.entities(text)
            assert [(e.name, e.begin, e.end) for e in got] == [
                (e["entity_group"], e["start"], e["end"]) for e in wanted
            ]
            assert np.allclose([e.score for e in got], [e["score"] for e in wanted], atol=2e-6), ascii(text)
            seen |= {e.name for e in got}
        assert len(seen) > 1, "the sample shows little"
        data = "é the".encode()
        assert [(e.begin, e.end) for e in library.entities(data)] == [
            (len("é the"[: e.begin].encode()), len("é the"[: e.end].encode())) for e in library.entities("é the")
        ]


def test_pieces_for_each_mask(built: Build, texts: list[str]) -> None:
    artifact, folder = built("mlm")
    referee = pipeline("fill-mask", folder)
    with compile.load(artifact) as library:
        for text in (f"{text} [MASK] the" for text in texts[:30]):
            wanted = referee(text, top_k=4)
            (got,) = library.fill(text, top=4)
            assert [piece.name for piece in got] == [
                referee.tokenizer.convert_ids_to_tokens(w["token"]) for w in wanted
            ]
            assert np.allclose([piece.score for piece in got], [w["score"] for w in wanted], atol=2e-6)
        assert [len(row) for row in library.fill("[MASK] a [MASK]", top=2)] == [2, 2]
        assert library.fill("no mask") == []


def test_rows_of_masks_alone_are_computed(built: Build) -> None:
    artifact, _ = built("mlm")
    rng = random.Random(1)
    with compile.load(artifact, threads=2, profile=True) as library:
        for _ in range(20):
            words = ["[MASK]" if rng.random() < 0.1 else "a" for _ in range(rng.randrange(1, 46))] + ["[MASK]"]
            rng.shuffle(words)
            logits = library.run_text(" ".join(words))["prediction_logits"]
            wanted = [logits[0, place + 1] for place, word in enumerate(words) if word == "[MASK]"]
            got = library.fill(" ".join(words), top=3)
            assert len(got) == len(wanted)
            for pieces, row in zip(got, wanted, strict=True):
                ranks = np.argsort(-row, kind="stable")[:3]
                assert [piece.name for piece in pieces] == [library.token(int(rank)) for rank in ranks]
                scores = np.exp(row[ranks] - row.max()) / np.exp(row - row.max()).sum()
                assert np.allclose([piece.score for piece in pieces], scores, atol=1e-6)
        last = max(i for i, call in enumerate(library.manifest.calls) if call.shared)

        def blocks() -> int:
            return sum(record.call == last for record in library.profile())

        library.run_text("a " * 45 + "[MASK]")
        assert blocks() == 2
        library.fill("a " * 45 + "[MASK]")
        assert blocks() == 1, "the other thread's rows hold no mask"
        library.fill("a")
        assert blocks() == 1, "a text without masks needs no run"


def test_vector_of_a_text(built: Build, texts: list[str]) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    artifact, folder = built("none", modules=True)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with compile.load(artifact) as library:
        assert (library.manifest.task, library.manifest.pooling, library.manifest.normalized) == ("embed", "mean", True)
        for text in texts:
            with torch.no_grad():
                hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
            wanted = torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0].numpy()
            assert np.allclose(library.embed(text), wanted, atol=1e-5), ascii(text)


def write(folder: Path, **files: Any) -> None:
    for name, value in files.items():
        (folder / name.replace("__", "/")).parent.mkdir(exist_ok=True)
        (folder / f"{name.replace('__', '/')}.json").write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"config": []}, "not a JSON object"),
        ({"config": {"architectures": ["XForTokenClassification"], "id2label": {"0": "a", "2": "b"}}}, "from 0 on"),
        ({"config": {"architectures": ["XForTokenClassification"], "id2label": {"0": 3}}}, "no name of a label"),
        ({"config": {"architectures": ["XForTokenClassification"], "id2label": {"0": "\ud800"}}}, "no name of a label"),
        ({"config": {"architectures": ["XForTokenClassification"], "id2label": {"0": "a\0b"}}}, "no name of a label"),
        ({"config": {"architectures": ["XForTokenClassification"], "num_labels": 10**9}}, "num_labels"),
        ({"modules": {}}, "not a list of modules"),
        ({"modules": [{"type": "a.Transformer"}, {"type": "a.Pooling", "path": "../x"}]}, "not a folder in it"),
    ],
)
def test_wrong_files(files: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path, **files)
    with pytest.raises(compile.CompileError, match=words):
        read_task(tmp_path, None)


def test_modules_that_the_model_itself_has(tmp_path: Path) -> None:
    dense = [{"type": "a.Transformer"}, {"type": "a.Pooling"}, {"type": "a.Dense"}]
    two = {"pooling_mode_mean_tokens": True, "pooling_mode_mean_sqrt_len_tokens": True}
    for files in ({"modules": dense}, {"modules": [*dense[:1], {"type": "a.Pooling", "path": "1"}], "1__config": two}):
        write(tmp_path, **files)
        assert read_task(tmp_path, None) == Task("embed")
        assert read_task(tmp_path, "none") is None


def test_a_folder_of_our_own_kind_says_its_head(tmp_path: Path) -> None:
    """A MobileBERT as the papers' tables have it: transformers has no class for it, so there is no architecture."""
    config = {"model_type": "pocketbert", "head": "sequence-classification", "id2label": {"0": "bad", "1": "good"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    task = read_task(tmp_path, None)
    assert task is not None
    assert (task.kind, task.labels, task.activation) == ("classify", ("bad", "good"), "softmax")
    (tmp_path / "config.json").write_text(json.dumps(config | {"head": ["none"]}))
    assert read_task(tmp_path, None) is None


def test_no_task(tmp_path: Path) -> None:
    write(tmp_path, config={"architectures": ["BertModel"]})
    assert read_task(tmp_path, None) is None
    write(tmp_path, modules=[{"type": "sentence_transformers.models.Transformer"}])
    assert read_task(tmp_path, None) is None


def test_entities_in_windows(built: Build, texts: list[str]) -> None:
    artifact, folder = built("token-classification", len(TYPES), id2label=TYPES)
    referee = pipeline("token-classification", folder, aggregation_strategy="simple", stride=8)
    referee.tokenizer.model_max_length = 48
    with compile.load(artifact) as library:
        for begin in range(0, 60, 12):
            text = " ".join(texts[begin : begin + 12])
            wanted, got = referee(text), library.entities(text, windows=True, stride=8)
            assert [(e.name, e.begin, e.end) for e in got] == [
                (e["entity_group"], e["start"], e["end"]) for e in wanted
            ]
            assert np.allclose([e.score for e in got], [e["score"] for e in wanted], atol=2e-6), ascii(text)


def test_many_texts_in_one_call(built: Build, texts: list[str]) -> None:
    """More than threads, and fewer; on threads of their own each text has the bits that it has alone."""
    artifact, _ = built("sequence-classification", 3, id2label=MOODS)
    with compile.load(artifact, threads=2) as library, compile.load(artifact, threads=1) as alone:
        wanted = [alone.classify(text) for text in texts]
        assert library.classify_all(texts) == wanted
        assert library.classify_all(texts[:1], top=1) == [wanted[0][:1]]
        assert library.classify_all([(texts[0], texts[1])] * 3) == [alone.classify(texts[0], texts[1])] * 3
        assert library.classify_all([]) == []
        with pytest.raises(compile.RunError, match="54 tokens more than the model takes") as refused:
            library.classify_all([*texts, "a " * 100])
        assert refused.value.code == "LONG"
    artifact, _ = built("none", modules=True)
    with compile.load(artifact, threads=2) as library:
        vectors = library.embed_all(texts)
        assert all(np.array_equal(row, library.embed(text)) for row, text in zip(vectors, texts, strict=True))
        assert np.array_equal(library.embed_all(iter(texts)), vectors)
        for wrong, words in (
            ("a text", "texts is of type str: give a list"),
            (None, "texts is of type NoneType: give a list"),
            ([3], "text is of type int"),
            ([("a", "b")], "NULL"),
            (["a", ("a",)], "a tuple of 1"),
            ([(), ("a", "b", "c")], "a tuple of 0"),
        ):
            with pytest.raises(compile.CompileError, match=words):
                library.embed_all(wrong)


def test_smaller_vectors_and_cosine(built: Build, texts: list[str]) -> None:
    artifact, _ = built("none", modules=True)
    with compile.load(artifact) as library:
        first, second = library.embed(texts[0]), library.embed(texts[1])
        assert abs(library.cosine(first, second) - float(first @ second)) < 1e-6
        small = [library.embed(text, precision="int8") for text in texts[:2]]
        assert np.array_equal(small[0], np.rint(first / np.abs(first).max() * 127).astype(np.int8))
        assert abs(library.cosine(*small) - float(first @ second)) < 0.02
        bits = [library.embed(text, precision="binary") for text in texts[:2]]
        assert np.array_equal(bits[0], np.packbits(first > 0))
        assert library.cosine(*bits) == pytest.approx(float((np.sign(first) * np.sign(second)).mean()), abs=1e-6)
        for a, b in ((first, small[0]), (first, first[:-1]), (bits[0][:-1], bits[1][:-1])):
            with pytest.raises(compile.CompileError, match="vector"):
                library.cosine(a, b)


def test_labels_that_are_asked_for(built: Build, texts: list[str]) -> None:
    artifact, _ = built("sequence-classification", 3, id2label=MOODS)
    with compile.load(artifact) as library:
        every = library.classify(texts[0])
        for allow, deny in ((["bad", "söso"], []), (None, ["bad"]), (["bad"], ["bad"]), ([], [])):
            wanted = [e for e in every if (allow is None or e.name in allow) and e.name not in deny]
            assert library.classify(texts[0], allow=allow, deny=deny) == wanted
        assert library.classify(texts[0], threshold=every[1].score) == every[:2]  # at the threshold is above it
        parts = [{e.name: e.score for e in library.classify(part)} for part in ("a b c d", "e f g h", "i j")]
        whole = library.classify("a b c d e f g h i j", windows=True, max_tokens=6, stride=0)
        for each in whole:
            assert each.score == pytest.approx(sum(part[each.name] for part in parts) / 3, rel=1e-5)
        assert [e.score for e in whole] == sorted((e.score for e in whole), reverse=True)
        with pytest.raises(compile.CompileError, match="no label 'fine': it has bad"):
            library.classify(texts[0], allow=["fine"])
        long = " ".join(texts)
        scores = {e.name: e.score for e in library.classify(long, windows=True)}
        assert abs(sum(scores.values()) - 1) < 1e-5
        with pytest.raises(compile.CompileError, match="give one of them"):
            library.classify(long, truncate=True, windows=True)


def test_cancelled_runs_and_log(built: Build, texts: list[str]) -> None:
    artifact, _ = built("sequence-classification", 3, id2label=MOODS)
    lines: list[str] = []
    with compile.load(artifact, log=lines.append) as library:
        wanted = library.classify(texts[0])
        library.cancelled = True
        for call in (library.classify, lambda text: library.classify_all([text] * 9)):
            with pytest.raises(compile.RunError, match="cancelled") as refused:
                call(texts[0])
            assert refused.value.code == "CANCELLED"
        assert any("cancelled" in line for line in lines)
        with pytest.raises(compile.CompileError, match="log is 3: give a function"):
            compile.load(artifact, log=3)
        library.cancelled = False
        assert library.classify(texts[0]) == wanted


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("translate", None, None), "--task translate: choose one of classify, entities, fill, embed"),
        (("classify", None, None), "--task classify: name the logits with --labels"),
        (("fill", None, ["a"]), "--labels name what a model classifies"),
        (("classify", None, ["a", "a"]), "give each label once"),
        (("classify", None, ["a", ""]), "give each label once"),
        (("classify", None, ["a", "\udcff"]), "give each label once"),
    ],
)
def test_tasks_that_cannot_be_stated(asked: tuple, words: str) -> None:
    with pytest.raises(CompileError, match=re.escape(words)):
        stated_task(*asked)


def test_task_of_a_preset_is_its_heads_and_of_a_file_what_is_stated() -> None:
    assert stated_task(None, "mlm", None) == Task("fill")
    assert stated_task(None, "sequence-classification", None) == Task("classify", ("LABEL_0", "LABEL_1"))
    assert stated_task(None, "token-classification", ["O", "B-X"]) == Task("entities", ("O", "B-X"))
    assert stated_task("classify", None, ["spam"]) == Task("classify", ("spam",), "sigmoid")
    assert stated_task("embed", None, None) == Task("embed", (), "softmax", "mean")
    assert stated_task(None, None, None) is None


@pytest.mark.parametrize(
    ("said", "activation"),
    [
        ({}, "softmax"),
        ({"problem_type": "single_label_classification"}, "softmax"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, "none"),
        ({"id2label": {"0": "score"}}, "sigmoid"),
        ({"id2label": {"0": "score"}, "problem_type": "regression"}, "none"),
    ],
    ids=str,
)
def test_what_becomes_of_logits_is_what_the_configuration_says(said: dict, activation: str, tmp_path: Path) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "id2label": MOODS} | said
    (tmp_path / "config.json").write_text(json.dumps(config))
    task = read_task(tmp_path, None)
    assert task is not None
    assert (task.kind, task.labels, task.activation) == ("classify", tuple(config["id2label"].values()), activation)
    config["architectures"] = ["BertForTokenClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (other := read_task(tmp_path, None)) is not None
    assert (other.kind, other.activation) == ("entities", "softmax")


def test_a_task_has_as_many_outputs_as_the_runtime_has_places_for() -> None:
    most = int(re.search(r"PB_MOST_OUTPUTS = (\d+),", (SRC / "config.h").read_text())[1])  # type: ignore[index]
    outputs = [("logits", (1, 3)), *((f"other_{i}", (1, 8)) for i in range(most - 1))]
    task = Task("classify", ("a", "b", "c"))
    assert task_defines(task, outputs, None)[0]["PB_TASK_OUTPUT"] == "0"
    with pytest.raises(CompileError, match="build with --no-text"):
        task_defines(task, [*outputs, ("one more", (1, 8))], None)


def with_lists(built: Build) -> list[Path]:
    """An artifact for each task that gives a list."""
    kinds = [("sequence-classification", 3, MOODS), ("token-classification", len(TYPES), TYPES)]
    made = [built(head, labels, id2label=names) for head, labels, names in kinds]
    return [artifact for artifact, _ in (*made, built("mlm"), built("question-answering"))]


def test_nothing_is_written_behind_the_room_in_c(built: Build) -> None:
    text, count = b"a [MASK] b [MASK] c [MASK] the model", ctypes.c_int32()
    whole, none, at = (text, len(text)), (None, 0), ctypes.byref(count)
    calls: dict[str, tuple[type, Callable[[Any], tuple[Any, ...]]]] = {
        "classify": (_Label, lambda to: (*whole, *none, None, to, 2, at, None)),
        "classify_all": (_Label, lambda to: ((_Text * 1)(whole), 1, None, to, 2, None)),
        "entities": (_Entity, lambda to: (*whole, None, to, 2, at, None)),
        "fill": (_Label, lambda to: (*whole, None, to, 1, 2, at, None)),
        "answer": (_Answer, lambda to: (b"the", 3, *whole, None, to, 2, at)),
    }
    for artifact in with_lists(built):
        with compile.load(artifact, threads=1) as library:
            for task in (task for task in calls if task.removesuffix("_all") == library.manifest.task):
                kind, arguments = calls[task]
                size = ctypes.sizeof(kind)
                places = (kind * 3).from_buffer(bytearray(b"\xa5" * (3 * size)))
                library._call(task, *arguments(places))
                assert count.value >= 2
                assert bytes(places)[size : 2 * size] != b"\xa5" * size, task
                assert bytes(places)[2 * size :] == b"\xa5" * size, task


def test_a_place_that_is_null_or_has_no_room_is_refused_in_c(built: Build) -> None:
    text, none, labels, vector, count = (
        (b"the", 3),
        (None, 0),
        (_Label * 3)(),
        (ctypes.c_float * 32)(),
        ctypes.c_int32(),
    )
    one, two, at = (_Text * 1)((b"the", 3)), (_Text * 1)((b"the", 3, b"a", 1)), ctypes.byref(count)
    wrong: dict[str, list[tuple[Any, ...]]] = {
        "classify": [(*text, *none, None, *to, None) for to in ((None, 3, at), (labels, 0, at), (labels, 3, None))],
        "classify_all": [
            (None, 1, None, labels, 3, None), (one, -1, None, labels, 3, None),
            (one, 1, None, None, 3, None), (one, 1, None, labels, 0, None),
        ],
        "embed": [(*text, None, None, 32, None), (*text, None, vector, 31, None)],
        "embed_all": [
            (None, 1, None, vector, 32, None), (one, -1, None, vector, 32, None), (two, 1, None, vector, 32, None),
            (one, 1, None, None, 32, None), (one, 1, None, vector, 31, None), (one, 1, None, vector, 33, None),
        ],
        "entities": [(*text, None, *to, None) for to in ((None, 1, at), (vector, 0, at), (vector, 1, None))],
        "fill": [
            (*text, None, *to, None)
            for to in ((None, 1, 3, at), (labels, 0, 3, at), (labels, 3, 2, at), (labels, 1, 3, None))
        ],
        "answer": [
            (*text, *none, None, vector, 1, at), (*text, *text, None, None, 1, at),
            (*text, *text, None, vector, 0, at), (*text, *text, None, vector, 1, None),
        ],
    }  # fmt: skip
    for artifact in (*with_lists(built), built("none", modules=True)[0]):
        with compile.load(artifact, threads=1) as library:
            for task in (task for task in wrong if task.removesuffix("_all") == library.manifest.task):
                for arguments in wrong[task]:
                    with pytest.raises(compile.CompileError, match="is NULL or has no room"):
                        library._call(task, *arguments)


@pytest.mark.parametrize("method", ["classify", "embed", "entities", "fill", "answer"])
def test_how_long_texts_are_read_is_said_by_name(method: str) -> None:
    parameters = signature(getattr(compile.Library, method)).parameters
    by_name = {name for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}
    assert {"max_tokens", "stride"} <= by_name


def test_file_with_a_stated_task_answers_as_its_folder_does(
    built: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    import model

    labels = {"0": "bad", "1": "good", "2": "odd"}
    artifact, folder = built("sequence-classification", 3, False, id2label=labels)
    file = model.export(model.load(str(folder)), tmp_path / "m.onnx", seq_len=48, batch=1)
    pieces = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.get)) + "\n", encoding="utf-8")
    given = {"vocab": tmp_path / "vocab.txt", "cased": True, "task": "classify", "labels": list(labels.values())}
    out = compile.build(file, target="host", seq_len=48, out=tmp_path / "out", **given).folder
    with compile.load(artifact, threads=1) as wanted, compile.load(out, threads=1) as got:
        assert got.classify("the model is é") == wanted.classify("the model is é")
