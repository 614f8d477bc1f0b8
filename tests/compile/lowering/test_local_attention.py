"""Local attention: the ways in which exports write a window; keys beyond it are not looked at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compile.kernels.attention import Window
from tests.compile.lowering.test_biases import LOWEST, TOKENS, attend, distances, embedded, heads, mask_bool, product
from tests.support.lengths import check_every_length

REACH = 2


def array(b: Any, *values: int) -> str:
    return b.const(np.array(values))


def near(b: Any, x: str) -> str:
    """(T, T): whether a key is within reach of the query."""
    return b("LessOrEqual", b("Abs", distances(b, x)), b.const(np.array(REACH)))


def keys(b: Any) -> str:
    return b("Unsqueeze", mask_bool(b), array(b, 1, 2))


def numbers(b: Any, lowest: float = LOWEST) -> tuple[str, str]:
    return b.const(np.float32(0)), b.const(np.float32(lowest))


def eager(b: Any) -> str:
    """As transformers makes one mask of both."""
    x = embedded(b)
    mask = b("Where", b("And", near(b, x), keys(b)), *numbers(b))
    return attend(b, b("Add", product(b, x), mask), heads(b, x))


def scaled_dot_product(b: Any) -> str:
    """−inf, and zeros for a query without any key, as torch exports a mask of truth values."""
    x = embedded(b)
    scores = b("Add", product(b, x), b("Where", b("And", keys(b), near(b, x)), *numbers(b, -np.inf)))
    weights = b("Softmax", scores, axis=-1)
    weights = b("Where", b("IsNaN", weights), b.const(np.float32(0)), weights)
    context = b("Transpose", b("MatMul", weights, heads(b, x)), perm=[0, 2, 1, 3])
    return b("Reshape", context, array(b, 1, -1, 20))


def filled(b: Any) -> str:
    """As the first ModernBERT: the window is filled into the mask of padding."""
    x = embedded(b)
    padding = b("Where", keys(b), *numbers(b))
    mask = b("Where", b("Not", near(b, x)), b.const(np.float32(LOWEST)), padding)
    return attend(b, b("Add", product(b, x), mask), heads(b, x))


def masked_scores(b: Any) -> str:
    """What is far or padding is chosen away."""
    x = embedded(b)
    away = b("Or", b("Not", keys(b)), b("Greater", b("Abs", distances(b, x)), b.const(np.array(REACH))))
    return attend(b, b("Where", away, b.const(np.float32(LOWEST)), product(b, x)), heads(b, x))


def chosen_unless(b: Any) -> str:
    """What is neither near nor kept is chosen away."""
    x = embedded(b)
    away = b("Not", b("And", near(b, x), keys(b)))
    return attend(b, b("Where", away, b.const(np.float32(LOWEST)), product(b, x)), heads(b, x))


FORMS = [eager, scaled_dot_product, filled, masked_scores, chosen_unless]


@pytest.mark.parametrize("graph", FORMS)
def test_every_length(graph: Callable[[Any], str], host: Any, tmp_path: Path) -> None:
    check_every_length(graph, host, tmp_path, TOKENS, 50)


def attention_of(graph: Callable[[Any], str], host: Any, tokens: int, skip: str = "") -> tuple[Any, list[Any]]:
    """The attention's call of a build for `tokens` tokens, and all calls."""
    from compile.pipeline import BuildOptions, Clock, lower_model
    from tests.support.graphs import Builder

    b = Builder()
    options = BuildOptions(seq_len=tokens, skip=(skip,) if skip else ())
    calls = lower_model(b.model(graph(b)), host, options, Clock(None), verify_passes=False)[0].calls
    (attention,) = [call for call in calls if call.kernel.family == "attention"]
    return attention, calls


@pytest.mark.parametrize("graph", FORMS)
def test_a_window_is_the_kernels_and_its_mask_one_row(graph: Callable[[Any], str], host: Any) -> None:
    attention, calls = attention_of(graph, host, TOKENS)
    assert attention.kernel.window == Window(REACH, -np.inf if graph is scaled_dot_product else LOWEST)
    assert attention.kernel.has_mask
    assert all(value.size < TOKENS**2 or value.shape[-1] > TOKENS for call in calls for value in call.outputs)


def test_a_window_behind_a_not(host: Any) -> None:
    """onnxsim writes it otherwise."""
    assert attention_of(chosen_unless, host, TOKENS, "onnxsim")[0].kernel.window == Window(REACH, LOWEST)


def test_sequence_no_longer_than_a_window_has_none(host: Any) -> None:
    assert attention_of(eager, host, REACH + 1)[0].kernel.window is None


def later_only(b: Any) -> str:
    """Of what is near, but one token before it: no window."""
    x = embedded(b)
    one_side = b("And", near(b, x), b("Less", distances(b, x), b.const(np.array(1))))
    mask = b("Where", b("And", one_side, keys(b)), *numbers(b))
    return attend(b, b("Add", product(b, x), mask), heads(b, x))


def test_what_is_no_window_is_a_mask(host: Any, tmp_path: Path) -> None:
    assert attention_of(later_only, host, TOKENS)[0].kernel.window is None
    check_every_length(later_only, host, tmp_path, TOKENS, 50)
