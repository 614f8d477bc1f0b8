"""What a report says and draws, of a search whose numbers are made up."""

import json
import re
from collections import Counter
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from tune.__main__ import main
from tune.errors import TuneError
from tune.search.figures import ACCENT, PAPERS, SUSPECT, _staircase, draw
from tune.search.findings import Findings, Point, _kind, find
from tune.search.noise import Noise
from tune.search.predictor import Accuracy, held_out
from tune.search.report import page, verdict
from tune.search.space import SPACES
from tune.search.study import DIRECTIONS, Settings, as_stored

SPACE = SPACES["mobilebert"]
CONFIG = SPACE.rows[SPACE.reference]
SETTINGS = Settings("mobilebert", "x86_64-linux", "x86-64-v3", 128, 2, "local", "F1 <of> ours", 25e6, (0.4, 0.6), 1.5)


def point(number: int, quality: float, ms: float, mib: float, **changes: object) -> Point:
    facts = {"row": None, "again": False, "outside": "", "suspect": "", "seeds": 1, "error": 0.0}
    facts |= {"predicted_ms": 1.25 * ms, "seq_len": 128, "precision": "float32"} | changes
    return Point(number, SPACE.parameters(CONFIG), CONFIG, quality, ms, mib, **facts)  # type: ignore[arg-type]


SLOW = point(0, 0.50, 8.0, 90.0, row="the <papers'>", seeds=3, error=0.25)
FAST = point(1, 0.25, 2.0, 10.0, again=True)
GOOD = point(2, 0.75, 4.0, 50.0)
EQUAL = point(3, 0.50, 8.0, 95.0)
LUCKY = point(4, 0.90, 1.0, 40.0, suspect="too <fast>")
POINTS = (SLOW, FAST, GOOD, EQUAL, LUCKY)
DEVICE = "a <CPU> $\\frac$"  # no formula


@pytest.fixture
def findings() -> Findings:
    accuracy = Accuracy(5, 25.0, 0.4, 0.5)
    cut = Counter({"too many parameters": 3, "measured before": 1})
    lost = ((7, "it was <busy>"),)
    front = (FAST, GOOD)
    return Findings("s", SETTINGS, SPACE, DEVICE, POINTS, front, SLOW, accuracy, cut, 2, Noise(0.25, 4), lost)


def test_what_is_better_than_the_reference(findings: Findings) -> None:
    assert findings.better == [GOOD, EQUAL]
    assert verdict(findings) == (
        "2 are at least as good as the <papers'> in quality and in latency; the fastest, trial 2: 4.00 ms against "
        "8.00, quality 0.75 against 0.5 ± 0.25"
    )
    assert verdict(replace(findings, points=(SLOW, FAST))).startswith("none is at least as good as the <papers'>")
    alone = replace(findings, reference=None)
    assert (alone.better, verdict(alone)) == ([], f"{SPACE.reference} was not measured yet")


def test_a_point_by_its_number(findings: Findings) -> None:
    assert findings.point(3) is EQUAL
    with pytest.raises(TuneError, match=r"--trial 5: not measured; there are 0, 1, 2, 3, 4$"):
        findings.point(5)


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("26.1M parameters, at most 25M", "too many parameters"),
        ("MHA:FFN is 0.9", "attention and FFNs out of balance"),
        ("predicted 9 ms, at most 8", "predicted to be too slow"),
        ("the same architecture as trial 3", "measured before"),
        ("5 does not divide 128", "sizes that do not fit together"),
    ],
)
def test_kinds_of_what_was_pruned(reason: str, kind: str) -> None:
    assert _kind(reason) == kind


def shown(findings: Findings) -> str:
    drawings = {name: f'<svg id="{name}"/>' for name in ("front", "hypervolume", "importances", "predictor")}
    return page(findings, drawings)


def rows(text: str) -> list[list[str]]:
    """Cells of each row of trials."""
    found = re.findall(r"<tr data-trial.*?</tr>", text)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall("<td.*?</td>", row)] for row in found]


