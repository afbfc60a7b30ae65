"""The process group of the learner: one process on its own, or the ranks that torchrun starts."""

import os
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

ValueT = TypeVar("ValueT")

NO_LIMIT = timedelta(days=365)
"""Time limit of collectives in which ranks may wait for people, such as for space on a disk."""


def start_process_group() -> tuple[int, int]:
    """Join the process group and return (rank, world size); without torchrun it is a group of one.

    The group is made here and not by DeepSpeed, which would bind it to a device.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if "WORLD_SIZE" in os.environ:
            dist.init_process_group(backend)
        else:
            os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
            store = dist.HashStore()  # type: ignore[attr-defined]  # exported, but not listed in __all__
            dist.init_process_group(backend, store=store, rank=0, world_size=1)
    return dist.get_rank(), dist.get_world_size()


def learner_device() -> torch.device:
    """The device of this rank."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def gather_rows(rows: Tensor) -> Tensor:
    """The rows [n, columns] of every rank, one rank after the other, on every rank; ranks may have different n."""
    world_size = dist.get_world_size()
    if world_size == 1:
        return rows
    device = learner_device()
    count = torch.tensor([len(rows)], device=device)
    counts = [torch.zeros_like(count) for _ in range(world_size)]
    dist.all_gather(counts, count)
    padded = torch.zeros(max(int(value) for value in counts), rows.shape[1], dtype=rows.dtype, device=device)
    padded[: len(rows)] = rows.to(device)
    parts = [torch.zeros_like(padded) for _ in range(world_size)]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(value)] for part, value in zip(parts, counts, strict=True)]).cpu()


def gather_objects(value: ValueT) -> list[ValueT]:
    """A small value of every rank, on every rank, in their order; ranks wait for each other without a time limit."""
    values: list[ValueT | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=_patient_group())
    return values  # type: ignore[return-value]  # every rank has filled in its own


@cache
def _patient_group() -> dist.ProcessGroup:
    """All ranks, over the CPU; made by the first call, which all ranks make together."""
    group: dist.ProcessGroup = dist.new_group(backend="gloo", timeout=NO_LIMIT)
    return group


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum over all ranks."""
    total = values.to(learner_device())
    dist.all_reduce(total)
    return total.cpu()
