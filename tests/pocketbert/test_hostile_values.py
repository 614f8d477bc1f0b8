"""Whatever stands in a file: every reader takes it, or refuses it within a second, in one line."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import passes
from compile.cpus import CPUS
from compile.databases import Record
from compile.databases import read as read_database
from compile.kernels.tiles import TileConfig, TileKey
from model.commands.config import read as read_settings
from model.settings import TrainSettings
from passes import files
from pocketbert.errors import PocketBERTError, describe

HOSTILE = [
    None, True, False, 0, -1, 10**6, 10**9, 10**18, 10**30, 2**31, 2**63, 1.5, -0.0, 1e308, 5e-324, float("nan"),
    float("inf"), "", "1", "x" * 10**6, "\x1b[2J\n", "\ud800", "../../etc/passwd", [], [1], [[[[1]]]], {},
    {"a": {"b": []}},
]  # fmt: skip


@contextmanager
def within_a_second() -> Iterator[None]:
    """An error of ours, in one short line, or none."""
    begin = time.perf_counter()
    try:
        yield
    except PocketBERTError as error:
        line = describe(error)
        assert line.isprintable()
        assert len(line) < 1000
    assert time.perf_counter() - begin < 1


def paths(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a JSON document."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*place, key))


def with_value(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """A copy of the document with another value in a place."""
    if not place:
        return value
    copy = json.loads(json.dumps(document))
    inner = copy
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copy


def each_spoilt(document: Any) -> Iterator[Any]:
    for place in paths(document):
        for value in HOSTILE:
            yield with_value(document, place, value)


MOBILEBERT = {
    "model_type": "mobilebert", "architectures": ["MobileBertForMaskedLM"], "vocab_size": 100, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "intra_bottleneck_size": 16,
    "embedding_size": 16, "hidden_act": "relu", "id2label": {"0": "a", "1": "b"}, "layer_norm_eps": 1e-12,
    "use_bottleneck": True, "key_query_shared_bottleneck": True, "normalization_type": "no_norm", "pad_token_id": 0,
    "num_feedforward_networks": 2, "trigram_input": True, "classifier_activation": False,
    "hidden_dropout_prob": 0.0, "position_embedding_type": "absolute",
}  # fmt: skip
POCKETBERT = {"model_type": "pocketbert", "head": "mlm", "num_hidden_layers": 2, "pooler": None, "activation": "gelu"}


@pytest.mark.parametrize("config", [MOBILEBERT, POCKETBERT], ids=["mobilebert", "pocketbert"])
def test_config_json(config: dict[str, Any], tmp_path: Path) -> None:
    from model.checkpoint import read_config

    for spoilt in each_spoilt(config):
        (tmp_path / "config.json").write_text(json.dumps(spoilt))
        with within_a_second():
            read_config(tmp_path)


@pytest.mark.parametrize("changes", [
    {"num_hidden_layers": 10**9}, {"num_hidden_layers": 256}, {"hidden_size": 1 << 16, "embedding_size": 1 << 16},
    {"vocab_size": 1 << 24, "hidden_size": 1 << 16}, {"num_hidden_layers": True}, {"hidden_size": 64.0},
])  # fmt: skip
def test_config_json_of_a_giant_beside_small_weights(changes: dict[str, Any], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from model import ModelError, load

    (tmp_path / "config.json").write_text(json.dumps(MOBILEBERT | changes))
    save_file({"mobilebert.embeddings.word_embeddings.weight": torch.zeros(100, 16)}, tmp_path / "model.safetensors")
    load_ = pytest.raises(ModelError)
    with within_a_second(), load_:
        load(tmp_path)


def test_preset_that_does_not_fit_the_memory() -> None:
    from model import PRESETS, ModelError, create

    giant = replace(PRESETS["bert-base"], hidden_size=49152, embedding_size=49152, num_hidden_layers=200)
    with within_a_second(), pytest.raises(ModelError, match="GiB of weights do not fit"):
        create(giant)


@pytest.mark.parametrize("kind", ["complex64", "int64", "uint8", "bool", "float8_e4m3fn"])
def test_weights_of_odd_types_are_refused(kind: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from model import PRESETS, ModelError, create, load, save_checkpoint

    tiny = replace(PRESETS["tinybert"], num_hidden_layers=1, hidden_size=16, embedding_size=16, intermediate_size=16,
                   num_attention_heads=2, vocab_size=50)  # fmt: skip
    save_checkpoint(create(tiny), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(n for n in tensors if n.endswith("query.weight"))
    tensors[name] = tensors[name].to(getattr(torch, kind))
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=rf"tensor {name} is {kind}: weights are dense float32"):
        load(tmp_path)


def test_index_of_safetensors(tmp_path: Path) -> None:
    from model.checkpoint import read_weights

    for spoilt in each_spoilt({"weight_map": {"a": "missing.safetensors"}, "metadata": {"total_size": 1}}):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(spoilt))
        with within_a_second():
            read_weights(tmp_path)


def test_shards_json(tmp_path: Path) -> None:
    from model.data.shards import Shards

    good = {
        "format": 1, "dtype": "uint16", "vocab_size": 10, "vocabulary_sha256": "0", "special": {"[PAD]": 0},
        "shards": [{"tokens": 0, "sentences": 0, "documents": 0}],
    }  # fmt: skip
    (tmp_path / "00000.tokens").write_bytes(b"")
    for spoilt in each_spoilt(good):
        (tmp_path / "shards.json").write_text(json.dumps(spoilt))
        with within_a_second():
            Shards(tmp_path)


def test_vocabulary_of_one_endless_line(tmp_path: Path) -> None:
    from compile.text.read import read_vocabulary as for_a_library
    from model.data.vocabulary import read_vocabulary as for_training

    with open(tmp_path / "vocab.txt", "wb") as file:
        file.truncate(1 << 36)
    for read in (for_training, lambda path: for_a_library(path, False)):
        with within_a_second(), pytest.raises(PocketBERTError, match="64 MiB"):
            read(tmp_path / "vocab.txt")


def test_squad(tmp_path: Path) -> None:
    from model.finetune.squad import read_questions

    answers = [{"text": "b", "answer_start": 2}]
    paragraph = {"context": "a b", "qas": [{"id": "1", "question": "c", "answers": answers}]}
    for spoilt in each_spoilt({"data": [{"paragraphs": [paragraph]}]}):
        (tmp_path / "x.json").write_text(json.dumps(spoilt))
        with within_a_second():
            read_questions(tmp_path / "x.json")


def test_tuning_database(tmp_path: Path) -> None:
    cpu = CPUS["x86-64-v3"]
    key = TileKey("linear", cpu.isa.name, "f32", 64, 64)
    record = Record(cpu.name, key, TileConfig(6, 16, 8), "chosen", "measured", 1.0)
    path = tmp_path / "db.jsonl"
    for spoilt in each_spoilt(json.loads(record.to_line())):
        path.write_text(json.dumps(spoilt))
        with within_a_second():
            read_database(path, cpu)
    path.write_text("[" * 10**5 + "\n" + '{"a":' * 10**5)
    assert len(read_database(path, cpu).damaged) == 2
    for tile in ([1_000_000, 16, 1], [6, 10**9, 1], [6, 16, 10**6], [6, 16], [0, 16, 1], [6.0, 16, 1], [True, 16, 1]):
        path.write_text(json.dumps(json.loads(record.to_line()) | {"tile": tile}))
        assert read_database(path, cpu).records == []
        assert "tile" in read_database(path, cpu).damaged[0]


@dataclass(frozen=True)
class AllSettings:
    name: str
    layers: tuple[int, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    train: TrainSettings = field(default_factory=TrainSettings)


def toml_of(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str | bool | list) else str(value)


@pytest.mark.parametrize(
    "key",
    ["name", "layers", "layers.0", "fields", "train", "train.steps", "train.learning_rate", "train.weight_decay",
     "train.optimizer", "train.gradient_checkpointing", "x", "."],
)  # fmt: skip
def test_settings_on_the_command_line(key: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('name = "a"\n')
    for value in [*map(toml_of, HOSTILE), "nan", "inf", "[" * 10**5, "9" * 5000, '"""', "1979-05-27", "{a = 1}"]:
        with within_a_second():
            read_settings(path, AllSettings, [f"{key}={value}"])
    for setting in ("train.learning_rate=nan", "train.weight_decay=nan", "train.steps=true", "train.steps=1.0"):
        with pytest.raises(PocketBERTError, match=setting.partition("=")[0]):
            read_settings(path, AllSettings, [setting])


