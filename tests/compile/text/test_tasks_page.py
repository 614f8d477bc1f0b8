"""The commands and the code of docs/tasks.md, as written but for Android, in whose place this machine is: that page has
a test of its own. Models are small, and examples few."""

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import compile
from compile import __main__ as compiling
from model import __main__ as training

ROOT = Path(__file__).parents[3]
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "what",
    "a",
    "film",
    "dull",
    "lovely",
    "who",
    "lives",
    "in",
    "paris",
    "ada",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def encoder(folder_of_bert: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In the place of all-MiniLM-L6-v2: one layer, and words for the examples."""
    from transformers import BertTokenizer

    folder = tmp_path_factory.mktemp("encoder") / "all-MiniLM-L6-v2"
    BertTokenizer(vocab={word: n for n, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder_of_bert(folder, "none", vocab_size=len(WORDS), max_position_embeddings=192)


@pytest.fixture
def workplace(encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the page supposes it."""
    monkeypatch.chdir(tmp_path)
    for name, path in (("all-MiniLM-L6-v2", encoder), ("configs", ROOT / "configs")):
        (tmp_path / name).symlink_to(path)
    reviews = "sentence\tlabel\n" + "a lovely film\t1\na dull film\t0\n" * 64
    Path("glue/SST-2").mkdir(parents=True)
    for name in ("train", "dev"):
        Path(f"glue/SST-2/{name}.tsv").write_text(reviews)
    Path("squad").mkdir()
    answer = {"text": "paris", "answer_start": 13}
    articles = []
    for n in range(42):
        asked = [{"id": str(n), "question": "who lives in paris", "answers": [answer]}]
        articles.append({"title": "", "paragraphs": [{"context": "ada lives in paris", "qas": asked}]})
    Path("dev-v1.1.json").write_text(json.dumps({"data": articles}))
    return tmp_path


def execute(block: str) -> None:
    for line in block.replace("--target android --package aar", "--target host").splitlines():
        match shlex.split(line):
            case ["python", "-m", "model", *arguments]:
                assert training.main(arguments) == 0
            case ["python", "-m", "compile", *arguments]:
                assert compiling.main(arguments) == 0
            case _:
                subprocess.run(line, shell=True, check=True)


def test_commands_and_code_of_the_page(workplace: Path, capsys: pytest.CaptureFixture) -> None:
    from_folder, reviews, answers = blocks("sh")
    split, ask = blocks("python")
    execute(reviews)
    (workplace / "my-folder").symlink_to("runs/reviews/model")
    execute(from_folder)
    capsys.readouterr()
    exec(ask, {})
    assert re.fullmatch(r"\[(Label\(name='(good|bad)', score=0\.\d+\)(, )?){2}\]\n", capsys.readouterr().out)
    with compile.load("build/reviews-host", threads=1) as model:
        assert sorted(label.name for label in model.classify("what a film")) == ["bad", "good"]
    exec(split, {})
    assert [len(json.loads(Path(f"squad/{name}.json").read_text())["data"]) for name in ("train", "dev")] == [40, 2]
    execute(answers)
    assert set(json.loads(Path("runs/answers/metrics.json").read_text())["dev"]) == {"exact_match", "f1"}
    with compile.load("build/answers-host", threads=1) as model:
        assert model.manifest.tokens == 192
        (answer,) = model.answer("who lives in paris", "ada lives in paris")
        assert answer.text in "ada lives in paris"
