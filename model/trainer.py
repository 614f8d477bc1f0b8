"""The one trainer: stages over numbered batches, exact to the bit however often it is interrupted.

Everything that a step depends on is in the checkpoint or follows from the step's number: batches and the seed of
dropout do. So a run killed at any moment and started again ends with the weights of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import save_checkpoint
from .data.batches import Batches, loader
from .distill.strategies import Stage, freeze
from .errors import ModelError
from .heads import Model
from .lamb import Lamb
from .processes import Processes, full_state, gathered, load_state, parallel, set_threads
from .progress import Progress
from .resume import Position, check_same, newest, write
from .settings import FREE, TrainSettings, rate

Task = Callable[[Model, Stage], nn.Module]
"""Makes the module that computes a stage's losses: forward(batch) -> {"loss": ..., and its terms}, model inside."""


class Trainer:
    """Trains `model` in `folder`, which gets checkpoints, logs and at the end model/ (in the Hugging Face layout)."""

    def __init__(
        self,
        model: Model,
        task: Task,
        stages: Sequence[Stage],
        batches: Batches,
        folder: Path,
        settings: TrainSettings,
        processes: Processes,
        begin: Callable[[Model, Stage], None] | None = None,
        held_out: Callable[[Model], dict[str, float]] | None = None,  # asked at every checkpoint, and logged
    ):
        self.model, self.task, self.stages, self.batches = model.to(processes.device), task, stages, batches
        self.folder, self.settings, self.processes = folder, settings, processes
        self.begin, self.held_out = begin or (lambda model, stage: None), held_out
        self.total = sum(stage.steps for stage in stages)
        self.sharded = settings.parallel == "fsdp" and processes.world > 1
        model.encoder.embeddings.ignores_padding = True
        model.encoder.gradient_checkpointing = settings.gradient_checkpointing
        on_gpu = processes.device.type == "cuda"
        self.bfloat16 = settings.precision == "bfloat16" or (settings.precision == "auto" and on_gpu)
        schedule = [asdict(stage) for stage in stages]
        free = {name: value for name, value in asdict(settings).items() if name not in FREE}
        self.same = {**free, "processes": processes.world, "stages": schedule, "model": asdict(model.config)}
        self.same |= {"data": dict(batches.identity)}

    def fit(self) -> Path:
        """Train from the newest checkpoint in the folder, or from the start; returns the folder of the model.

        Raises `ModelError` for a loss that is not finite, naming the term, and for checkpoints of another run.
        """
        position, state = Position(), newest(self.folder)
        if state is not None:
            check_same(self.folder, state["same"], self.same)
            position = Position(**state["position"])
        self.threads = set_threads(self.settings.threads, state["threads"] if state and "threads" in state else None)
        self.progress = Progress(self.folder, self.total, position.total, quiet=not self.processes.first)
        if state is not None:
            self.progress.say(f"going on from step {position.total} of {self.total}")
        try:
            for index in range(position.stage, len(self.stages)):
                position = self._stage(position, index, state)
                state = None
        finally:
            self.progress.close()
        self.processes.wait()
        return self._save()

    def _stage(self, position: Position, index: int, state: dict[str, Any] | None) -> Position:
        stage, settings = self.stages[index], self.settings
        if state is not None:
            self.model.load_state_dict(state["model"])
        elif self.sharded and position.total:
            self.model = gathered(self.model)  # shards do not take to other parameters being frozen
        if position.step == 0:
            self.begin(self.model, stage)
        freeze(self.model, stage)
        task = self.task(self.model, stage).to(self.processes.device)
        module = parallel(task, settings.parallel, self.processes, partly=not stage.pretraining).train()
        optimizer = make_optimizer(self.model, stage, settings)
        if state is not None and state["optimizer"] is not None:
            load_state(self.model, optimizer, (state["model"], state["optimizer"]), self.sharded)
        batches, meter = self._loader(position.total), Meter(position.total)
        while position.step < stage.steps:
            for group in optimizer.param_groups:
                share = rate(position.step, stage.steps, settings.warmup)
                group["lr"] = settings.learning_rate * group["rate"] * share
            terms, norm = self._step(module, optimizer, batches, position, meter)
            position = position.after_step(len(self.stages), stage.steps)
            self._report(position, stage, optimizer, terms, norm, meter)
            ended = position.stage != index
            if position.total % settings.checkpoint_every == 0 or position.total == self.total:
                self._checkpoint(position, None if ended else optimizer)
                module.train()  # whatever was asked of the model
            if ended:
                break
        return position

    def _step(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[dict[str, Tensor]],
        position: Position, meter: Meter
    ) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
        settings, device = self.settings, self.processes.device
        seed = (settings.seed * 1_000_003 + position.total) * 4096 + self.processes.rank
        torch.manual_seed(seed % (1 << 63))
        optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for i in range(settings.accumulate):
            with meter.waiting():
                batch = {k: v.to(device, non_blocking=True) for k, v in next(batches).items()}
            meter.tokens += batch["attention_mask"].numel() * self.processes.world
            last = i == settings.accumulate - 1
            with self._not_synchronised(module, last), torch.autocast(device.type, torch.bfloat16, self.bfloat16):
                terms = module(batch)
                (terms["loss"] / settings.accumulate).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / settings.accumulate
        sums = dict(zip(sums, self.processes.mean(torch.stack(list(sums.values()))), strict=True))
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, settings.max_gradient_norm)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self._check_finite(sums | {"gradient norm": norm}, position)
        optimizer.step()
        return sums, norm

    def _not_synchronised(self, module: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Gradients travel between processes once a step, with its last batch."""
        if not last and isinstance(module, nn.parallel.DistributedDataParallel):
            return module.no_sync()
        if self.sharded:
            module.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def _check_finite(self, terms: dict[str, Tensor], position: Position) -> None:
        values = torch.stack([value.float() for value in terms.values()]).tolist()  # the only wait for the GPU
        bad = [f"{name} is {value}" for name, value in zip(terms, values, strict=True) if not math.isfinite(value)]
        if bad:
            cause = [text for text in bad if not text.startswith(("loss ", "gradient "))] or bad
            kept = newest(self.folder, only_path=True)
            kept_text = f"the last good checkpoint is {kept}" if kept else "there was no checkpoint yet"
            raise ModelError(
                f"step {position.total + 1}: {', '.join(cause)}; {kept_text}: "
                "lower train.learning_rate or check the data"
            )

    def _report(
        self, position: Position, stage: Stage, optimizer: torch.optim.Optimizer,
        terms: dict[str, Tensor], norm: Tensor, meter: Meter
    ) -> None:  # fmt: skip
        if position.total % self.settings.log_every and position.total != self.total:
            return
        values = {name: float(value) for name, value in terms.items()}
        values |= {"learning_rate": max(g["lr"] for g in optimizer.param_groups), "gradient_norm": float(norm)}
        values |= meter.read(position.total, self.total)
        if self.processes.device.type == "cuda":
            values["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
        self.progress.report(position.total, stage.name, values)

    def _loader(self, step: int) -> Iterator[dict[str, Tensor]]:
        s, p = self.settings, self.processes
        start, stop = step * s.accumulate, self.total * s.accumulate
        return loader(self.batches, start, stop, s.batch_size, p.rank, p.world, s.workers)

    def _checkpoint(self, position: Position, optimizer: torch.optim.Optimizer | None) -> None:
        """`optimizer` is None between stages: the next one begins with an optimizer of its own."""
        model_state, optimizer_state = full_state(self.model, optimizer, self.sharded)
        if self.processes.first:
            state = {"model": model_state, "optimizer": optimizer_state, "same": self.same}
            state["threads"] = self.threads  # sums are rounded otherwise by another number
            write(self.folder, position, state, self.settings.keep)
            if self.held_out:
                values = self.held_out(self._whole(model_state) if self.sharded else self.model)
                self.progress.report(position.total, "held-out", {f"held_out_{k}": v for k, v in values.items()})
        self.processes.wait()

    def _save(self) -> Path:
        if self.processes.first:
            finished = newest(self.folder)
            assert finished is not None
            save_checkpoint(self._whole(finished["model"]), self.folder / "model")
        self.processes.wait()
        return self.folder / "model"

    def _whole(self, state: dict[str, Tensor]) -> Model:
        """A model of its own, on this device, without what it has for training alone."""
        whole = Model(self.model.config, self.model.head_name)
        whole.load_state_dict({name: value for name, value in state.items() if name in whole.state_dict()})
        whole.encoder.embeddings.clear_padding()
        return whole.to(self.processes.device)


class Meter:
    """Tokens a second and the share of time spent waiting for data, since the last reading or `step`."""

    def __init__(self, step: int) -> None:
        self.start, self.tokens, self.waited, self.step = time.perf_counter(), 0, 0.0, step

    @contextmanager
    def waiting(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.waited += time.perf_counter() - started

    def read(self, step: int, total: int) -> dict[str, float]:
        """`eta_seconds` assumes that the steps to come take as long as those since the last reading."""
        now = time.perf_counter()
        seconds = max(now - self.start, 1e-9)
        values = {
            "tokens_per_second": self.tokens / seconds,
            "data_wait": self.waited / seconds,
            "eta_seconds": seconds / (step - self.step) * (total - step),
        }
        self.start, self.tokens, self.waited, self.step = now, 0, 0.0, step
        return values


def make_optimizer(model: Model, stage: Stage, settings: TrainSettings) -> torch.optim.Optimizer:
    """Groups by rate; biases and norms have neither weight decay nor LAMB's adaptation."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((stage.rate(name), decays(name)), []).append(parameter)
    if not groups:
        raise ModelError(f"stage {stage.name!r} trains nothing")
    decay = {True: settings.weight_decay, False: 0.0}
    listed = [
        {"params": parameters, "rate": share, "weight_decay": decay[decayed]}
        | ({"adapt": decayed} if settings.optimizer == "lamb" else {})
        for (share, decayed), parameters in groups.items()
    ]
    if settings.optimizer == "lamb":
        return Lamb(listed, settings.learning_rate)
    return torch.optim.AdamW(listed, settings.learning_rate, eps=1e-6)


def decays(name: str) -> bool:
    return not name.endswith(("bias", "norm.weight"))
