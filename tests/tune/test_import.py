"""What a device measured by itself, taken over: manifest, tuning database, predictor. The program's own tests: e2e."""

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from compile.cpus import CPUS
from compile.databases import read
from compile.running.load import read_manifest
from compile.running.runners.measurement import toolchain_hash
from tune.__main__ import main
from tune.errors import TuneError
from tune.measured.benchmark import read_benchmark
from tune.measured.take_over import tile_times


@pytest.fixture
def artifact(mobilebert_library: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(mobilebert_library, tmp_path / "artifact"))


@pytest.fixture
def printed(artifact: Path, tmp_path: Path) -> Callable[..., Path]:
    """printed(times, keys): a file as the program prints it, of a phone with two clusters; call N took times(N) ms."""

    def make(times: Callable[[int], float] = lambda call: 1.0 + call, **keys: Any) -> Path:
        manifest = read_manifest(artifact)
        calls = [times(n) for n in range(len(manifest.calls))]

        def result(threads: int, ms: float, **more: Any) -> dict[str, Any]:
            samples = [ms, ms + 1, ms + 2]
            times = {"open_ms": 2.0, "first_ms": 9.0, "samples_ms": samples, "cpu_ms": samples, "p50_ms": ms + 1}
            return {"threads": threads, **times, "p90_ms": ms + 2, "resident_bytes": 9, "anonymous_bytes": 5, **more}

        def cluster(cores: list[int], *results: Any) -> dict[str, Any]:
            facts = {"capacity": 1024, "max_khz": 0, "governor": "schedutil", "temperature": 31.5}
            return {"cores": cores, **facts, "results": list(results)}

        twice = [2 * ms for ms in calls]  # no program prints them of two threads: the first result's count
        big = cluster([6, 7], result(1, 50, calls_ms=calls), result(2, 30, calls_ms=twice))
        clusters = [big, cluster([0, 1], result(1, 200, calls_ms=calls))]
        data = {"format": 1, "model": manifest.name, "target": manifest.target, "precision": manifest.precision}
        data |= {"sha256": manifest.sha256, "cpu": manifest.cpu, "tokens": manifest.tokens, "weight_bytes": 1}
        data |= {"arena_bytes": 1, "emulated": False, "device": "Pixel 4", "system": "Linux", "clusters": clusters}
        path = tmp_path / "phone.json"
        path.write_text(json.dumps(data | keys))
        return path

    return make


def take(file: Path, artifact: Path, *more: object) -> int:
    return main(["import", str(file), "--artifact", str(artifact), *map(str, more)])


