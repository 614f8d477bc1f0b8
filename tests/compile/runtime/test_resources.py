"""What a model takes of memory, threads and files it gives back, also where it is refused some of it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

MEMORY, THREAD, ARGUMENT = 4, 6, 1


@pytest.fixture(scope="session")
def resources(small_library: Callable, program: Callable, execute: Callable) -> Callable[..., list[str]]:
    """resources(mode, head): the lines that resources.c prints."""
    options = ("-DMODEL=small", "-Wl,--export-dynamic")

    @cache
    def linked(head: str) -> Path:
        return program(Path(__file__).with_name("resources.c"), small_library(head=head), options=options)

    def run(mode: str, head: str = "") -> list[str]:
        done = execute(linked(head), mode)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_model_keeps_to_its_memory_and_returns_all_of_it(resources: Callable) -> None:
    assert resources("returned") == ["10 returned all"]


def test_every_refusal_is_an_error_that_leaves_nothing(resources: Callable) -> None:
    assert resources("refused") == [
        f"{MEMORY} open: out of memory",
        f"{MEMORY} open: out of memory for the tensors",
        f"{MEMORY} open: out of memory for the profile",
        *[f"{THREAD} open: threads could not be created"] * 3,  # the pool's memory, and each of two threads
        f"{MEMORY} open: too many models are open: close one",
        "0 opened",
        f"{ARGUMENT} open: options->cores names no core that this process may use",
        "0 opened",
    ]


def test_text_without_memory_is_refused_and_the_model_goes_on(resources: Callable) -> None:
    assert resources("text") == ["refused"]


@pytest.mark.parametrize("head", ["sequence-classification", "token-classification", "question-answering"])
def test_task_without_memory_is_refused_and_keeps_none(head: str, resources: Callable) -> None:
    assert resources("tasks", head) == ["refused", "refused"]


def test_threads_follow_the_cores_up_to_four_and_the_options_up_to_the_tokens(resources: Callable) -> None:
    (line,) = resources("threads")
    assert line.split() == [*"1234444444", *"12345678888"]  # 1 to 10 cores; 1 to 10 and 64 threads


def test_as_many_models_can_be_open_as_there_are_slots(resources: Callable) -> None:
    assert resources("many") == ["256, open: too many models are open: close one"] * 2
