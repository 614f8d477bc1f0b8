"""report.html as text: what it says is the manifest's, whatever its names are, and it needs nothing from elsewhere."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from compile.artifact.manifest import (
    GenericKernel,
    KeptInFloat,
    Manifest,
    MeasuredTime,
    TextSetting,
    Verification,
    VocabularyFacts,
)
from compile.artifact.report import memory, picture, render
from compile.running.load import read_manifest
from passes import Refusal
from passes.report import LayerPrecision

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Elements that are open at the same time nest; every attribute and every <data> is kept."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.data: dict[str, str] = {}
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.attributes += [(tag, key, value) for key, value in given.items()]
        if tag == "data":
            self.data[given["data-key"]] = given["value"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, key: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == key]


@pytest.fixture(scope="module")
def facts(mobilebert_library: Path) -> Manifest:
    return read_manifest(mobilebert_library)


def look_up(facts: Any, key: str) -> Any:
    for part in key.split("."):
        facts = len(facts) if part == "length" else facts[int(part)] if isinstance(facts, tuple) else facts[part]
    return facts


def test_every_number_is_the_manifests(mobilebert_library: Path, facts: Manifest) -> None:
    page = Page((mobilebert_library / "report.html").read_text())
    assert {"flops", "sizes.library_bytes", "stages", "passes.after.nodes", "kernels.0.calls"} <= set(page.data)
    assert {key: str(look_up(facts.to_dict(), key)) for key in page.data} == page.data


def test_page_stands_alone_and_is_small(mobilebert_library: Path) -> None:
    text = (mobilebert_library / "report.html").read_text()
    page = Page(text)
    assert "://" not in text
    assert "@" not in re.sub(r"@media|@page", "", text)
    assert not [value for name in ("src", "action", "srcset") for value in page.values(name)]
    assert all(value.startswith("#") for value in page.values("href"))
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert {value[1:] for value in page.values("href")} <= set(ids)
    assert len(text) < 200_000


def test_same_manifest_same_page_and_no_time_in_it(facts: Manifest) -> None:
    slow = tuple(replace(entry, seconds=1.0) for entry in facts.passes.passes)
    slower = replace(
        facts, build_seconds=dict.fromkeys(facts.build_seconds, 1.0), passes=replace(facts.passes, passes=slow)
    )
    assert render(slower) == render(facts)


def test_hostile_names_stay_text(facts: Manifest) -> None:
    hostile = '"><script>alert(1)</script>&amp;'
    first, *others = facts.passes.passes
    refusing = replace(first, refusals=(Refusal(hostile, hostile, 2),))
    changed = replace(
        facts,
        name=hostile,
        linker=hostile,
        inputs=tuple(replace(entry, name=hostile) for entry in facts.inputs),
        tensors=tuple(replace(entry, name=hostile) for entry in facts.tensors),
        passes=replace(facts.passes, passes=(refusing, *others)),
        generic_kernels=(GenericKernel(hostile, hostile),),
        model={"file": hostile},
    )
    page = Page(render(changed))
    assert render(changed).count("<script>") == 1, "the page's own"
    assert page.text.count(hostile) > 8


def test_what_is_missing_is_said(facts: Manifest) -> None:
    unverified = replace(facts, verification=(), passes=None)
    text = Page(render(unverified)).text
    assert "Not verified" in text
    assert "no record of passes" in text
    verified = replace(facts, verification=(Verification("this machine", 3, 2.5e-7, 1e-4, True, texts=1),))
    text = Page(render(verified)).text
    assert "Verified: error 2.5e-07" in text
    assert "on 2 random inputs and 1 text" in text


def test_inputs_and_outputs_come_before_the_model(facts: Manifest) -> None:
    text = Page(render(facts)).text
    first = text.index("The model")
    for entry in facts.inputs + facts.outputs:
        assert text.index(entry.name) < first
    assert "0 ≤ id < 1000" in text[:first]
    assert "up to 128 tokens" in text[:first]
    assert "exactly 128 tokens" in Page(render(replace(facts, shorter_sequences=False))).text


def test_tokenizer_task_and_labels_stand_there(facts: Manifest) -> None:
    settings = (TextSetting("lowercase", "true", "tokenizer_config.json: do_lower_case"),)
    vocabulary = VocabularyFacts(30522, False, "0" * 64, "WordPiece", 64, settings)
    labels = tuple(f"label {number}" for number in range(23))
    classifier = replace(facts, vocabulary=vocabulary, task="classify", labels=labels, activation="softmax")
    page = Page(render(classifier))
    before = page.text[: page.text.index("The model")]
    for words in (
        "WordPiece · uncased · 30522 pieces · texts of up to 64 tokens",
        "classify · by softmax",
        "and 3 more",
    ):
        assert words in before
    assert "tokenizer_config.json: do_lower_case" in before
    embedding = replace(facts, task="embed", pooling="mean", normalized=True)
    assert "embed · mean pooling · length 1" in Page(render(embedding)).text
    assert "tokenizer" not in Page(render(facts)).text[: before.index("Inputs")]


def test_tuned_tiles_say_whether_times_were_measured(facts: Manifest) -> None:
    tuning = replace(facts.tuning, database="a.jsonl", tasks=5, hits=3, measured=1, estimated=2)
    assert (
        "3 of 5 shapes were tuned, 1 by measured times and 2 by estimates."
        in Page(render(replace(facts, tuning=tuning))).text
    )


def test_passes_that_did_nothing_are_folded_away_but_those_that_refused_are_not(facts: Manifest) -> None:
    idle = [p.name for p in facts.passes.passes if not (p.applied or p.refusals)]
    assert idle
    page = render(facts)
    fold = page[page.index('class="idle-passes"') :]
    fold = fold[: fold.index("</details>")]
    assert all(name in fold for name in idle)
    assert not [p.name for p in facts.passes.passes if (p.applied or p.refusals) and f">{p.name}<" in fold]
    none_idle = replace(facts, passes=replace(facts.passes, passes=()))
    assert "idle-passes" not in render(none_idle).partition("<main>")[2]


def test_precision_says_what_stayed_float_and_why(facts: Manifest) -> None:
    assert "float32" in Page(render(facts)).text
    kept = (KeptInFloat("layer 3", "its outputs saturate", 12.34), KeptInFloat("head", "asked for"))
    kernels = (replace(facts.kernels[0], precision="int8"), *facts.kernels[1:])
    text = Page(render(replace(facts, precision="int8", kept_in_float=kept, kernels=kernels))).text
    for words in ("layer 3: its outputs saturate (12.3 dB in int8)", "head: asked for", "· int8"):
        assert words in text
    assert "No layer was kept" in Page(render(replace(facts, precision="int8"))).text


def test_every_int8_layer_has_its_ratio_and_the_noisiest_come_first(facts: Manifest) -> None:
    layers = [
        LayerPrecision(f"node {i}", "linear", f"weight {i}", (64, 32), "int8", "", 45.0, 30.0 + (7 * i) % 13)
        for i in range(13)
    ]
    entry = replace(facts.passes.passes[0], layers=tuple(layers))
    whole = replace(facts, precision="int8", passes=replace(facts.passes, passes=(entry,), texts=18))
    page = render(whole)
    first, more = page[page.index("noisiest in int8") :].split("3 more in int8")
    assert [f"{30.0 + i:.1f} dB" in first for i in range(13)] == [True] * 10 + [False] * 3
    assert all(f"{30.0 + i:.1f} dB" in more for i in range(10, 13))
    assert first.index("30.0 dB") < first.index("31.0 dB") < first.index("39.0 dB")
    assert "sampled on 18 texts" in page


def test_times_are_there_where_they_were_measured_and_say_on_what(facts: Manifest) -> None:
    assert "Latency" not in Page(render(facts)).text
    time = MeasuredTime("Pixel 4", (4, 5), 2, 128, 30, 61.5, 0.25, "2026-11-27")
    text = Page(render(replace(facts, measured=(time, replace(time, estimate=True))))).text
    assert "61.50 ± 0.25 ms: median of 30 runs, 128 tokens, 2 threads, Pixel 4, 2026-11-27" in text
    assert "ms: estimated, 128 tokens" in text


def test_refusals_and_fallbacks_are_listed(facts: Manifest) -> None:
    text = Page(render(facts)).text
    reasons = [r.reason for p in facts.passes.passes for r in p.refusals]
    assert reasons
    assert all(reason in text for reason in reasons)
    assert "No operator fell back" in text
    changed = replace(facts, generic_kernels=(GenericKernel("cumsum", "no kernel family takes it"),))
    assert "no kernel family takes it" in Page(render(changed)).text


def test_equal_layers_are_drawn_once(facts: Manifest) -> None:
    blocks = picture.find_blocks(facts)
    assert [b.name for b in blocks] == ["embeddings", "layer 1", "layer 2", "head"]
    kinds = picture.find_kinds(facts, blocks)
    # The last layer also undoes the scale that the stream carried, so it is a kind of its own.
    assert [k.title for k in kinds] == ["Embeddings", "Layer 1", "Layer 2", "Head"]
    again = tuple(replace(c, layer="layer 3") for c in facts.calls if c.layer == "layer 2")
    deeper = replace(facts, calls=tuple(c for c in facts.calls if c.layer != "head") + again)
    titles = [k.title for k in picture.find_kinds(deeper, picture.find_blocks(deeper))]
    assert titles == ["Embeddings", "Layer 1", "Layers 2 to 3"]


@pytest.mark.parametrize("areas", [memory.arena_areas, lambda facts: memory.scratch_areas(facts)[1]])
def test_rectangles_of_the_memory_plan_never_overlap(areas: Callable, facts: Manifest) -> None:
    found = areas(facts)
    assert len(found) > 4
    for n, one in enumerate(found):
        for two in found[:n]:
            together = one.first <= two.last and two.first <= one.last
            assert not (together and one.offset < two.offset + two.size and two.offset < one.offset + one.size)


def test_model_without_layers(graph: type, tmp_path: Path, host: Any) -> None:
    from compile.pipeline import BuildOptions, build_library

    b = graph()
    result = build_library(
        b.model(b.linear(b.input("x", [1, 8, 16]), 16, 4)), "tiny", host, tmp_path / "a", BuildOptions(8)
    )
    assert "Model: 1 call," in render(result.manifest)
    ids = Page(render(result.manifest)).values("id")
    assert len(ids) == len(set(ids))
