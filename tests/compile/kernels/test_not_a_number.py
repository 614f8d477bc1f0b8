"""What is not a number, infinite or huge, in any position: through every kernel as float64 would have it.

The elementary functions alone are in test_elementary.
"""

from collections.abc import Callable

import numpy as np
import pytest

from compile.cpus import Isa
from compile.kernels.attention import Attention, Zeros
from compile.kernels.contract import pack_vector
from compile.kernels.linear import Linear, pack_weight
from compile.kernels.reference import UNARY
from compile.kernels.rowwise import LayerNorm
from compile.kernels.tiles import default_tile

NAN, INF = np.nan, np.inf
HEADS, SIZE, TOKENS = 2, 16, 21

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def agrees(got: np.ndarray, want: np.ndarray, bound: float = 2e-6) -> None:
    """Not a number in the same places, infinite in the same places, and close elsewhere."""
    with np.errstate(over="ignore"):
        want = want.astype(np.float32)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    finite = np.isfinite(want)
    assert np.array_equal(got[~finite], want[~finite], equal_nan=True)
    assert np.all(np.abs(got[finite] - want[finite]) <= bound * np.maximum(1, np.abs(want[finite])))


@pytest.fixture(scope="module")
def call(isa: Isa, link_kernels: Callable) -> Callable[..., None]:
    tile = default_tile(isa)
    kernels = [
        Linear(24, 40, True, (step,), tile, isa) for step in ("relu", "gelu", "tanh", "gelu_tanh", "sigmoid", "silu")
    ]
    kernels += [Attention(HEADS, SIZE, 0.25, mask, tile, isa) for mask in (False, True)]
    kernels += [Attention(HEADS, SIZE, 0.25, True, tile, isa, zeros) for zeros in Zeros]
    return link_kernels([*kernels, LayerNorm(40, 1e-12, isa)])


