"""Several sequences in a run: each gets what ONNX Runtime gives the batch, with padding and without."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import compile
from compile.artifact.manifest import FILE, Manifest
from compile.errors import CompileError
from compile.importer.batch import file_batch, one_sequence
from compile.pipeline import BuildOptions, build_library
from passes.verify import run_model
from tests.support.graphs import Builder

TOKENS = 8


def encoder(batch: Any, tokens: Any) -> onnx.ModelProto:
    """Attention under a padding mask, as exporters write it for these sizes; the same weights for all."""
    b = Builder()
    fixed = isinstance(batch, int)
    x = b("Gather", b.normal(50, 16), b.input("input_ids", [batch, tokens], TensorProto.INT64))
    if fixed:  # as token types that nobody gives
        x = b("Add", x, b("Gather", b.normal(2, 16), b.const(np.zeros((batch, tokens), np.int64))))
    else:
        x = b("Add", x, b("Gather", b.normal(2, 16), b.const(np.zeros((1, 1), np.int64))))
    kept = b(
        "Unsqueeze", b("Cast", b.input("attention_mask", [batch, tokens], TensorProto.INT64), to=1), b.const([1, 2])
    )
    mask = b("Mul", b("Sub", b.const(np.float32(1)), kept), b.const(np.float32(-10000)))
    parts = []
    for axes in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        split = [batch, tokens, 2, 8] if fixed else [0, 0, 2, 8]
        parts.append(b("Transpose", b("Reshape", b.linear(x, 16, 16), b.const(split)), perm=axes))
    chances = b("Softmax", b("Add", b("MatMul", *parts[:2]), mask), axis=-1)
    context = b("Transpose", b("MatMul", chances, parts[2]), perm=[0, 2, 1, 3])
    y = b("Add", b("Reshape", context, b.const([batch, tokens, 16] if fixed else [0, 0, -1])), x)
    y = b("LayerNormalization", y, b.normal(16), b.normal(16))
    first = b("Squeeze", b("Slice", y, b.const([0]), b.const([1]), b.const([1])), b.const([1]))
    return b.model(b.linear(y, 16, 4), b("Tanh", b.linear(first, 16, 3)))


def build(model: onnx.ModelProto, host: Any, folder: Path, **options: Any) -> Path:
    return build_library(model, "case", host, folder, BuildOptions(seq_len=TOKENS, verify=True, **options)).folder


@pytest.fixture(scope="module")
def library(host: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Up to three sequences of up to eight tokens, of a dynamic export."""
    return build(encoder("batch", "tokens"), host, tmp_path_factory.mktemp("batch") / "a", batch=3)


def sample(rows: int, tokens: int, padded: bool = True) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows * 10 + tokens)
    lengths = rng.integers(1, tokens + 1, (rows, 1)) if padded else np.full((rows, 1), tokens)
    mask = (np.arange(tokens) < lengths).astype(np.int64)
    return {"input_ids": rng.integers(0, 50, (rows, tokens)), "attention_mask": mask}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("rows", "tokens", "padded"), [(1, 8, True), (2, 5, True), (3, 8, True), (3, 1, False)])
def test_any_number_of_sequences_of_any_length(rows, tokens, padded, threads, library):
    given = sample(rows, tokens, padded)
    (wanted,) = run_model(encoder("b", "t"), [given])
    with compile.load(library, threads) as model:
        got = model.run(given)
        for name, value in wanted.items():
            np.testing.assert_allclose(got[name], value, rtol=0, atol=1e-5)


def test_a_file_for_four_is_compiled_for_up_to_four(host, tmp_path):
    """Its reshapes and its token types say four; the library is elastic all the same."""
    assert file_batch(encoder(4, TOKENS)) == 4
    folder = build(encoder(4, TOKENS), host, tmp_path / "a")
    manifest = Manifest.read(folder)
    assert (manifest.batch, manifest.inputs[0].shape, manifest.shorter_sequences) == (4, (4, TOKENS), True)
    assert "int64 [4, 8]" in (folder / manifest.header).read_text()
    given = sample(4, TOKENS)
    (wanted,) = run_model(encoder(4, TOKENS), [given])
    with compile.load(folder) as model:
        for name, value in model.run(given).items():
            np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-5)