def test_latencies_stand_in_the_manifest_and_on_the_page(
    artifact: Path, printed: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in (("--db", tmp_path / "db.jsonl"), ()):  # a second time they replace the first ones
        assert take(printed(), artifact, *more) == 0
    assert (tmp_path / f"build/{read_manifest(artifact).cpu}.jsonl").exists()  # where nothing else is said
    taken = [(m.device, m.cores, m.threads, m.median_ms, m.runs, m.estimate) for m in read_manifest(artifact).measured]
    assert taken == [
        ("Pixel 4", (6, 7), 1, 51.0, 3, False),
        ("Pixel 4", (6, 7), 2, 31.0, 3, False),
        ("Pixel 4", (0, 1), 1, 201.0, 3, False),
    ]
    assert "Pixel 4" in (artifact / "report.html").read_text()


def test_a_measured_tile_replaces_an_estimate_and_not_a_measured_one(
    artifact: Path, printed: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, database = read_manifest(artifact), tmp_path / "db.jsonl"
    cpu = CPUS[manifest.cpu]
    assert take(printed(), artifact, "--db", database) == 0
    shipped = read(database, cpu)
    tiled = {(k.tiling.k, k.tiling.n) for k in manifest.kernels if k.tiling}
    ours = [r for r in shipped.records if r.status == "ok" and r.detail.get("source") == "benchmark program"]
    assert {(r.key.k, r.key.n) for r in ours} == tiled
    assert all(r.how == "measured" for r in ours)
    taken = [r.detail["measurement"] for r in ours]
    about = {"device": "Pixel 4", "cores": [6, 7], "threads": 1, "governor": "schedutil", "temperature": 31.5}
    assert all({name: one[name] for name in about} == about for one in taken)
    assert all((one["samples_ms"], one["cpu_ms"]) == ([r.ms], []) for one, r in zip(taken, ours, strict=True))
    lines = [json.loads(line) for line in database.read_text().splitlines()]
    estimated = [line | {"how": "estimated", "ms": 0.001} for line in lines if line["status"] == "chosen"]
    database.write_text("".join(json.dumps(line) + "\n" for line in estimated))
    assert take(printed(), artifact, "--db", database) == 0
    chosen = read(database, cpu).chosen
    for record in ours:
        assert chosen[record.key].how == "measured"
        assert (chosen[record.key].tile, chosen[record.key].ms) == (record.tile, record.ms)
    assert f"{len(tiled)} of them chosen" in capsys.readouterr().out


@pytest.mark.parametrize(("ms", "stays"), [(1e-3, True), (1e6, False)])
def test_of_two_tiles_of_the_same_device_the_faster_is_chosen(
    ms: float, stays: bool, artifact: Path, printed: Callable, tmp_path: Path
) -> None:
    """Here the database says that another tile took so long."""
    database, cpu = tmp_path / "db.jsonl", CPUS[read_manifest(artifact).cpu]
    assert take(printed(), artifact, "--db", database) == 0
    lines = [json.loads(line) for line in database.read_text().splitlines()]
    other = [line | {"tile": [1, 16, 1], "status": "chosen", "ms": ms} for line in lines if "source" in line]
    database.write_text("".join(json.dumps(line) + "\n" for line in other))
    assert take(printed(), artifact, "--db", database) == 0
    assert {record.tile.mr == 1 for record in read(database, cpu).chosen.values()} == {stays}


@pytest.mark.parametrize("other", ["A phone", "Zenfone"])
def test_a_tile_of_another_device_is_not_compared(
    other: str, artifact: Path, printed: Callable, tmp_path: Path
) -> None:
    database, cpu = tmp_path / "db.jsonl", CPUS[read_manifest(artifact).cpu]
    assert take(printed(lambda call: 2.0 + call, device=other), artifact, "--db", database) == 0
    lines = [json.loads(line) | {"status": "chosen"} for line in database.read_text().splitlines() if "source" in line]
    database.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = read(database, cpu).chosen
    assert take(printed(), artifact, "--db", database) == 0  # faster, on a Pixel 4
    assert read(database, cpu).chosen == before
    assert len(read(database, cpu).records) == 2 * len(lines)


def test_a_search_on_that_device_takes_the_kernels_costs(artifact: Path, printed: Callable, tmp_path: Path) -> None:
    import optuna

    from tune.search.study import DIRECTIONS, Settings, kernel_costs

    manifest, storage = read_manifest(artifact), f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="phone", storage=storage, directions=DIRECTIONS)
    settings = Settings("mobilebert", manifest.target, manifest.cpu, manifest.tokens, 1, "adb", "", 1e6, (0, 1), 2.0)
    study.set_user_attr("settings", json.loads(json.dumps(asdict(settings))))
    study.set_user_attr("reference", {"ms": 51.0, "device": "Pixel 4 (A1B2)", "toolchain": toolchain_hash(manifest)})
    where = ("--db", tmp_path / "db.jsonl", "--storage", storage, "--study")
    assert take(printed(lambda call: 2.5), artifact, *where, "phone") == 0
    costs = kernel_costs(optuna.load_study(study_name="phone", storage=storage).user_attrs)
    assert costs == {f"{call.kernel}@{call.rows}": 2.5 for call in manifest.calls}
    before = (tmp_path / "db.jsonl").read_bytes()
    assert take(printed(device="Pixel 9"), artifact, *where, "phone") == 2
    assert (tmp_path / "db.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"emulated": True}, "was taken under an emulator, whose times say nothing: run the program on the device"),
        ({"sha256": "0" * 64}, "is of another build of"),
        ({"tokens": "many"}, "tokens is 'many': it must be a whole number"),
        ({"clusters": []}, "clusters is []: it must be at least one cluster"),
        ({"format": 2}, "format is 2: choose from 1"),
    ],
)
def test_what_is_no_measurement_changes_nothing(
    keys: dict[str, Any], message: str, artifact: Path, printed: Callable, tmp_path: Path, capsys: Any
) -> None:
    before = (artifact / "manifest.json").read_bytes()
    assert take(printed(**keys), artifact, "--db", tmp_path / "db.jsonl") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (artifact / "manifest.json").read_bytes() == before
    assert not (tmp_path / "db.jsonl").exists()


