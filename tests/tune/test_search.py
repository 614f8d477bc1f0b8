"""A whole search, small: architectures of one narrow layer that differ in FFNs, really built and measured here."""

import json
import re
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import product
from types import MappingProxyType

import onnx
import optuna
import pytest

import model
from compile.running.load import read_manifest
from compile.running.runners.local import LocalRunner
from model.commands.config import read
from model.distill import Distillation
from model.presets import find_preset
from model.recipes.distill import DistillConfig
from model.recipes.pretrain import PretrainConfig
from tune.__main__ import main
from tune.errors import TuneError
from tune.search import artifact, candidate, latency
from tune.search import space as spaces
from tune.search.artifact import Build
from tune.search.candidate import Search
from tune.search.command import loop
from tune.search.export_command import SHARED, of_space, toml, training_files
from tune.search.findings import find
from tune.search.space import SPACES
from tune.search.storage import load_study
from tune.search.study import Settings, complete, join_study
from tune.search.workers import Worker

TOY = SPACES["mobilebert-toy"]
TINY = {"num_hidden_layers": 1, "hidden_size": 64, "embedding_size": 32, "vocab_size": 200, "bottleneck_size": 32}
REFERENCE = replace(TOY.base, **TINY, intermediate_size=64, num_attention_heads=2, num_feedforward_networks=2)
SPACE = replace(
    TOY,
    name="tiny",
    base=REFERENCE,
    choices=MappingProxyType(
        {
            "num_attention_heads": (2, 3),
            "num_feedforward_networks": (1, 2, 16),
            "ffn_expansion": (2,),
        }
    ),
    rows={"ours": REFERENCE},
    max_params=90_000,
    mha_ffn=(0.2, 3.0),
)
COMMON = ["--study", "s", "--space", "tiny", "--seq-len", "16"]


class Quality:
    """The fewer FFNs the better; counts how often it is asked."""

    name = "few FFNs"
    has_seeds = judges_all = True

    def __init__(self):
        self.asked = 0

    def prepare(self):
        pass

    def measure(self, config, builds, seed=0):
        self.asked += 1
        lost = [(build.precision == "int8") + 1 / build.seq_len - 1 / 16 for build in builds]
        return [-float(config.num_feedforward_networks) + (0, 0.01, -0.01)[seed] - less for less in lost]