def test_a_file_for_four_may_have_its_constants_in_nodes():
    """As torch writes them; another kind of constant among them."""
    model = encoder(4, TOKENS)
    graph = model.graph
    for tensor in [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT64]:
        graph.initializer.remove(tensor)
        graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    graph.node.insert(0, onnx.helper.make_node("Constant", [], ["unused"], value_ints=[4, TOKENS]))
    one = one_sequence(model, 4, {"input_ids": [1, TOKENS], "attention_mask": [1, TOKENS]})
    assert {name: value.shape for name, value in run_model(one, [sample(1, TOKENS)])[0].items()} == {
        name: (1, *value.shape[1:]) for name, value in run_model(model, [sample(4, TOKENS)])[0].items()
    }


def test_a_file_for_one_is_run_for_each(host, tmp_path):
    given = sample(2, TOKENS)
    (wanted,) = run_model(encoder("b", "t"), [given])
    with compile.load(build(encoder(1, TOKENS), host, tmp_path / "a", batch=2)) as model:
        for name, value in model.run(given).items():
            np.testing.assert_allclose(value, wanted[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [sample(4, 8), {"input_ids": sample(2, 8)["input_ids"], "attention_mask": sample(3, 8)["attention_mask"]},
     {key: value[:0] for key, value in sample(1, 8).items()}, {key: value[0] for key, value in sample(1, 8).items()}],
    ids=["too many", "different numbers", "none", "without the dimension"],
)  # fmt: skip
def test_other_numbers_of_sequences_are_refused(given, library):
    with (
        compile.load(library) as model,
        pytest.raises(CompileError, match=r"the model wants \[3, 8\]|another shape than the model"),
    ):
        model.run(given)


def test_c_refuses_outputs_for_another_number_of_sequences(library):
    given, outputs = list(sample(2, TOKENS).values()), [np.empty((3, TOKENS, 4), "f4"), np.empty((2, 3), "f4")]
    with compile.load(library) as model, pytest.raises(CompileError, match="another shape than the model's"):
        model.run_into(given, outputs)


def test_a_profile_is_of_the_last_sequence(library):
    with compile.load(library, threads=1, profile=True) as model:
        model.run(sample(3, TOKENS))
        assert sorted(r.call for r in model.profile()) == list(range(-1, len(model.manifest.calls)))


def test_sequences_that_depend_on_each_other_are_no_batch(host, tmp_path):
    b = Builder()
    x = b.input("x", ["n", TOKENS, 4])
    model = b.model(b("Add", x, b("ReduceMax", x, b.const([0]), keepdims=1)))
    with pytest.raises(CompileError, match="--batch 2: the model does not give for each sequence"):
        build(model, host, tmp_path / "a", batch=2)


def test_a_file_with_fixed_dimensions_that_are_no_batch_is_compiled_whole(agree):
    b = Builder()
    x = b.input("x", [3, TOKENS, 4])
    folder = agree(b.model(b("Add", x, b("ReduceMax", x, b.const([0]), keepdims=1))))
    assert Manifest.read(folder).batch == 1


def test_a_file_for_four_cannot_be_compiled_for_two(host, tmp_path):
    with pytest.raises(CompileError, match=r"--batch 2: input 'input_ids' has shape \[4, 8\]: export .* dynamic batch"):
        build(encoder(4, TOKENS), host, tmp_path / "a", batch=2)


def test_a_shape_that_no_constant_says_is_refused_where_it_does_not_fit():
    b = Builder()
    x = b.input("x", [2, 6])
    sizes = b("Concat", b.const([2]), b.const([6]), axis=0)
    model = b.model(b("Reshape", x, b("Cast", sizes, to=TensorProto.INT64)))
    with pytest.raises(CompileError, match=r"cannot run one sequence of it alone .*export the model with a dynamic"):
        one_sequence(model, 2, {"x": [1, 6]})


@pytest.mark.parametrize("count", [0, 4097])
def test_impossible_numbers_of_sequences(count):
    with pytest.raises(CompileError, match=f"--batch {count}: choose 1 to 4096"):
        compile.build("mobilebert", batch=count)


def test_a_manifest_whose_shapes_have_another_batch_is_damaged(library, tmp_path):
    from compile.artifact.manifest import seal

    data = Manifest.read(library).to_dict() | {"batch": 2}
    (tmp_path / FILE).write_text(seal(data))
    with pytest.raises(CompileError, match=r"damaged .*has not 2 rows"):
        Manifest.read(tmp_path)
