import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model import ModelConfig, ModelError, create, export, load_checkpoint, processes, save_checkpoint
from model.__main__ import main
from model.data import PreTrainingBatches, read_vocabulary
from model.data.instances import IGNORED
from model.distill import PreTraining
from model.distill.objectives import inputs, predictions
from model.distill.strategies import pretraining
from model.distill.transformers_teacher import load_teacher
from model.processes import join
from model.recipes.corpus import same_vocabulary
from model.settings import TrainSettings, rate
from model.trainer import Trainer, make_optimizer
from tests.support.paths import NASTY

TINY = ModelConfig(
    vocab_size=200, max_position_embeddings=32, embedding_size=8, num_hidden_layers=2, hidden_size=16,
    bottleneck_size=8, attention_input="stream", num_attention_heads=2, intermediate_size=8,
    num_feedforward_networks=1, hidden_dropout=0.1,
)  # fmt: skip


@pytest.fixture
def config(tmp_path: Path, prepared: Path) -> Path:
    """A configuration of progressive transfer with dropout, which writes to tmp_path/run."""
    teacher = replace(TINY, bottleneck_size=24, normalization="layer-norm", activation="gelu")
    save_checkpoint(create(teacher, "mlm", 1), tmp_path / "teacher")
    save_checkpoint(create(TINY, "mlm", 2), tmp_path / "student")
    path = tmp_path / "distill.toml"
    path.write_text(f"""
output = "{tmp_path}/run"
teacher = "{tmp_path}/teacher"
model = {{ folder = "{tmp_path}/student" }}
data = {{ folder = "{prepared}", sequence_length = 32 }}
transfer = {{ transfer_steps = 6, soft_rate = 0.1 }}
train = {{ steps = 5, batch_size = 2, accumulate = 2, checkpoint_every = 2, log_every = 1, device = "cpu" }}
""")
    return path


