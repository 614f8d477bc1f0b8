"""report.html in headless Chromium: nothing fails, nothing overflows a phone, and it shows the manifest's numbers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compile.running.load import read_manifest
from tests.support.chromium import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: Debian package chromium")

# Parts of the page that stick out to the right of the window, but for those that scroll by themselves.
STICKING_OUT = """[...document.querySelectorAll("body *")].filter(e =>
    !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > innerWidth + 0.5
).map(e => e.tagName + "." + e.className)"""
# WCAG's contrast of text with what is behind it.
CONTRAST = """(() => {
    const parse = text => text.match(/[0-9.]+/g).map(Number);
    const light = rgb => rgb.slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = e => { for (; e; e = e.parentElement) {
        const colour = parse(getComputedStyle(e).backgroundColor);
        if (colour.length < 4 || colour[3] > 0) return colour;
    } return [255, 255, 255]; };
    let worst = [99, ""];
    for (const e of document.querySelectorAll("h1,h2,h3,p,dt,dd,small,th,td,li,summary,a,code,text")) {
        if (!e.textContent.trim()) continue;
        const style = getComputedStyle(e), svg = e.tagName === "text";
        const [a, b] = [light(parse(svg ? style.fill : style.color)), light(behind(svg ? e.closest("svg") : e))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < worst[0]) worst = [ratio, e.textContent.slice(0, 40)];
    }
    return worst;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM
    opened = Browser(CHROMIUM)
    yield opened
    opened.close()


@pytest.fixture
def address(mobilebert_library: Path) -> str:
    return (mobilebert_library / "report.html").as_uri()


def problems(browser: Any) -> list[Any]:
    kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed")
    return [event for event in browser.events if event["method"] in kinds]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_page_fits_and_can_be_read(width: int, dark: bool, browser: Any, address: str) -> None:
    browser.open(address, width, dark)
    assert problems(browser) == []
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert requests == [address], "it asks for nothing but itself"
    browser.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate(STICKING_OUT) == []
    contrast, text = browser.evaluate(CONTRAST)
    assert contrast >= 4.5, text
    dark_paper = browser.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.slice(4)) < 128")
    assert dark_paper == dark


def test_numbers_are_the_manifests(browser: Any, address: str, mobilebert_library: Path) -> None:
    facts = read_manifest(mobilebert_library)
    browser.open(address)
    shown = browser.evaluate("[...document.querySelectorAll('data')].map(e => [e.dataset.key, e.value, e.textContent])")
    found = {key: value for key, value, _ in shown}
    words = {key: text for key, _, text in shown}
    assert found["flops"] == str(facts.flops)
    assert words["sizes.library_bytes"] == f"{facts.sizes.library_bytes / 2**20:.2f} MiB"
    assert words["stages"] == str(facts.stages)
    assert words["calls.length"] == str(len(facts.calls))
    for index, kernel in enumerate(facts.kernels):
        assert words[f"kernels.{index}.calls"] == str(kernel.calls)
        assert found[f"kernels.{index}.flops"] == str(kernel.flops)
    for index, entry in enumerate(facts.passes.passes):
        if entry.applied or entry.refusals:
            assert words[f"passes.passes.{index}.applied"] == str(entry.applied)
    # Every call of a drawn block, and every tensor of the arena, is a shape in the picture.
    assert browser.evaluate("document.querySelectorAll('.graph .call').length") == len(facts.calls)
    arena = sum(t.region == "arena" for t in facts.tensors)
    assert browser.evaluate("document.querySelector('.memory').querySelectorAll('.area').length") == arena


def test_choosing_a_block_shows_it_alone(browser: Any, address: str) -> None:
    browser.open(address)
    shown = "[...document.querySelectorAll('.kind')].filter(e => e.offsetParent).map(e => e.id)"
    assert browser.evaluate(shown) == ["block-layer-1"]
    browser.evaluate("document.querySelector('[data-block=embeddings]').dispatchEvent(new MouseEvent('click',"
                     "{bubbles: true, cancelable: true}))")  # fmt: skip
    assert browser.evaluate(shown) == ["block-embeddings"]
    assert browser.evaluate("document.querySelectorAll('.strip[aria-current]').length") == 1


def test_pointing_at_a_rectangle_names_the_tensor(browser: Any, address: str) -> None:
    browser.open(address)
    browser.evaluate("document.querySelector('.area').dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))")
    words = browser.evaluate("document.querySelector('.readout').textContent")
    assert "columns" in words
    assert "stage" in words
    assert problems(browser) == []


def test_without_scripts_every_block_is_there(browser: Any, address: str) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(address)
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    visible = browser.evaluate("[...document.querySelectorAll('.kind')].filter(e => e.offsetParent).length")
    assert visible == 4
