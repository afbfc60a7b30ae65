"""Loading a checkpoint that another number of ranks wrote.

Without ZeRO every rank has all of the state, so it loads as it is. ZeRO 1 and 2 leave each rank one part of the flat
parameters of a group, padded at the end so that parts are equal; DeepSpeed loads only as many parts as there are ranks.
Here each rank reads the files of all, puts the parts together without their padding, and takes its own.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PARTITION = re.compile(r"(bf16_)?zero_pp_rank_(?P<rank>[0-9]+)_mp_rank_00_optim_states\.pt")


def find_partitions(state: Path) -> list[Path]:
    """The files of a checkpoint's state that hold a part of the optimizer each, by rank; none without ZeRO."""
    ranked = [(int(found["rank"]), path) for path in state.iterdir() if (found := _PARTITION.fullmatch(path.name))]
    return [path for _, path in sorted(ranked)]


def load_from_other_world_size(engine: Any, folder: Path, tag: str, partitions: Sequence[Path]) -> None:  # noqa: ANN401
    """Restore parameters and the optimizer of ZeRO 1 or 2 from the parts of other ranks.

    Args:
        engine: DeepSpeed's engine.
        folder: the checkpoint.
        tag: name of the folder in it that holds the state.
        partitions: the parts, from ``find_partitions``.
    """
    engine.load_checkpoint(str(folder), tag=tag, load_module_only=True)
    zero, rank = engine.optimizer, torch.distributed.get_rank()
    saved = [torch.load(path, map_location="cpu", weights_only=False)["optimizer_state_dict"] for path in partitions]
    for number, own in enumerate(zero.single_partition_of_fp32_groups):
        parts = [part["single_partition_of_fp32_groups"][number] for part in saved]
        own.data.copy_(_own_part(parts, own, rank))
        of_group = [part["base_optimizer_state"] for part in saved]
        states = [state["state"].get(state["param_groups"][number]["params"][0], {}) for state in of_group]
        base = zero.optimizer.param_groups[number]["params"][0]
        zero.optimizer.state[base] = _own_state(states, [len(part) for part in parts], own, rank)
    zero._link_all_hp_params()


def _own_state(states: Sequence[dict[str, Any]], lengths: Sequence[int], own: Tensor, rank: int) -> dict[str, Any]:
    """The optimizer's state of this rank's part; what is no tensor of the part's length is the same on all ranks.

    Args:
        states: of each saved part, padded.
        lengths: elements of each saved part without its padding.
        own: this rank's part of the parameters.
        rank: which rank it is.
    """
    result: dict[str, Any] = {}
    for key, value in states[0].items():
        is_part = isinstance(value, Tensor) and value.dim() == 1 and value.numel() >= lengths[0] > 0
        parts = [state[key][:length] for state, length in zip(states, lengths, strict=True)] if is_part else []
        result[key] = _own_part(parts, own, rank) if is_part else value
    return result


def _own_part(parts: Sequence[Tensor], own: Tensor, rank: int) -> Tensor:
    """This rank's part of a flat group, as long as ``own``: zeros stand behind its end."""
    whole = torch.cat([part.flatten() for part in parts])
    mine = whole[rank * own.numel() : (rank + 1) * own.numel()].to(own.device, own.dtype)
    return torch.nn.functional.pad(mine, (0, own.numel() - mine.numel()))