def weights(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(folder / "model").state_dict()


KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from model.__main__ import main
from model import trainer, resume
kind, count = sys.argv[2], int(sys.argv[3])
owner, name = (trainer.Trainer, "_step") if kind == "step" else (torch, "save")
original, calls = getattr(owner, name), []
def once_too_often(*arguments):
    calls.append(1)
    if len(calls) == count:
        if kind == "save":  # in the middle of writing
            arguments[1].write(b"half a file")
            arguments[1].flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
setattr(owner, name, once_too_often)
main(["distill", sys.argv[1]])
"""


def test_killed_again_and_again_it_ends_with_the_same_weights(config: Path, tmp_path: Path) -> None:
    assert main(["distill", str(config), "--set", f"output={tmp_path}/whole"]) == 0
    for how in (["step", "6"], ["save", "2"]):  # between checkpoints; then while the second after that is written
        run = subprocess.run([sys.executable, "-c", KILLED, str(config), *how], capture_output=True, text=True)
        assert run.returncode == -signal.SIGKILL, run.stderr
    assert [p.name for p in sorted((tmp_path / "run/checkpoints").glob("step*"))] == [
        "step-00000004.pt", "step-00000006.pt"
    ]  # fmt: skip
    assert main(["distill", str(config)]) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").open()] for name in ("whole", "run")]
    assert [row["step"] for row in logs[1]] == list(range(1, 12))
    for a, b in zip(*logs, strict=True):
        assert (a["stage"], a["loss"], a["learning_rate"]) == (b["stage"], b["loss"], b["learning_rate"])
    assert logs[0][0]["stage"] == "layer 1"
    assert {"at", "fmt", "mean", "variance"} <= set(logs[0][0])
    assert {"mlm", "kd", "nsp", "tokens_per_second", "eta_seconds", "data_wait"} <= set(logs[0][-1])
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("moment", ["Trainer._step", "write"])
def test_a_run_asked_to_end_keeps_its_checkpoints_and_leaves_nothing_else(
    moment: str, number: signal.Signals, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a step, or before the second checkpoint has its name."""
    owner, name = (Trainer, "_step") if moment == "Trainer._step" else (torch, "save")
    original, calls = getattr(owner, name), []

    def ask_to_end(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == (4 if name == "_step" else 2):
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(owner, name, ask_to_end)
    said = tmp_path / "said"
    child = os.fork()
    if child == 0:  # a command of its own, but for what it would have to import; shells ignore signals for some
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        with said.open("w") as file:
            os.dup2(file.fileno(), 2)
            sys.stderr = file
            os._exit(main(["distill", str(config)]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + number
    last = said.read_text().splitlines()[-1]
    assert last.startswith("interrupted: " if number == signal.SIGINT else f"stopped by {number.name}: ")
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000002.pt"]
    assert not list(tmp_path.rglob("*pocketbert-*"))


def test_training_in_and_into_a_folder_of_any_name(
    config: Path, corpus: Path, vocabulary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture
) -> None:  # fmt: skip
    place = tmp_path / NASTY
    place.mkdir()
    monkeypatch.chdir(place)
    for name, file in (("text", corpus), ("vocab", vocabulary)):
        (place / f"{NASTY}{name}").write_bytes(file.read_bytes())
    sets = {"data.text": [f"{NASTY}text"], "data.vocabulary": f"{NASTY}vocab", "data.folder": f"{NASTY}data"}
    sets |= {"output": f"{NASTY}run"}
    arguments = [word for name, value in sets.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    assert main(["distill", str(config), *arguments]) == 0, capsys.readouterr()
    assert {path.name for path in place.iterdir()} == {f"{NASTY}{end}" for end in ("text", "vocab", "data", "run")}
    assert load_checkpoint(place / f"{NASTY}run/model").config.num_hidden_layers == 2
    assert "\x1b[2J" not in capsys.readouterr().err


def make(
    prepared: Path, folder: Path, task: Callable | None = None, length: int = 32, heads: int = 2, **changes: object
) -> Trainer:
    settings = TrainSettings(steps=4, batch_size=2, checkpoint_every=2, device="cpu")
    model = create(replace(TINY, hidden_dropout=0.0, attention_dropout=0.0, num_attention_heads=heads), "mlm")
    batches = PreTrainingBatches(prepared, length, 200)
    settings = replace(settings, **changes)
    stages = pretraining(2, settings.steps)
    return Trainer(
        model, task or (lambda model, stage: PreTraining(model)), stages, batches, folder, settings, join("cpu")
    )


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(prepared: Path, tmp_path: Path) -> None:
    class Bad(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.calls = PreTraining(trainer.model), 0

        def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
            self.calls += 1
            terms = self.inside(batch)
            if self.calls == 4:
                terms["nsp"] = terms["nsp"] * float("nan")
                terms["loss"] = terms["mlm"] + terms["nsp"]
            return terms

    trainer = make(prepared, tmp_path / "run", task=lambda model, stage: Bad())
    with pytest.raises(ModelError, match=r"step 4: nsp is nan; the last good checkpoint is .*step-00000002.pt"):
        trainer.fit()
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    make(prepared, tmp_path / "run").fit()  # goes on from there


FULL = """
import resource, sys, torch
torch.set_num_threads(1)
from model.__main__ import main
from model import trainer
step = trainer.Trainer._step
def fill(self, *arguments):
    if arguments[3].total == 5:  # no file may grow beyond so many bytes from here on
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    return step(self, *arguments)
trainer.Trainer._step = fill
sys.exit(main(["distill", sys.argv[1]]))
"""


@pytest.mark.parametrize(
    ("room", "message"),
    [
        ("20000", r"cannot write .*step-00000006.pt: disk full; what was there is kept"),
        ("100", r"disk full: cannot write the log .*"),
    ],
    ids=["checkpoint", "log"],
)
def test_a_full_disk_is_one_line_and_loses_no_checkpoint(room: str, message: str, config: Path, tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", FULL, str(config), room], capture_output=True, text=True)
    errors = [line for line in run.stderr.splitlines() if " left" not in line]
    assert run.returncode == 2, run.stderr
    assert len(errors) == 1
    assert re.match(f"error: {message}", errors[0])
    assert [p.name for p in sorted((tmp_path / "run/checkpoints").iterdir())] == [
        "step-00000002.pt", "step-00000004.pt"
    ]  # fmt: skip
    for output in ("run", "whole"):
        assert main(["distill", str(config), "--set", f"output={tmp_path}/{output}"]) == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_other_settings_do_not_go_on_with_a_run(prepared: Path, tmp_path: Path) -> None:
    make(prepared, tmp_path / "run").fit()
    with pytest.raises(ModelError, match=r"another learning_rate \(0.001 then, 0.01 now\)"):
        make(prepared, tmp_path / "run", learning_rate=0.01).fit()
    for change, message in (({"length": 24}, "another data"), ({"heads": 1}, "another model")):
        with pytest.raises(ModelError, match=message):
            make(prepared, tmp_path / "run", **change).fit()
    make(prepared, tmp_path / "run", log_every=3).fit()  # nothing to do
    (tmp_path / "run/checkpoints/step-00000004.pt").write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"step-00000004.pt cannot be read"):
        make(prepared, tmp_path / "run").fit()


def test_accumulated_batches_are_one_large_batch(prepared: Path, tmp_path: Path) -> None:
    """Up to rounding, where each part predicts as many words: with dropout off, and sentences of one length."""
    gradients = []
    for name, size, accumulate in (("whole", 4, 1), ("parts", 2, 2)):
        kept: list[Tensor] = []
        trainer = make(
            prepared, tmp_path / name, steps=1, batch_size=size, accumulate=accumulate, max_gradient_norm=1e9
        )

        class NextSentence(torch.nn.Module):  # its loss is a mean over rows, whatever their length
            def __init__(self, model: torch.nn.Module) -> None:
                super().__init__()
                self.inside = PreTraining(model)

            def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
                return {"loss": self.inside(batch)["nsp"]}

        trainer.task = lambda model, stage, kind=NextSentence: kind(model)
        trainer._check_finite = lambda *_, model=trainer.model, kept=kept: kept.extend(  # type: ignore[method-assign]
            p.grad.clone() for p in model.parameters() if p.grad is not None
        )
        trainer.fit()
        gradients.append(kept)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("precision", "device", "narrow"),
    [
        *(("auto", device, device == "cuda") for device in ("cpu", "cuda", "mps")),
        *(("float32", device, False) for device in ("cpu", "cuda")),
        ("bfloat16", "cpu", True),
    ],
)
def test_bfloat16_is_for_gpus_unless_it_is_asked_for(
    precision: str, device: str, narrow: bool, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)  # no such device is here
    place = torch.device(device)
    monkeypatch.setattr("tests.model.test_trainer.join", lambda _: processes.Processes(0, 1, place))
    assert make(prepared, tmp_path / "run", precision=precision).bfloat16 is narrow


@pytest.mark.parametrize(
    ("parallel", "world", "sharded"), [("fsdp", 2, True), ("fsdp", 1, False), ("ddp", 2, False), ("ddp", 1, False)]
)
def test_weights_are_sharded_where_that_is_asked_for_and_there_are_several_processes(
    parallel: str, world: int, sharded: bool, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several = processes.Processes(0, world, torch.device("cpu"))
    monkeypatch.setattr("tests.model.test_trainer.join", lambda _: several)
    assert make(prepared, tmp_path / "run", parallel=parallel).sharded is sharded


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_biases_and_norms_neither_decay_nor_adapt(optimizer: str) -> None:
    module = create(replace(TINY, normalization="no-norm"), "mlm")
    settings = TrainSettings(optimizer=optimizer, weight_decay=0.25)
    (stage,) = pretraining(2, 4)
    made = make_optimizer(module, stage, settings)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    seen = set()
    for group in made.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            plain = name.endswith("bias") or ".norm." in f".{name}"
            assert (group["weight_decay"], group.get("adapt", not plain)) == (0.0 if plain else 0.25, not plain), name
            seen.add(name)
    assert seen == set(names.values())
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="trains nothing"):
        make_optimizer(module, stage, settings)


def test_bfloat16_learns_nearly_as_float32_does_and_keeps_float32_weights(prepared: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        trainer = make(prepared, tmp_path / precision, steps=6, precision=precision, log_every=1)
        trainer.fit()
        losses[precision] = [json.loads(line)["loss"] for line in (tmp_path / precision / "log.jsonl").open()]
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=5e-3)


def test_tensorboard_and_log_tell_the_same(prepared: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    make(prepared, tmp_path / "run", log_every=1).fit()
    events = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
    for name in ("loss", "mlm", "nsp", "tokens_per_second", "data_wait"):
        assert [e.value for e in events.Scalars(name)] == pytest.approx([row[name] for row in rows])
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_vocabularies_are_the_same_by_their_pieces_and_not_by_their_files(vocabulary: Path, tmp_path: Path) -> None:
    names = ("own.txt", "other.txt", "own.json", "spaced.json", "other.json")
    own, other, own_json, spaced_json, other_json = (tmp_path / name for name in names)
    own.write_text(vocabulary.read_text())
    other.write_text(vocabulary.read_text() + "other\n")
    for text, tokenizer in ((own, own_json), (other, other_json)):
        read_vocabulary(text).save(str(tokenizer))
    spaced_json.write_text(own_json.read_text() + "\n")
    assert same_vocabulary(own, own)
    assert same_vocabulary(tmp_path / "not there", own)
    assert same_vocabulary(own, own_json)
    assert same_vocabulary(own_json, spaced_json)
    assert not same_vocabulary(own, other)
    assert not same_vocabulary(own, other_json)
    assert not same_vocabulary(own_json, other_json)


def test_another_vocabulary_than_the_teachers_is_refused(
    config: Path, vocabulary: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "teacher/vocab.txt").write_text(vocabulary.read_text() + "other\n")
    assert main(["distill", str(config)]) == 2
    assert f"{tmp_path}/teacher was trained with another vocabulary than" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    (tmp_path / "teacher/vocab.txt").write_text(vocabulary.read_text())
    assert main(["distill", str(config)]) == 0
    assert (tmp_path / "run/model/vocab.txt").read_text() == vocabulary.read_text()


def test_the_rate_rises_then_falls_to_nothing() -> None:
    rates = [rate(step, 10, 0.2) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[-1] == pytest.approx(1 / 8)
    assert rate(10, 10, 0.2) == 0
    assert rate(0, 10, 0.0) == 1
    assert rate(0, 10, 0.01) == 1  # not even one step


def test_the_last_batches_are_long_and_no_one_goes_beyond_what_was_trained(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    lengths: list[int] = []
    step = PreTraining.forward

    def watched(self: PreTraining, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        lengths.append(batch["input_ids"].shape[1])
        return step(self, batch)

    monkeypatch.setattr(PreTraining, "forward", watched)
    content = config.read_text().splitlines()
    path = tmp_path / "pretrain.toml"
    path.write_text("\n".join(line for line in content if not line.startswith(("teacher", "transfer", "model"))))
    shape = "{vocab_size=200, max_position_embeddings=64, num_hidden_layers=1, hidden_size=16, embedding_size=8}"
    sets = ["model.preset=mobilebert", f"model.fields={shape}", "data.sequence_length=16"]
    sets += ["model.fields.bottleneck_size=8", "data.long_sequence_length=32", "data.long_share=0.2"]
    assert main(["pretrain", str(path), *(word for text in sets for word in ("--set", text))]) == 0
    assert lengths == [16] * 8 + [32] * 2
    trained = load_checkpoint(tmp_path / "run/model")
    assert trained.config.trained_positions == 32
    with pytest.raises(ModelError, match=r"33 exceeds the 32 positions that the model was trained on: choose at most"):
        export(trained, tmp_path / "m.onnx", seq_len=33)
    export(trained, tmp_path / "m.onnx", seq_len=32)
    sets[2:] = ["data.sequence_length=32", "data.long_sequence_length=128", f"output={tmp_path}/other"]
    assert main(["pretrain", str(path), *(word for text in sets for word in ("--set", text))]) == 2
    assert "data.long_sequence_length 128 exceeds the position table's 64" in capsys.readouterr().err
    sets[3] = "data.long_sequence_length=32"
    assert main(["pretrain", str(path), *(word for text in sets for word in ("--set", text))]) == 2
    assert "data.long_sequence_length is 32: it must be above sequence_length, or 0" in capsys.readouterr().err
    # What was trained before stays trained; a checkpoint that does not say goes on not saying.
    for start, expected in ((tmp_path / "run/model", 32), (tmp_path / "student", None)):
        sets = [f"model.folder={start}", "data.sequence_length=16", f"output={tmp_path}/{expected}", "train.steps=1"]
        assert main(["pretrain", str(path), *(word for text in sets for word in ("--set", text))]) == 0
        assert load_checkpoint(tmp_path / str(expected) / "model").config.trained_positions == expected


RUNS = {
    "pretrain": "train.steps=2",
    "distill": "train.steps=2 train.checkpoint_every=3 transfer.transfer_steps=4",  # a checkpoint inside stage 2
    "attention": "train.steps=1 transfer.transfer_steps=2 transfer.strategy=joint transfer.feature_map=0 "
    "transfer.mean=0 transfer.variance=0",
}
ONE_OF_TWO = """
import itertools, json, os, sys, torch
from torch import distributed
torch.set_num_threads(1)
from model.__main__ import main
from model.trainer import Trainer
folder, runs = sys.argv[1:]
step, init, meeting = Trainer._step, distributed.init_process_group, itertools.count()

def meet(backend):  # in a file: a free port may be another's a moment later
    rank, world = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    init(backend, init_method=f"file://{folder}/meeting-{next(meeting)}", rank=rank, world_size=world)

distributed.init_process_group = meet

def train(name, parallel, sets):
    sets = f"output={folder}/{name}-{parallel} train.parallel={parallel} train.accumulate=1 {sets}"
    command = "pretrain" if name == "pretrain" else "distill"
    return main([command, f"{folder}/{command}.toml", *(word for text in sets.split() for word in ("--set", text))])

def interrupted(self, *arguments):
    if self.progress.path.parent.name.startswith("distill") and arguments[3].total == 3:
        raise KeyboardInterrupt
    return step(self, *arguments)

for parallel in ("ddp", "fsdp"):
    for name, sets in json.loads(runs).items():
        Trainer._step = interrupted
        status = train(name, parallel, sets)
        assert status == (130 if name == "distill" else 0)
        if name == "distill":
            Trainer._step = step
            assert train(name, parallel, sets) == 0
"""


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        *product(("Bert", "DistilBert"), ("progressive", "joint", "auxiliary")),
        ("Roberta", "progressive"),
        ("Electra", "joint"),
    ],
)
def test_a_teacher_of_transformers_of_another_shape(
    family: str, strategy: str, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More layers, another width, other heads: feature maps are compared through linears that the student learns."""
    import transformers

    sizes = {"vocab_size": 200, "max_position_embeddings": 40}
    sizes |= (
        {"dim": 24, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
        if family == "DistilBert"
        else {"hidden_size": 24, "num_hidden_layers": 3, "intermediate_size": 32}
        | {"num_attention_heads": 3 if family == "Bert" else 2, "type_vocab_size": 1 + (family != "Roberta")}
    )
    made = getattr(transformers, f"{family}Config")(**sizes)
    getattr(transformers, f"{family}ForMaskedLM")(made).save_pretrained(tmp_path / "theirs")
    words = f"teacher={tmp_path}/theirs transfer.strategy={strategy} train.checkpoint_every=4 train.keep=9".split()
    command = ["distill", str(config), *(word for text in words for word in ("--set", text))]
    assert main(command) == 0
    said = capsys.readouterr().err
    assert ("attention is not compared: the student has 2 heads, the teacher 3" in said) == (family == "Bert")
    assert ("embedding and head are not copied" in said) == (strategy != "auxiliary")
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
    assert {"fmt", "mean", "variance"} <= set(log[0])
    assert ("at" in log[0]) == (family != "Bert")
    assert "kd" in log[-1]
    state = torch.load(tmp_path / "run/checkpoints/step-00000004.pt")["model"]
    assert state["transfer.1.weight"].shape == (24, 16)
    whole = weights(tmp_path / "run")
    assert not any(name.startswith("transfer") for name in whole)
    start = load_checkpoint(tmp_path / "student").state_dict()
    assert not torch.equal(start["encoder.embeddings.word.weight"], state["encoder.embeddings.word.weight"])
    for file in (tmp_path / "run/checkpoints").glob("step-*[!4].pt"):  # it goes on with the linears that it had
        file.unlink()
    (tmp_path / "run/model/model.safetensors").unlink()
    assert main(command) == 0
    resumed = weights(tmp_path / "run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("family", ["Roberta", "Electra"])
def test_a_teacher_that_our_core_has_not_says_what_transformers_says(family: str, tmp_path: Path) -> None:
    import transformers

    torch.manual_seed(0)
    made = getattr(transformers, f"{family}Config")(
        vocab_size=200, max_position_embeddings=40, hidden_size=24, embedding_size=16, num_hidden_layers=3,
        num_attention_heads=2, intermediate_size=32, attn_implementation="eager",
    )  # fmt: skip
    theirs = getattr(transformers, f"{family}ForMaskedLM")(made).eval()
    theirs.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path, words=True)
    ids = torch.randint(5, 200, (2, 12))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    batch["attention_mask"][1, 8:], batch["labels"] = 0, torch.full_like(ids, IGNORED)
    batch["input_ids"][1, 8:], batch["labels"][:, 2:4] = made.pad_token_id, 7
    with torch.no_grad():
        asked = {"output_hidden_states": True, "output_attentions": True}
        out = theirs(ids, batch["attention_mask"], **asked)
        states = teacher.encoder.states(*inputs(teacher, batch), depth=2)
        whole = teacher.encoder.states(*inputs(teacher, batch)).feature_maps
        words, sentences = predictions(teacher, batch, whole[-1])
    assert (len(states.feature_maps), len(whole), teacher.config.num_attention_heads) == (2, 3, 2)
    for i in range(2):
        assert torch.equal(states.feature_maps[i], out.hidden_states[i + 1])
        maps = states.attention_scores[i].softmax(-1)
        assert torch.allclose(maps, out.attentions[i], atol=1e-6)
    assert torch.allclose(words, out.logits[:, 2:4].reshape(4, 200), atol=1e-6)
    assert sentences is None


def test_a_student_shares_the_byte_level_vocabulary_of_its_teacher(
    config: Path, corpus: Path, tmp_path: Path, byte_level_bpe: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    """RoBERTa's tokenizer.json is the vocabulary of the corpus, of the student and of what is fine-tuned from it."""
    import transformers

    vocabulary = byte_level_bpe(tmp_path / "theirs/tokenizer.json")
    made = transformers.RobertaConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=1,
    )  # fmt: skip
    transformers.RobertaForMaskedLM(made).save_pretrained(tmp_path / "theirs")
    save_checkpoint(create(replace(TINY, vocab_size=300), "mlm", 2), tmp_path / "student")
    sets = f"teacher={tmp_path}/theirs data.folder={tmp_path}/bpe data.text=['{corpus}'] data.vocabulary={vocabulary}"
    command = ["distill", str(config), *(word for text in sets.split() for word in ("--set", text))]
    assert main(command) == 0
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
    assert {"fmt", "at"} <= set(log[0])
    assert "kd" in log[-1]
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "run/model")
    text = corpus.read_text()[:100]
    assert loaded(text)["input_ids"] == Tokenizer.from_file(str(vocabulary)).encode(text).ids
    assert (loaded.cls_token, loaded.mask_token, loaded.pad_token_id) == ("<s>", "<mask>", 1)
    batch = PreTrainingBatches(tmp_path / "bpe", 32, 300).batch(0, 0, 1, 4)
    assert set(batch["input_ids"][:, 0].tolist()) == {0}
    assert set(batch["input_ids"][batch["attention_mask"] == 0].tolist()) <= {1}
    assert {2, 4} <= set(batch["input_ids"].flatten().tolist())  # </s> and <mask>
    capsys.readouterr()
    for number, path in enumerate((tmp_path / "bpe/tokenizer.json", tmp_path / "run/model/tokenizer.json")):
        content = json.loads(path.read_text())
        assert (path.with_name("vocab.txt").exists(), len(content["model"]["vocab"])) == (False, 300), number
    assert main([*command[:2], "--set", f"teacher={tmp_path}/theirs"]) == 2  # the corpus is WordPiece's
    assert "was trained with another vocabulary" in capsys.readouterr().err
    vocabulary.write_text("{}")
    assert main([*command, "--set", f"data.folder={tmp_path}/other"]) == 2
    assert f"{vocabulary} cannot be read" in capsys.readouterr().err


def test_a_teacher_without_words_teaches_its_layers_alone(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ELECTRA's discriminators, say; and what is no encoder of BERT's kind is refused."""
    import transformers

    sizes: dict[str, Any] = {"vocab_size": 200, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    made = transformers.ElectraConfig(**sizes, embedding_size=16, intermediate_size=32, max_position_embeddings=40)
    transformers.ElectraForPreTraining(made).save_pretrained(tmp_path / "theirs")
    command = ["distill", str(config), "--set", f"teacher={tmp_path}/theirs", "--set", "transfer.strategy=joint"]
    assert main(command) == 2
    assert "ElectraForPreTraining predicts no words: set transfer.alpha=1" in capsys.readouterr().err
    assert main([*command, "--set", "transfer.alpha=1"]) == 0
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
    assert {"fmt", "at"} <= set(log[0])
    assert "kd" not in log[-1]
    (tmp_path / "theirs/config.json").write_text(json.dumps({"model_type": "t5"}))
    assert main(command) == 2
    assert "or a teacher of roberta, xlm-roberta, camembert, electra" in capsys.readouterr().err


def test_held_out_text_is_told_of_at_every_checkpoint_and_changes_nothing(
    config: Path, corpus: Path, tmp_path: Path
) -> None:
    held_out = f'held_out={{folder = "{tmp_path}/held-out", text = ["{corpus}"], sequence_length = 32, batches = 2}}'
    assert main(["distill", str(config), "--set", held_out]) == 0
    assert main(["distill", str(config), "--set", f"output={tmp_path}/plain"]) == 0
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").open()]
    told = {row["step"]: row for row in log if row["stage"] == "held-out"}
    assert list(told) == [2, 4, 6, 8, 10, 11]
    assert {"held_out_mlm", "held_out_mlm_accuracy", "held_out_nsp"} <= set(told[11])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "run/tensorboard"))
    board.Reload()
    assert board.Scalars("held_out_mlm")[-1].value == pytest.approx(told[11]["held_out_mlm"])
    ours, plain = weights(tmp_path / "run"), weights(tmp_path / "plain")
    assert all(torch.equal(ours[name], plain[name]) for name in ours)


LONG_AT_IT = """
import sys, time
from datetime import timedelta
import torch.distributed as dist
from model.processes import join
meeting, rank = sys.argv[1:]
dist.init_process_group("gloo", timeout=timedelta(seconds=1), init_method=meeting, rank=int(rank), world_size=2)
processes = join("cpu")
processes.first_alone(lambda: (time.sleep(3), print("done", flush=True)))
print("on", flush=True)
"""


def test_processes_wait_longer_for_a_corpus_than_for_each_other(tmp_path: Path) -> None:
    shared = os.environ | {"WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", LONG_AT_IT, f"file://{tmp_path}/meeting", str(rank)],
            env=shared | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for process, expected in zip(both, ("done\non\n", "on\n"), strict=True):
        said, errors = process.communicate(timeout=200)
        assert (process.returncode, said) == (0, expected), errors[-2000:]


@pytest.mark.parametrize(
    ("load", "local", "expected"), [(0.2, "1", 8), (5.3, "1", 3), (40.0, "1", 1), (0.0, "4", 2), (0.0, "16", 1)]
)
def test_threads_are_the_cores_that_nobody_uses(
    load: float, local: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "PHYSICAL_CORES", 8)
    monkeypatch.setattr(processes, "cores", lambda: 16)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    assert processes.free_cores() == expected


def test_a_run_goes_on_with_as_many_threads_as_it_began_with(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: chosen[-1])
    for free, threads in ((3, 0), (1, 0), (1, 2)):
        monkeypatch.setattr(processes, "free_cores", lambda free=free: free)
        make(prepared, tmp_path / "run", threads=threads).fit()
    assert chosen == [3, 3, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    processes.set_threads(0)
    assert chosen == [3, 3, 2]


def test_two_processes_learn_as_one_does(config: Path, prepared: Path, tmp_path: Path) -> None:
    """In whole copies (DDP) and in shards (FSDP): what one process accumulates, two take at a time.

    Also over the stages of progressive transfer, interrupted in one of them, and where nothing but attention is
    compared, so that what follows it in a layer has no gradient.
    """
    still = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    save_checkpoint(create(replace(TINY, **still), "mlm", 2), tmp_path / "student")
    (tmp_path / "pretrain.toml").write_text(f"""
output = ""
model = {{ folder = "{tmp_path}/student" }}
data = {{ folder = "{prepared}", sequence_length = 32 }}
train = {{ batch_size = 2, accumulate = 2, device = "cpu" }}
""")
    shared = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-c", ONE_OF_TWO, str(tmp_path), json.dumps(RUNS)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=shared | {"RANK": str(i)}, **pipes) for i in (0, 1)]
    for name, sets in RUNS.items():
        words = [word for text in (f"output={tmp_path}/{name}", *sets.split()) for word in ("--set", text)]
        file = tmp_path / "pretrain.toml" if name == "pretrain" else config
        assert main([file.stem, str(file), *words]) == 0
    try:
        for first, process in zip((True, False), both, strict=True):
            said, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors[-3000:]
            assert bool(said) == first  # one speaks for both
    finally:
        for process in both:
            process.kill()
    start = load_checkpoint(tmp_path / "student").state_dict()
    for name in RUNS:
        one = weights(tmp_path / name)
        moved = sum((one[n] - start[n]).norm().item() for n in one)
        for parallel in ("ddp", "fsdp"):
            other = weights(tmp_path / f"{name}-{parallel}")
            assert sum((one[n] - other[n]).norm().item() for n in one) < 1e-3 * moved, (name, parallel)
