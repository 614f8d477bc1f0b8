"""Models that are closed, profiled, inherited by fork() or remembered at bad moments, with and without sanitizers."""

from collections.abc import Callable
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("lifetimes.c")
ADDRESS = "address,undefined"


@pytest.fixture(scope="session")
def lifetimes(small_library: Callable, program: Callable, execute: Callable) -> Callable[..., str]:
    """lifetimes(sanitize, mode, count): what the program prints."""
    built: dict[str, Path] = {}

    def run(sanitize: str, mode: str, count: int) -> str:
        if sanitize not in built:
            head = "token-classification" if sanitize else ""
            artifact = small_library(f"fuzzer,{sanitize}" if sanitize == ADDRESS else sanitize, head=head)
            built[sanitize] = program(SOURCE, artifact, sanitize=sanitize, options=("-DMODEL=small",))
        done = execute(built[sanitize], mode, count)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.mark.parametrize("sanitize", ["", ADDRESS, "thread"])
def test_close_waits_for_a_run_and_two_at_once_are_safe(sanitize: str, lifetimes: Callable) -> None:
    assert lifetimes(sanitize, "close", 200) == "200 closed, all while running\n"


@pytest.mark.parametrize("sanitize", [ADDRESS, "thread"])
def test_profile_while_another_thread_runs(sanitize: str, lifetimes: Callable) -> None:
    assert lifetimes(sanitize, "profile", 200) == "200 profiles\n"


@pytest.mark.parametrize("sanitize", ["", ADDRESS])
def test_child_process_refuses_a_model_that_it_inherits_and_opens_its_own(sanitize: str, lifetimes: Callable) -> None:
    assert lifetimes(sanitize, "fork", 20) == "20 forked\n"


def test_handle_does_not_come_round(lifetimes: Callable) -> None:
    """2^16 used to be enough."""
    assert lifetimes("", "handles", 70_000) == "70000 handles\n"
