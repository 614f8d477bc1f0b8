"""One process or many: what `torchrun` says, and the few collective operations that training needs."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import ModelError
from .heads import Model
from .settings import cores

PATIENCE = timedelta(days=30)
PHYSICAL_CORES = torch.get_num_threads()  # as torch starts


@dataclass(frozen=True)
class Processes:
    """This process among its kind."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Over all processes; NaN anywhere is NaN everywhere."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()

    def first_alone(self, work: Callable[[], object]) -> None:
        """Let the first process do `work` while the others wait, however long it takes."""
        if self.world == 1:
            work()
            return
        # NCCL gives up after 10 minutes and gloo after 30, which is right where all compute; it is wrong here.
        patient = dist.new_group(backend="gloo", timeout=PATIENCE)
        if self.first:
            work()
        dist.barrier(patient)
        dist.destroy_process_group(patient)


def is_first() -> bool:
    """Whether this process is alone or the first of its group, which speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def join(device: str = "auto") -> Processes:
    """The process group that the environment describes; alone where there is none."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"train.device is {device!r}, but there is no CUDA device here: choose 'auto' or 'cpu'")
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return Processes(rank, world, torch.device(device))


def free_cores() -> int:
    """Those that nobody uses at present, this process's share of them where several run on the machine; at least 1."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, round(min(cores(), PHYSICAL_CORES) - load) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def set_threads(wanted: int, before: int | None = None) -> int:
    """Let torch compute with `wanted` threads; 0 is as many as `before`, or as cores are free. Returns how many.

    On a core that another program has, a thread keeps all others waiting at the end of every product: two threads on
    two busy cores are slower than one. OMP_NUM_THREADS, which torchrun sets, stands.
    """
    if wanted or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(wanted or before or free_cores())
    return torch.get_num_threads()


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def parallel(task: nn.Module, how: Literal["ddp", "fsdp"], processes: Processes, partly: bool = False) -> nn.Module:
    """The task as it runs on many processes: gradients averaged, and for FSDP parameters in shards, layer by layer.

    `partly`: the loss may leave some parameters without a gradient, as attention transfer does what follows attention.
    """
    if processes.world == 1:
        return task
    if how == "ddp":
        devices = [processes.device] if processes.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(task, device_ids=devices, find_unused_parameters=partly)
    from torch.distributed.fsdp import fully_shard

    for layer in task.model.encoder.layers:  # type: ignore[union-attr]
        fully_shard(layer)
    fully_shard(task)
    return task


def full_state(model: nn.Module, optimizer: torch.optim.Optimizer | None, sharded: bool) -> tuple[Any, Any]:
    """State dicts with whole tensors; every process must call this where parameters are in shards."""
    if not sharded:
        return model.state_dict(), optimizer and optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    if optimizer is None:
        return get_model_state_dict(model, options=options), None
    return get_state_dict(model, optimizer, options=options)


def gathered(model: Model) -> Model:
    """The model with whole parameters, from one in shards; every process must call this."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    device = next(model.parameters()).device
    whole = Model(model.config, model.head_name).to(device)
    shapes = [p.shape for name, p in model.named_parameters() if name.startswith("transfer.")]
    if shapes:  # linears, see `distill.project`
        linears = [nn.Linear(inputs, outputs, bias=False, device=device) for outputs, inputs in shapes]
        whole.add_module("transfer", nn.ModuleList(linears))
    whole.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
    whole.encoder.gradient_checkpointing = model.encoder.gradient_checkpointing
    whole.encoder.embeddings.ignores_padding = model.encoder.embeddings.ignores_padding
    return whole


def load_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: tuple[Any, Any], sharded: bool) -> None:
    """Back from `full_state`."""
    if not sharded:
        model.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict

    options = StateDictOptions(full_state_dict=True)
    set_state_dict(model, optimizer, model_state_dict=state[0], optim_state_dict=state[1], options=options)