def test_the_page_tells_of_every_trial_that_matters(findings: Findings) -> None:
    text = shown(findings)
    table = {row[0]: row for row in rows(text)}
    assert list(table) == ["4", "1", "2", "0"]  # the fastest first; the equal one is on no front
    heads = re.findall(r"<th( class=n)?>(\w+)</th>", text)
    numbers = ("trial", "quality", "ms", "predicted", "MiB")
    assert sorted(heads) == sorted([("", "architecture"), *((" class=n", name) for name in numbers)])
    assert table["0"][2:] == ["0.5 ± 0.25", "8.00", "10.00", "90.00"]
    assert table["1"][1].endswith(" front, measured twice")
    assert table["2"][1].endswith(" front")
    assert table["4"][1].endswith(" suspect")
    assert table["0"][1].endswith(" the &lt;papers&#x27;&gt;")
    assert table["2"][1].startswith("24 layers, 512/128, 4 heads, 4 FFNs of 512, NoNorm, relu, ")
    assert "&lt;busy&gt;" in text
    assert "&lt;CPU&gt;" in text
    assert "F1 &lt;of&gt; ours" in text
    assert not re.search("<busy>|<CPU>|<of>|<papers|<fast>", text)
    assert re.search(r"\bpre {[^}]*white-space: pre-wrap; overflow-wrap: anywhere", text)  # commands are long


def test_the_pages_figures(findings: Findings) -> None:
    text = shown(findings)
    for number, what in (
        ("5", "architectures measured"),
        ("2", "on the front, 1 of them measured twice"),
        ("2", f"at least as good as {SPACE.reference} in quality and latency"),
        ("25.0 %", "mean error of the predicted latency"),
        ("4", "pruned unmeasured, 2 failed or were interrupted"),
        ("0.25", "deviation of a quality between seeds"),
    ):
        assert f"<b>{number}</b><span>{what}" in text
    assert "at most 25.00M parameters, MHA:FFN 0.4 to 0.6; latency of libraries for x86_64-linux (x86-64-v3)" in text
    assert "float32, 2 threads, 128 tokens, by the runner local on a" in text
    one = replace(findings, settings=replace(SETTINGS, threads=1), noise=Noise(), accuracy=None)
    assert "float32, 1 thread, 128" in shown(one)
    assert "deviation of a quality" not in shown(one)
    assert "<b>–</b>" in shown(one)
    predicted = ", each predicted by a calibration that has not seen it"
    assert "Kendall&#x27;s τ 0.50, 5 architectures" + predicted in text
    assert "too few architectures to tell" + predicted in shown(one)
    assert re.findall(r'<td class="n">(\d+|trial \d+)</td><td>(.*?)</td></tr>', text)[-3:] == [
        ("3", "too many parameters"),
        ("1", "measured before"),
        ("trial 7", "the machine was too busy: it was &lt;busy&gt;"),
    ]
    nothing = replace(findings, pruned=Counter(), unmeasured=())
    assert "Every candidate was measured." in shown(nothing)
    assert "Every candidate" not in shown(replace(nothing, unmeasured=findings.unmeasured))


def study_of(*values: tuple[float, float, float], **settings: object) -> optuna.Study:
    """A study in memory; trial n is row n of the space's, and its kernels sum up to 80 % of its latency."""
    study = optuna.create_study(study_name="s", directions=DIRECTIONS)
    study.set_user_attr("settings", as_stored(asdict(replace(SETTINGS, **settings))))  # type: ignore[arg-type]
    study.set_user_attr("reference", {"ms": 8.0, "device": DEVICE})
    kinds = {name: optuna.distributions.CategoricalDistribution(choices) for name, choices in SPACE.choices.items()}
    for value, (row, config) in zip(values, SPACE.rows.items(), strict=False):
        about = {"kernel_sum_ms": 0.8 * value[1], "row": row}
        parameters = dict(SPACE.parameters(config))
        study.add_trial(create_trial(values=value, params=parameters, distributions=kinds, user_attrs=about))
    return study