def test_study(monkeypatch: pytest.MonkeyPatch) -> None:
    import optuna

    from tune.search.findings import find
    from tune.search.study import Settings

    good = vars(Settings("mobilebert-toy", "x86_64-linux", "x86-64-v3", 8, 1, "local", "q", 1e6, (0.1, 1.0), 1.5))
    for spoilt in each_spoilt({**good, "mha_ffn": [0.1, 1.0]}):
        study = optuna.create_study()
        study.set_user_attr("settings", spoilt)
        with within_a_second(), pytest.raises(PocketBERTError):
            find(study)


def one_weight(tensor: TensorProto) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [tensor])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What is imported when it is first needed is not timed."""
    import onnxsim  # noqa: F401
    import torch  # noqa: F401


def weights() -> Iterator[tuple[str, TensorProto]]:
    for name in (
        "COMPLEX64",
        "COMPLEX128",
        "STRING",
        "BFLOAT16",
        "FLOAT8E4M3FN",
        "INT4",
        "UINT64",
        "BOOL",
        "UNDEFINED",
    ):
        yield name, TensorProto(name="w", data_type=TensorProto.DataType.Value(name), dims=[4], raw_data=b"\0" * 64)
    yield "type", TensorProto(name="w", data_type=1000, dims=[4], raw_data=b"\0" * 16)
    for dims in ([10**12], [10**9, 10**9, 10**9], [-1], [2**62, 4], [3], [0], [1] * 1000):
        yield f"dims {dims[:3]}", TensorProto(name="w", data_type=1, dims=dims, raw_data=b"\0" * 16)
    yield "nothing", TensorProto(name="w", data_type=1, dims=[4])


@pytest.mark.parametrize(("name", "tensor"), list(weights()), ids=lambda v: v if isinstance(v, str) else "")
def test_onnx_weights(name: str, tensor: TensorProto, tmp_path: Path) -> None:
    onnx.save(one_weight(tensor), tmp_path / "m.onnx")
    with within_a_second(), pytest.raises(passes.PassError):
        passes.run(tmp_path / "m.onnx")


def constant_of_shape(*dims: int) -> onnx.ModelProto:
    """A file of 200 bytes that asks for as much memory as it likes."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["c"]), helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0)]
    nodes.append(helper.make_node("Add", ["x", "r"], ["y"]))
    shape = onnx.numpy_helper.from_array(np.array(dims, np.int64), "s")
    graph = helper.make_graph(nodes, "g", [x], [y], [shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("dims", [(10**6, 10**6), (2**62,), (10**9, 10**9, 10**9), (-1,)])
def test_onnx_graph_that_asks_for_more_memory_than_there_is(dims: tuple[int, ...], tmp_path: Path) -> None:
    onnx.save(constant_of_shape(*dims), tmp_path / "m.onnx")
    with within_a_second(), pytest.raises(passes.PassError):
        passes.run(tmp_path / "m.onnx")


@pytest.mark.parametrize("entries", [
    {"length": str(10**18)}, {"length": "-1"}, {"offset": "-1"}, {"offset": str(10**18)}, {"length": "x"},
    {"location": ""}, {"location": "."}, {"location": "x" * 10**5}, {"location": "a\0b"},
], ids=str)  # fmt: skip
def test_onnx_external_data(entries: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\0" * 16)
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": "data"} | entries).items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "m.onnx").write_bytes(one_weight(tensor).SerializeToString())
    with within_a_second(), pytest.raises(PocketBERTError):
        files.read(tmp_path / "m.onnx")
