"""What a library says of texts, against transformers' pipelines and sentence-transformers' rules on the same folder."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compile
from compile.text.task import Task, read_task
from tests.support.tokenizers import ROOT, WORDS, random_text

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


def test_python_of_the_page(
    built: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    artifact, _ = built("sequence-classification", 3, id2label=MOODS)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "mine").symlink_to(artifact)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall("```python\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(), re.DOTALL)
    exec(code, {})
    assert re.match(r"\[Label\(name='.+', score=0\.\d+\), Label\(.*\)\]\n$", capsys.readouterr().out)


def test_no_task(tmp_path: Path) -> None:
    write(tmp_path, config={"architectures": ["BertModel"]})
    assert read_task(tmp_path, None) is None
    write(tmp_path, modules=[{"type": "sentence_transformers.models.Transformer"}])
    assert read_task(tmp_path, None) is None