def test_what_a_study_found() -> None:
    values = [(0.5, 8.0, 90.0), (0.25, 2.0, 10.0), (0.75, 4.0, 50.0)]
    study = study_of(*values)
    first, lost = study.trials[0].params, study.trials[0].distributions
    for state, attributes, parameters in (
        (TrialState.PRUNED, {"pruned": "MHA:FFN is 0.9"}, first), (TrialState.FAIL, {"failed": "no number"}, first),
        (TrialState.FAIL, {"unmeasured": "busy"}, first), (TrialState.FAIL, {"unmeasured": "very busy"}, first | {
            "num_hidden_layers": 30}),
    ):  # fmt: skip
        study.add_trial(create_trial(state=state, params=parameters, distributions=lost, user_attrs=attributes))
    study.set_user_attr("again:2", {"ms": 5.0})
    study.set_user_attr("quality-again:1", [0.35])
    result = find(study)
    assert [(p.number, p.ms, p.mib, p.row, p.again) for p in result.points] == [
        (0, 8.0, 90.0, "student-128", False), (1, 2.0, 10.0, "student-192", False), (2, 5.0, 50.0, "student-160", True),
    ]  # fmt: skip
    assert [p.quality for p in result.points] == pytest.approx([0.5, 0.3, 0.75])
    assert [p.seeds for p in result.points] == [1, 2, 1]
    assert all(p.error == result.noise.error(p.seeds) > 0 for p in result.points)
    assert [p.predicted_ms for p in result.points] == held_out([6.4, 1.6, 3.2], [8.0, 2.0, 5.0])
    assert result.reference is result.points[0]
    assert [p.config for p in result.points] == list(SPACE.rows.values())[:3]
    assert (dict(result.pruned), result.failed) == ({"attention and FFNs out of balance": 1}, 2)
    assert result.unmeasured == ((6, "very busy"),)  # what was measured after all is not lost
    assert (result.device, result.settings) == (DEVICE, SETTINGS)
    assert result.accuracy is not None
    assert find(study_of(*values[:2])).accuracy is None
    with pytest.raises(TuneError, match="--study s: no architecture is measured yet"):
        find(study_of())
    study.set_user_attr("settings", {"space": "mobilebert"})
    with pytest.raises(TuneError, match="--study s: its settings are not a search's"):
        find(study)