def test_times_are_held_to_what_a_clock_can_say(printed: Callable) -> None:
    """The first value of each is just out of bounds, the second just within."""
    for name, outside, inside in (
        ("threads", 0, 1), ("open_ms", -1e-9, 0), ("open_ms", 2e9, 9.9e8),
        ("open_ms", 1e9, 9.9e8), ("first_ms", 0, 1e-9), ("p50_ms", -1.0, 1.0),
        ("samples_ms", [1.0, 0.0], [1.0, 1e-6]), ("samples_ms", [], [1.0]), ("samples_ms", [1] * 10_001, [1] * 10_000),
        ("calls_ms", [-1.0], [0.0]),
    ):  # fmt: skip
        for value, right in ((outside, False), (inside, True)):
            path = printed()
            data = json.loads(path.read_text())
            result = data["clusters"][0]["results"][0]
            result[name] = value
            if name == "samples_ms":
                result["cpu_ms"] = value
            path.write_text(json.dumps(data))
            with nullcontext() if right else pytest.raises(TuneError, match=name):
                read_benchmark(path)
    for name, outside, inside in (("cores", [], [0]), ("cores", [0] * 65, [0] * 64), ("results", [], [result])):
        for value, right in ((outside, False), (inside, True)):
            data["clusters"][0][name] = value
            path.write_text(json.dumps(data))
            with nullcontext() if right else pytest.raises(TuneError, match=name):
                read_benchmark(path)
    result["cpu_ms"] = result["cpu_ms"][1:]
    path.write_text(json.dumps(data))
    with pytest.raises(TuneError, match="not every sample has its processor's time"):
        read_benchmark(path)


def test_a_file_that_breaks_off_is_named(artifact: Path, printed: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    path = printed()
    path.write_text(path.read_text()[:100])
    assert take(path, artifact) == 2
    assert "not JSON" in capsys.readouterr().err


def test_tiles_for_another_instruction_set_are_not_taken(
    artifact: Path, printed: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = tmp_path / "db.jsonl"
    assert take(printed(cpu="armv7"), artifact, "--db", database) == 0
    said = "nothing, since the device ran other tiles, for armv7: build with --cpu armv7"
    assert f"{database}: {said}\n" in capsys.readouterr().out  # in one line, wherever it goes
    assert not database.exists()


@pytest.mark.parametrize(("ran", "taken"), [("cortex-a53", {8, 16}), ("cortex-a76", {8}), ("x86-64-v3", set())])
def test_int8_tiles_are_those_of_one_way_to_multiply(ran: str, taken: set[int]) -> None:
    """Built for a core without dot products; float32 kernels are the same with them."""
    kernels = [
        SimpleNamespace(
            name=precision, family="linear", precision=precision,
            tiling=SimpleNamespace(mr=4, nr=8, k_unroll=1, k=64, n=n),
        )
        for precision, n in (("float32", 8), ("int8", 16))
    ]  # fmt: skip
    calls = [SimpleNamespace(kernel=kernel.name, rows=16) for kernel in kernels]
    manifest: Any = SimpleNamespace(cpu="cortex-a53", tokens=16, kernels=kernels, calls=calls)
    results = (SimpleNamespace(calls_ms=(1.0, 2.0)),)
    benchmark: Any = SimpleNamespace(cpu=ran, clusters=(SimpleNamespace(results=results),))
    assert {key.n for key, _ in tile_times(benchmark, manifest)} == taken
