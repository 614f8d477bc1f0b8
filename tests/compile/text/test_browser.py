"""Tasks in a page of headless Chromium, and the example that asks a text: what Python says of the same texts."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import compile
from tests.support.chromium import CHROMIUM, Browser

EXAMPLE = Path(__file__).parents[3] / "examples" / "web"
# Markup, of which nothing may come to life; letters of one to four bytes.
TEXT = "the <img src=x onerror=alert(1)> é model 😀 & the ing"
QUESTION = "the model?"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: Debian package chromium")


class Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".wasm": "application/wasm", ".js": "text/javascript"}

    def log_message(self, *_: Any) -> None:
        pass


class Site:
    """The files of a folder, over HTTP on this machine, until it is closed."""

    def __init__(self, folder: Path) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM
    opened = Browser(CHROMIUM)
    yield opened
    opened.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    opened = Site(tmp_path)
    yield opened
    opened.close()


ASKED = {
    "classify": ("sequence-classification", False, "classify(TEXT).map(({ label, score }) => [label, score])"),
    "embed": ("none", True, "[['', ...model.embed(TEXT)]]"),
    "answer": ("question-answering", False, "answer(QUESTION, TEXT, 3).map(({ text, score }) => [text, score])"),
}


@pytest.mark.parametrize("task", ASKED)
def test_a_page_says_what_python_says(
    task: str, built: Callable, modules: Callable, browser: Browser, site: Site, tmp_path: Path
) -> None:
    head, pooled, expression = ASKED[task]
    artifact, folder = built(head, 2, pooled)
    shutil.copytree(modules(folder), tmp_path / "model")
    (tmp_path / "index.html").write_text("<!doctype html><title>a page</title>")
    browser.open(site.address)
    expression = expression.replace("TEXT", json.dumps(TEXT)).replace("QUESTION", json.dumps(QUESTION))
    got = browser.evaluate(f"""(async () => {{
        const {{ load }} = await import("/model/index.js");
        const model = await load();
        return [...{expression if expression.startswith("[") else "model." + expression}].map((row) => [...row]);
    }})()""")
    with compile.load(artifact) as library:
        wanted: list[tuple[str, list[float]]]
        if task == "classify":
            wanted = [(label.name, [label.score]) for label in library.classify(TEXT)]
        elif task == "embed":
            wanted = [("", list(library.embed(TEXT)))]
        else:
            wanted = [(str(answer.text), [answer.score]) for answer in library.answer(QUESTION, TEXT, 3)]
    assert [word for word, *_ in got] == [word for word, _ in wanted]
    for (_, *values), (_, numbers) in zip(got, wanted, strict=True):
        assert values == pytest.approx(numbers, abs=2e-6)


def wait(browser: Browser, condition: str) -> None:
    browser.evaluate(f"""new Promise((done) => {{
        const look = () => ({condition}) ? done() : setTimeout(look, 20);
        look();
    }})""")


def ask(browser: Browser) -> tuple[list[str], str]:
    """The example's answers and the place it marks."""
    wait(browser, "!document.getElementById('ask').disabled")
    browser.evaluate(f"""
        document.getElementById("text").value = {json.dumps(TEXT)};
        document.getElementById("question").value = {json.dumps(QUESTION)};
        document.getElementById("ask").click();""")
    wait(browser, "document.querySelector('#answers li')")
    answers = browser.evaluate("[...document.querySelectorAll('#answers li')].map((item) => item.textContent)")
    place = browser.evaluate("document.getElementById('place').textContent")
    assert place == TEXT
    assert browser.evaluate("document.querySelector('img')") is None
    return answers, browser.evaluate("document.querySelector('mark').textContent")


def test_the_example_answers_with_and_without_a_network(
    built: Callable, modules: Callable, browser: Browser, tmp_path: Path
) -> None:
    artifact, folder = built("question-answering", 2, False)
    shutil.copytree(EXAMPLE, tmp_path / "site")
    shutil.copytree(modules(folder), tmp_path / "site" / "some model")
    site = Site(tmp_path / "site")
    try:
        browser.open(f"{site.address}?model=some%20model")
        answers, marked = ask(browser)
    finally:
        site.close()
    with compile.load(artifact) as library:
        wanted = library.answer(QUESTION, TEXT, 3)
    assert marked == wanted[0].text
    assert answers == [f"{answer.text!s} ({100 * answer.score:.1f} %)" for answer in wanted]
    browser.open(f"{site.address}?model=some%20model")
    assert ask(browser) == (answers, marked)


@pytest.mark.parametrize(
    ("model", "words"), [("https://example.com/x", "must name a folder of this site"), ("missing", "import")]
)
def test_the_example_says_why_it_has_no_model(
    model: str, words: str, browser: Browser, site: Site, tmp_path: Path
) -> None:
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    browser.open(f"{site.address}?model={model}")
    wait(browser, "!document.getElementById('state').textContent.startsWith('Loading')")
    assert words in browser.evaluate("document.getElementById('state').textContent")
    assert browser.evaluate("document.getElementById('ask').disabled")