@contextmanager
def search(address, quality):
    settings = Settings("tiny", "x", "y", 16, 1, "local", quality.name, SPACE.max_params, SPACE.mha_ffn, 5.0)
    study = join_study("s", address, settings, seed=0)
    with LocalRunner() as runner, Search(study, SPACE, Build(seq_len=16), runner, quality, 1, 5.0) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A finished study."""
    patched = pytest.MonkeyPatch()
    patched.setitem(spaces.SPACES, "tiny", SPACE)
    patched.setattr(candidate, "PROBE_TURNS", 1)
    # Tests run beside others: what a busy machine does to a latency has tests of its own.
    patched.setattr(latency, "disturbance", lambda *_: None)
    for bound in ("THE_SAME", "AS_PREDICTED", "ABOVE_PEAK"):
        patched.setattr(candidate, bound, 1e9)
    made = f"sqlite:///{tmp_path_factory.mktemp('search')}/study.db"
    with search(made, Quality()) as found, Worker(found.study, "w") as worker:
        found.prepare()
        loop(found, worker, 2)
        found.repeat_qualities(3)
        found.measure_front_again()
    yield made
    patched.undo()


def test_what_was_pruned_says_why_and_what_was_measured_was_predicted_before(address):
    study = load_study("s", address)
    trials = study.trials
    assert trials[0].user_attrs["row"] == "ours"
    assert trials[0].state == optuna.trial.TrialState.COMPLETE
    assert all(t.user_attrs["predicted_ms"] > 0 for t in complete(study))
    reasons = [t.user_attrs["pruned"] for t in trials if t.state == optuna.trial.TrialState.PRUNED]
    assert reasons
    assert all(re.search("divide|parameters|MHA:FFN|same architecture|predicted", reason) for reason in reasons)


def test_nothing_that_is_known_is_measured_again(address):
    study = load_study("s", address)
    known, quality = dict(study.user_attrs), Quality()
    with search(address, quality) as found:
        found.prepare()
        found.runner = None  # nothing may run
        for trial in complete(study):
            config, build = SPACE.config(trial.params), found.build
            made = found.program(config, build)
            found.probe(made, build)
            again = found.latency(config, made, trial.user_attrs["predicted_ms"], build)
            assert (found.measured_quality(config, build), again["ms"], again["mib"]) == tuple(trial.values)
        assert found.measure_front_again() == found.repeat_qualities(3) == []
    assert quality.asked == 0
    assert dict(study.user_attrs) == known


def test_the_whole_front_was_measured_twice(address):
    findings = find(load_study("s", address))
    assert findings.front
    assert all(point.again for point in findings.front)


def test_what_is_on_the_front_was_judged_by_three_seeds(address):
    findings = find(load_study("s", address))
    assert findings.noise.deviation == pytest.approx(0.01)
    assert all(point.seeds == 3 for point in (*findings.front, findings.reference))
    assert all(point.error == pytest.approx(findings.noise.error(point.seeds)) for point in findings.points)


def test_what_is_found_of_a_trial_is_what_it_was_told(address):
    study = load_study("s", address)
    for point in find(study).points:
        trial = study.trials[point.number]
        assert (point.mib, point.parameters) == (trial.values[2], trial.params)
        assert point.quality == pytest.approx(trial.values[0])
        assert trial.values[0] == -float(point.config.num_feedforward_networks)
        assert point.row == trial.user_attrs.get("row")


def test_the_commands_of_a_point_build_the_library_that_was_measured(address, tmp_path, monkeypatch):
    study = load_study("s", address)
    findings = find(study)
    point = findings.points[-1]
    monkeypatch.chdir(tmp_path)
    commands = findings.commands(point).replace("\\\n", "").splitlines()
    commands = [c.replace("--target x --cpu y", "--target host") for c in commands]
    assert main(commands[0].split()[3:]) == 0
    from compile.__main__ import main as compile_main

    assert compile_main(commands[1].split()[3:]) == 0
    built = read_manifest(next(path for path in tmp_path.iterdir() if path.is_dir()))
    measured = [
        v
        for k, v in study.user_attrs.items()
        if k.startswith("latency:") and v["ms"] == study.trials[point.number].values[1]
    ]
    assert built.sha256 in [entry["sha256"] for entry in measured]


def test_the_report_needs_nothing_else(address, tmp_path, capsys):
    assert main(["report", "--study", "s", "--storage", address, "--out", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert not re.search(r"<(script|link|img)\b[^>]*http|@import", page)
    findings = find(load_study("s", address))
    assert all(page.count(f'id="trial-{p.number}"') == 1 for p in findings.points)
    shown = {p.number: p.ms for p in findings.points if p in findings.front or p.row}
    assert re.findall(r'<tr data-trial="(\d+)"', page) == [str(n) for n in sorted(shown, key=shown.get)]
    assert f"<b>{len(findings.points)}</b><span>architectures measured</span>" in page
    assert page.count('<span class="tag">front, measured twice</span>') == len(findings.front)
    points = json.loads(re.search(r"const points = (.*);\n", page).group(1))
    assert set(points) == {str(p.number) for p in findings.points}
    for name in ("front", "hypervolume", "importances", "predictor"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    assert "on the front" in said
    assert "predictor: too few architectures to tell\n" in said


def test_optunas_dashboard_opens_the_storage(address):
    dashboard = pytest.importorskip("optuna_dashboard", reason="needs pip install optuna-dashboard")
    from optuna_dashboard._app import create_app  # noqa: F401

    assert dashboard.wsgi(address) is not None


def test_a_worker_with_other_settings_is_refused(address):
    begun = load_study("s", address).user_attrs["settings"]
    other = Settings(**{**begun, "seq_len": 32, "mha_ffn": tuple(begun["mha_ffn"])})
    with pytest.raises(Exception, match="begun with seq-len 16, this worker has 32"):
        join_study("s", address, other, None)


def test_a_study_of_another_device_is_refused(address):
    with search(address, Quality()) as found:
        begun = found.study.user_attrs["reference"]
        found.study.set_user_attr("reference", begun | {"device": "a phone"})
        try:
            with pytest.raises(Exception, match="measured with device 'a phone'"):
                found.prepare()
        finally:
            found.study.set_user_attr("reference", begun)


def test_an_int8_search_measures_int8_kernels_and_belongs_to_its_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(candidate, "PROBE_TURNS", 1)
    monkeypatch.setattr(latency, "disturbance", lambda *_: None)
    address = f"sqlite:///{tmp_path}/study.db"
    settings = Settings("tiny", "x", "y", 16, 1, "local", "few FFNs", SPACE.max_params, SPACE.mha_ffn, 5.0, "int8")
    study = join_study("s", address, settings, seed=0)
    build = Build(seq_len=16, precision="int8")
    assert build.key(REFERENCE) != Build(seq_len=16).key(REFERENCE)
    with LocalRunner() as runner, Search(study, SPACE, build, runner, Quality(), 1, 5.0) as found:
        found.prepare()
        assert read_manifest(found.reference).precision == "int8"
        made = found.program(REFERENCE, build)
        call = next(call for call in made.calls if call.kernel.precision != "f32" and call.kernel.tile_name)
        assert found.kernel_ms(call, made, build) > 0
        assert found.study.user_attrs["reference"]["peaks"].keys() == {"int8"}
    with pytest.raises(TuneError, match="was begun with precision 'int8', this worker has 'float32'"):
        join_study("s", address, replace(settings, precision="float32"), seed=0)


AXES = {"seq_len": (16, 8), "precision": ("float32", "int8")}


def test_length_and_precision_are_axes_of_a_search(tmp_path, monkeypatch, capsys):
    """The reference is tried in all four; an architecture is judged in all of them once it is in one."""
    monkeypatch.setitem(spaces.SPACES, "tiny", SPACE)
    monkeypatch.setattr(latency, "disturbance", lambda *_: None)
    monkeypatch.setattr(candidate, "THE_SAME", 1e9)
    address, bounds = f"sqlite:///{tmp_path}/study.db", (SPACE.max_params, SPACE.mha_ffn, 5.0)
    settings = Settings("tiny", "x", "y", 16, 1, "local", "q", *bounds, "float32", *AXES.values())
    study, quality = join_study("s", address, settings, seed=0), Quality()
    with LocalRunner() as runner, Search(study, SPACE, Build(seq_len=16), runner, quality, 1, 5.0, AXES) as found:
        found.prepare()
        waiting = [t.system_attrs["fixed_params"] for t in study.get_trials()]
        assert [(t["seq_len"], t["precision"]) for t in waiting] == list(product(*AXES.values()))
        for number in range(4):
            trial = study.ask()
            config = found.config(trial)
            build = found.build_of(trial.params)
            made = found.program(config, build)
            assert (made.tokens, {c.kernel.precision for c in made.calls} > {"f32"}) == (
                build.seq_len, build.precision == "int8",
            )  # fmt: skip
            trial.set_user_attr("kernel_sum_ms", 1.0)
            study.tell(trial, [found.measured_quality(config, build), 1.0 - number / 8, 1.0])
        assert quality.asked == 1
        assert set(found.study.user_attrs["reference"]["peaks"]) == {"float32", "int8"}
    points = find(study).points
    assert [p.row for p in points] == ["ours", "ours, 16, int8", "ours, 8, float32", "ours, 8, int8"]
    assert [p.quality for p in points] == pytest.approx([-2.0, -3.0, -2.0625, -3.0625])
    assert str(points[3]).endswith("stream, 8 tokens, int8")
    commands = find(study).commands(points[3])
    assert commands.count("--seq-len 8") == 2
    assert re.search(r"--precision int8 --out a\w+-8-int8$", commands)
    assert "precision=" not in commands
    assert main(["report", "--study", "s", "--storage", address, "--out", str(tmp_path)]) == 0
    assert "float32 or int8, 1 thread, 16 or 8 tokens" in (tmp_path / "index.html").read_text()
    with pytest.raises(TuneError, match=r"begun with seq-lens \[16, 8\], this worker has \[\]"):
        join_study("s", address, replace(settings, seq_lens=()), seed=0)
    capsys.readouterr()
    command = [*COMMON, "--storage", address, "--precision", "float32", "int8", "--quality-command", "true {config}"]
    assert main(["search", *command]) == 2
    assert "several values of --precision need {precision} in it" in capsys.readouterr().err


def test_a_study_of_before_precision_goes_on_in_float32(tmp_path):
    settings = Settings("tiny", "x", "y", 16, 1, "local", "few FFNs", SPACE.max_params, SPACE.mha_ffn, 5.0)
    address = f"sqlite:///{tmp_path}/study.db"
    study = join_study("s", address, settings, seed=0)
    later = ("precision", "seq_lens", "precisions")
    study.set_user_attr("settings", {k: v for k, v in asdict(settings).items() if k not in later})
    join_study("s", address, settings, seed=0)
    with pytest.raises(TuneError, match="precision 'float32', this worker has 'int8'"):
        join_study("s", address, replace(settings, precision="int8"), seed=0)


def test_a_trial_is_exported_with_the_configurations_that_train_it(address, tmp_path, capsys):
    trial = complete(load_study("s", address))[0]
    out = tmp_path / "a.onnx"
    assert main(["export", "--study", "s", "--storage", address, "--trial", str(trial.number), "-o", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(tmp_path / "a-teacher.toml"), str(tmp_path / "a.toml")]
    assert [[d.dim_value for d in i.type.tensor_type.shape.dim] for i in onnx.load(out).graph.input] == [[1, 16]] * 3
    student, teacher = read(tmp_path / "a.toml", DistillConfig), read(tmp_path / "a-teacher.toml", PretrainConfig)
    measured = SPACE.config(trial.params)
    assert student.model.load("mlm").config == measured
    assert student.teacher == f"{teacher.output}/model"
    assert f"trial {trial.number} of the study" in (tmp_path / "a.toml").read_text()
    stages = student.transfer.stages(measured.num_hidden_layers, student.train.steps)
    Distillation(student.model.load("mlm"), teacher.model.load("mlm"), stages[0], student.transfer.weights())


def test_parameters_that_are_set_and_the_first_row_for_the_others():
    space, config = of_space("mobilebert", ["hidden_size=384", "activation=gelu", "num_hidden_layers=12"])
    assert (space.name, config.hidden_size, config.activation, config.num_hidden_layers) == (
        "mobilebert", 384, "gelu", 12,
    )  # fmt: skip
    first = space.rows[space.reference]
    assert replace(config, hidden_size=512, activation="relu", num_hidden_layers=24) == first
    for wrong in ("hidden_size=38", "hidden_size=", "hidden_size", "activation=ge"):
        with pytest.raises(TuneError, match=f"--set {wrong}: choose from"):
            of_space("mobilebert", [wrong])


@pytest.mark.parametrize("value", ["a'b\"c\\n\n#=[x]", "\x00\x1b\x7f\x85", "é\U0001f600\u2028", ["a\n", 1.5, True]])
def test_what_is_written_to_toml_is_read_back(value):
    assert tomllib.loads(f"name = {toml(value)}") == {"name": value}


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda s: s.name)
def test_every_row_has_configurations_that_can_be_trained(space, tmp_path):
    for name, config in space.rows.items():
        files = training_files(space, config, "x", tmp_path / f"{name}.onnx")
        kinds = [PretrainConfig] if space.name == "ib-bert" else [PretrainConfig, DistillConfig]
        made = []
        for (path, text), kind in zip(files, kinds, strict=True):
            path.write_text(text)
            source = read(path, kind).model
            made.append(replace(find_preset(source.preset), **source.fields))
        assert made[-1] == config
        if len(made) == 2:
            assert all(getattr(made[0], shared) == getattr(config, shared) for shared in SHARED)
            heads = 64 * config.num_attention_heads  # each as wide as IB-BERT's or twice that, and so on
            assert made[0].bottleneck_size == min(range(heads, 2048, heads), key=lambda width: abs(width - 1024))
            assert made[0].intermediate_size == 4 * made[0].bottleneck_size


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["export", "--study", "s", "--trial", "0", "-o", "m.onnx"], "give --study, --storage and --trial, or --space"),
        (["export", "-o", "m.bin"], "name a file that ends in .onnx"),
        (
            ["search", *COMMON, "--storage", "sqlite:////no/folder/s.db", "--quality-command", "true"],
            "cannot be opened",
        ),
        (["search", "--study", "s", "--space", "bert", "--storage", "sqlite:///s.db"], "--space bert"),
        (["search", *COMMON, "--storage", "sqlite:///s.db", "--trials", "0"], "--trials 0"),
        (["search", *COMMON, "--storage", "sqlite:///s.db", "--quality", "none.toml"], "none.toml"),
        (["report", "--study", "s", "--storage", "journal:/no/folder/s.log"], "no folder"),
        (["export", "--space", "tiny", "--set", "heads=2", "-o", "m.onnx"], "--set heads=2"),
        (["export", "--space", "tiny", "--set", "num_attention_heads=7", "-o", "m.onnx"], "choose from 2, 3"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, said, address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.glob("*.onnx")) == []


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("search", "--study, --storage"), ("report", "--study, --storage"), ("export", "-o/--output"),
        ("import", "FILE, --artifact"),
    ],
)  # fmt: skip
def test_a_command_asks_for_what_it_cannot_do_without(command, needed, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([command])
    assert f"the following arguments are required: {needed};" in capsys.readouterr().err


def test_random_weights_are_the_same_on_every_machine_and_for_ever(tmp_path):
    """A library is known by its hash: what a study measured long ago can be built once more."""
    module = model.create(REFERENCE, seed=0)
    model.randomize_norms(module, 0)
    again = model.export(module, tmp_path / "again.onnx", seq_len=16, batch=1)
    assert artifact.export(REFERENCE, tmp_path / "first.onnx", 16).read_bytes() == again.read_bytes()


def test_the_command_line_knows_its_commands():
    done = subprocess.run([sys.executable, "-m", "tune", "--help"], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("search", "report", "export"))
