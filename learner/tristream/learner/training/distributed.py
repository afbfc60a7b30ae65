"""The process group of the learner: one process on its own, or the ranks that torchrun starts."""

import os

import torch
from torch import Tensor
from torch import distributed as dist


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


def sum_over_ranks(values: Tensor) -> Tensor:
    """Element-wise sum over all ranks."""
    total = values.to(learner_device())
    dist.all_reduce(total)
    return total.cpu()


def wait_for_all_ranks() -> None:
    """Return once every rank has called this."""
    sum_over_ranks(torch.zeros(1))