@pytest.mark.parametrize("step", ["relu", "gelu", "tanh", "gelu_tanh", "sigmoid", "silu"])
@pytest.mark.parametrize("special", [NAN, INF, -INF, 1e38])
def test_a_linear_layer_spoils_the_row_it_is_in_and_no_other(
    step: str, special: float, isa: Isa, call: Callable, strided: type, at_64_bytes: Callable
) -> None:
    rng = np.random.default_rng(1)
    kernel = Linear(24, 40, True, (step,), default_tile(isa), isa)
    weight, bias = rng.uniform(0.5, 8, (24, 40)).astype(np.float32), rng.standard_normal(40).astype(np.float32)
    packed, vector = at_64_bytes(pack_weight(weight, kernel.tile)), at_64_bytes(pack_vector(bias))
    for row in range(13):
        x = strided(13, 24, values=rng.standard_normal((13, 24)))
        x.view[row, row % 24] = special
        y = strided(13, 40)
        workspace = at_64_bytes(np.zeros(kernel.workspace_bytes(13, 13) // 4 + 16, np.float32))
        call(kernel, x.address, x.stride, packed, y.address, y.stride, vector, 13, workspace)
        product = (x.view.astype(np.float64) @ weight + bias).astype(np.float32).astype(np.float64)
        agrees(y.view, UNARY[step](product), bound=2e-4)
        assert np.isfinite(np.delete(y.view, row, 0)).all()


@pytest.mark.parametrize("special", [NAN, INF, -INF])
def test_layer_norm(special: float, isa: Isa, call: Callable, strided: type, at_64_bytes: Callable) -> None:
    rng = np.random.default_rng(2)
    gamma, beta = (at_64_bytes(pack_vector(rng.standard_normal(40).astype(np.float32))) for _ in range(2))
    for column in range(40):
        x, y = strided(5, 40, values=rng.standard_normal((5, 40))), strided(5, 40)
        x.view[3, column] = special
        call(LayerNorm(40, 1e-12, isa), x.address, x.stride, gamma, beta, y.address, y.stride, 5)
        assert np.isnan(y.view[3]).all()
        assert np.isfinite(np.delete(y.view, 3, 0)).all()


def attend(
    call: Callable, isa: Isa, strided: type, at_64_bytes: Callable, q, k, v, mask, zeros: Zeros | None = None
) -> np.ndarray:
    kernel = Attention(HEADS, SIZE, 0.25, mask is not None, default_tile(isa), isa, zeros)
    q, k, v = (strided(TOKENS, HEADS * SIZE, gap=3, values=x) for x in (q, k, v))
    rows = strided(TOKENS, TOKENS, values=0.0 if mask is None else mask)
    y = strided(TOKENS, HEADS * SIZE)
    workspace = at_64_bytes(np.full(kernel.workspace_bytes(TOKENS, TOKENS) // 4, np.nan, np.float32))
    call(
        kernel, q.address, q.stride, k.address, k.stride, v.address, v.stride, rows.address, rows.stride,
        y.address, y.stride, workspace, TOKENS, TOKENS,
    )  # fmt: skip
    assert y.untouched()
    return y.view


def softmax_attention(q, k, v, mask) -> np.ndarray:
    q, k, v = (x.astype(np.float64).reshape(TOKENS, HEADS, SIZE).swapaxes(0, 1) for x in (q, k, v))
    scores = 0.25 * q @ k.swapaxes(1, 2) + (0.0 if mask is None else mask)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(TOKENS, -1)


@pytest.mark.parametrize("special", [NAN, INF, -INF, 1e30])
@pytest.mark.parametrize("operand", "qkv")
def test_attention(
    operand: str, special: float, isa: Isa, call: Callable, strided: type, at_64_bytes: Callable
) -> None:
    rng = np.random.default_rng(3)
    for row in range(TOKENS):
        operands = {name: rng.uniform(0.1, 1, (TOKENS, HEADS * SIZE)).astype(np.float32) for name in "qkv"}
        operands[operand][row, row % (HEADS * SIZE)] = special
        got = attend(call, isa, strided, at_64_bytes, **operands, mask=None)
        agrees(got, softmax_attention(**operands, mask=None))


@pytest.mark.parametrize("special", [NAN, INF, -INF, -3.4e38, 3e38])
def test_masks(special: float, isa: Isa, call: Callable, strided: type, at_64_bytes: Callable) -> None:
    """Row n masks n keys: the last has none left."""
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal((TOKENS, HEADS * SIZE)).astype(np.float32) for _ in range(3))
    hidden = np.arange(TOKENS)[None, ::-1] < np.arange(TOKENS)[:, None] + (special == -INF)
    mask = np.where(hidden, special, 0.0).astype(np.float32)
    got = attend(call, isa, strided, at_64_bytes, q, k, v, mask)
    agrees(got, softmax_attention(q, k, v, mask))
    if special == -INF:
        assert np.isnan(got[-1]).all()
        assert np.isfinite(got[:-1]).all()


@pytest.mark.parametrize("special", [-INF, NAN])
def test_a_guard_gives_zeros(special: float, isa: Isa, call: Callable, strided: type, at_64_bytes: Callable) -> None:
    """Where the softmax is not a number; elsewhere it changes no bit."""
    rng = np.random.default_rng(5)
    q, k, v = (rng.standard_normal((TOKENS, HEADS * SIZE)).astype(np.float32) for _ in range(3))
    mask = np.zeros((TOKENS, TOKENS), np.float32)
    mask[::3] = special
    plain = attend(call, isa, strided, at_64_bytes, q, k, v, mask)
    guarded = attend(call, isa, strided, at_64_bytes, q, k, v, mask, Zeros.UNDEFINED)
    assert np.isnan(plain[::3]).all()
    assert np.array_equal(guarded, np.nan_to_num(plain, nan=0.0))


def test_only_a_query_without_keys_gives_zeros(isa: Isa, call: Callable, strided: type, at_64_bytes: Callable) -> None:
    """Not one of whose numbers some are NaN, nor one that has a key left whose score is."""
    rng = np.random.default_rng(6)
    q, k, v = (rng.standard_normal((TOKENS, HEADS * SIZE)).astype(np.float32) for _ in range(3))
    mask = np.where(rng.random((TOKENS, TOKENS)) < 0.3, -INF, 0.0).astype(np.float32)
    mask[::3] = -INF
    mask[1, 2], mask[4, :], mask[4, 0], q[7, 1] = NAN, -INF, INF, NAN
    plain = attend(call, isa, strided, at_64_bytes, q, k, v, mask)
    keyless = attend(call, isa, strided, at_64_bytes, q, k, v, mask, Zeros.KEYLESS)
    hidden = (mask == -INF).all(axis=1)
    assert hidden.sum() == len(range(0, TOKENS, 3))
    np.testing.assert_array_equal(keyless[hidden], 0)
    np.testing.assert_array_equal(keyless[~hidden], plain[~hidden])
    assert np.isnan(keyless[~hidden]).any(axis=1).sum() == 3
