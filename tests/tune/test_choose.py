"""Which runner a command line gets, and with what of its arguments."""

import argparse
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from compile.targets import Target, find_target
from tune.errors import TuneError
from tune.runners.choose import add_runner_arguments, make_runner, parse_cores

PHONE = ["--runner", "adb", "--serial", "A1", "--serial", "B2", "--cool", "40"]


@pytest.mark.parametrize(
    ("given", "target", "made"),
    [
        ([], "x86_64-linux", ("LocalRunner", None)),
        (["--cores", "0,3"], "arm64-android", ("LocalRunner", [0, 3])),
        (["--runner", "adb"], "arm64-android", ("AdbRunner", None, None, 45.0)),
        ([*PHONE, "--cores", "4"], "arm64-android", ("AdbRunner", ["A1", "B2"], [4], 40.0)),
        (["--runner", "rpc", "--key", "k", "--cores", "1"], "x86_64-linux", ("RpcRunner", "127.0.0.1:9190", "k", [1])),
        (["--runner", "emulated"], "x86_64-linux", ("CyclesRunner",)),
        (["--runner", "emulated"], "arm64-android", ("EmulatedRunner",)),
        (["--runner", "emulated"], "arm64-linux", ("EmulatedRunner",)),
    ],
)
def test_each_runner_gets_what_is_its_own(given: list, target: str, made: tuple, monkeypatch: Any) -> None:
    for module, name in (
        ("compile.running.runners.local", "LocalRunner"), ("tune.runners.adb", "AdbRunner"),
        ("tune.runners.rpc", "RpcRunner"), ("tune.runners.cycles", "CyclesRunner"),
        ("tune.runners.emulated", "EmulatedRunner"),
    ):  # fmt: skip
        stand_in = SimpleNamespace(**{name: lambda *a, _name=name, **k: (_name, *a, *k.values())})
        monkeypatch.setitem(sys.modules, module, stand_in)
    parser = argparse.ArgumentParser()
    add_runner_arguments(parser)
    found: Target = find_target(target)
    assert make_runner(parser.parse_args(given), found) == made


def test_cores_are_numbers_with_commas() -> None:
    assert (parse_cores(None), parse_cores("7"), parse_cores("0,1")) == (None, [7], [0, 1])
    for text in ("", "a", "0-3", "1,,2"):
        with pytest.raises(TuneError, match=f"--cores {text}: write core numbers"):
            parse_cores(text)