def test_a_trials_commands_instead_of_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = study_of((0.5, 8.0, 90.0))
    monkeypatch.setattr("tune.search.storage.load_study", lambda name, address: study)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--study", "s", "--storage", "x", "--trial", "0"]) == 0
    assert capsys.readouterr().out == find(study).commands(find(study).points[0]) + "\n"
    assert main(["report", "--study", "s", "--storage", "x", "--trial", "1"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_a_click_on_a_point_tells(findings: Findings) -> None:
    points = json.loads(re.search(r"const points = (.*);\n", shown(findings))[1])  # type: ignore[index]
    assert points["0"]["title"] == "Trial 0: the <papers'>"
    assert points["1"]["title"] == "Trial 1"
    assert points["0"]["text"].endswith("Quality 0.5 ± 0.25 (the mean of 3 seeds), 8.00 ms, 90.00 MiB.")
    assert points["1"]["text"].endswith("Quality 0.25, 2.00 ms, 10.00 MiB.")
    assert points["4"]["text"].endswith(" Suspect, and so on no front: too <fast>.")
    assert "choose(2);" in shown(findings)
    assert "choose(1);" in shown(replace(findings, reference=None))


def test_commands_name_the_precision_where_it_is_not_float32(findings: Findings) -> None:
    assert "--precision" not in findings.commands(GOOD)
    int8 = replace(GOOD, precision="int8")
    assert "--cpu x86-64-v3 --seq-len 128 --precision int8 --out a" in findings.commands(int8)


def test_the_staircase_is_the_front_in_quality_and_latency(findings: Findings) -> None:
    assert _staircase(findings) == [FAST, GOOD]  # and not the suspect
    better = point(8, 1.0, 2.0, 1.0)  # and as fast
    assert _staircase(replace(findings, points=(FAST, better))) == [better]


def test_the_pictures_show_every_point(findings: Findings) -> None:
    from matplotlib import pyplot
    from matplotlib.colors import to_hex

    shares = {"quality": {"num_attention_heads": 0.75, "ffn": 0.25}, "latency, ms": {"ffn": 0.375}}
    figures = draw(findings, MappingProxyType(shares))
    try:
        (axes, bar) = figures["front"].axes
        drawn = {line.get_gid(): line for line in axes.lines if line.get_gid()}
        assert {gid: (line.get_xdata()[0], line.get_ydata()[0]) for gid, line in drawn.items()} == {
            f"trial-{p.number}": (p.ms, p.quality) for p in POINTS
        }
        edges = {p.number: to_hex(drawn[f"trial-{p.number}"].get_markeredgecolor()) for p in POINTS}
        assert edges == {0: PAPERS, 1: ACCENT, 2: ACCENT, 3: "#ffffff", 4: "#ffffff"}
        assert [drawn[f"trial-{n}"].get_marker() for n in range(5)] == ["D", "o", "o", "o", "o"]
        crosses = [line for line in axes.lines if line.get_marker() == "x"]
        assert [(line.get_xdata()[0], to_hex(line.get_markeredgecolor())) for line in crosses] == [(1.0, SUSPECT)]
        (interval,) = axes.containers  # of the one with several seeds
        assert [segment[:, 1].tolist() for segment in interval.lines[2][0].get_segments()] == [[0.25, 0.75]]
        assert min(interval.lines[2][0].get_linewidths()) > 0
        fill = {p.number: to_hex(drawn[f"trial-{p.number}"].get_markerfacecolor()) for p in POINTS}
        assert len(set(fill.values())) == 5
        assert (bar.get_ylim(), bar.get_ylabel()) == ((10.0, 95.0), "size of the library, MiB")
        marks = "ringed: on the front; diamonds: the papers'; crossed out: suspect"
        assert axes.get_title("left") == f"5 architectures; {marks}"
        assert axes.get_xlabel() == f"latency, ms — {DEVICE}, 2 threads, 128 tokens"
        (label,) = axes.texts
        assert (label.get_text(), label.xyann[0] > 8.0, label.xyann[1]) == ("the <papers'>", True, 0.5)
        assert axes.get_xlim()[1] > 8.5  # room for it
        (axes,) = figures["hypervolume"].axes
        (steps,) = axes.lines
        assert steps.get_xdata().tolist() == [1, 2, 3, 4, 5]
        assert axes.get_ylim() == (0, 1)
        (axes,) = figures["importances"].axes
        assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ffn", "attention heads"]
        assert [round(bar.get_width(), 6) for bar in axes.patches] == [0.25, 0.75, 0.375, 0.0]
        heights = [round(bar.get_y() + bar.get_height() / 2, 6) for bar in axes.patches]
        assert heights == [0.27, 1.27, 0.0, 1.0]  # above each other in the legend's order, the second on its name
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["quality", "latency, ms"]
        (axes,) = figures["predictor"].axes
        (diagonal, points) = axes.lines
        assert axes.get_xlim() == axes.get_ylim() == tuple(diagonal.get_xdata()) == tuple(diagonal.get_ydata())
        assert axes.get_xlim()[0] < 1.0 < 10.0 < axes.get_xlim()[1]
        (band,) = axes.collections  # ±10 %
        corners = {tuple(vertex) for vertex in band.get_paths()[0].vertices.round(9)}
        assert corners >= {(round(x, 9), round(share * x, 9)) for x in axes.get_xlim() for share in (0.9, 1.1)}
        assert (list(points.get_xdata()), list(points.get_ydata())) == (
            [p.ms for p in POINTS], [p.predicted_ms for p in POINTS]
        )  # fmt: skip
        assert axes.get_title("left") == "Predictor: MAPE 25.0 %, τ 0.50"
    finally:
        for figure in figures.values():
            pyplot.close(figure)


def test_names_that_would_lie_on_each_other_are_moved_up(findings: Findings) -> None:
    from matplotlib import pyplot

    near = tuple(point(n, 0.5 + 0.001 * n, 8.0 + 0.001 * n, 10.0 + n, row=f"row {n}") for n in range(4))
    far = point(9, 0.1, 1.0, 5.0, row="far")
    figures = draw(replace(findings, points=(*near, far), front=near), {})
    try:
        axes = figures["front"].axes[0]
        heights = {text.get_text(): text.xyann[1] for text in axes.texts}
        places = {text.get_text(): text.xyann[0] for text in axes.texts}
        bottom, top = axes.get_ylim()
        names = [f"row {n}" for n in range(4)]
        assert heights["row 0"] == 0.5
        for one, other in pairwise(names):
            assert 0.02 < (heights[other] - heights[one]) / (top - bottom) < 0.06
        assert len({places[name] for name in names}) == 1  # one column
        assert 1.0 < places["far"] < 2.0
    finally:
        for figure in figures.values():
            pyplot.close(figure)
