"""`Measurement`: its statistics, its way through JSON, and that an estimate says so."""

import json
from dataclasses import replace

import numpy as np
import pytest

from compile.artifact.manifest import LibraryFacts
from compile.errors import CompileError
from compile.running.runners.measurement import Measurement, toolchain_hash

SAMPLES = tuple(float(x) for x in np.random.default_rng(3).lognormal(size=17))
MEASURED = Measurement(SAMPLES, "some CPU", (0, 2), 2, "performance", 41.5, "abc")


def test_median_and_interquartile_range_are_numpys() -> None:
    low, middle, high = np.percentile(SAMPLES, [25, 50, 75])
    assert pytest.approx(middle) == MEASURED.median_ms
    assert pytest.approx(high - low) == MEASURED.spread_ms
    assert replace(MEASURED, samples_ms=(1.5,)).spread_ms == 0.0


def test_json_and_back() -> None:
    assert Measurement.from_dict(json.loads(json.dumps(MEASURED.to_dict()))) == MEASURED


def test_an_estimate_says_so_wherever_it_is_printed() -> None:
    assert "ESTIMATED, not measured" in str(replace(MEASURED, estimate=True))
    assert "ESTIMATED" not in str(MEASURED)


@pytest.mark.parametrize("broken", [{}, {"samples_ms": 1.0}, MEASURED.to_dict() | {"more": 1}])
def test_what_is_no_measurement_is_refused(broken: dict) -> None:
    with pytest.raises(CompileError, match="not a measurement"):
        Measurement.from_dict(broken)


def test_no_samples_are_refused() -> None:
    with pytest.raises(CompileError, match="some CPU gave no samples"):
        replace(MEASURED, samples_ms=())


def test_the_toolchain_hash_follows_versions_and_linker_alone() -> None:
    made = LibraryFacts(name="a", target="arm64-linux", cpu="armv8.0", inputs=(), outputs=(), linker="zig 1",
                        versions={"numpy": "2.0"})  # fmt: skip
    assert toolchain_hash(made) == toolchain_hash(replace(made, name="b"))
    assert toolchain_hash(made) != toolchain_hash(replace(made, linker="zig 2"))
    assert toolchain_hash(made) != toolchain_hash(replace(made, versions={"numpy": "2.1"}))
