"""Copies of a policy's weights on the CPU, by their Hugging Face names."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightCopier:
    """Copies the weights of a model; what is frozen is copied once."""

    def __init__(self, checkpoint: nn.Module) -> None:
        self._checkpoint = checkpoint
        self._frozen: dict[str, Tensor] = {}

    def forget_frozen(self) -> None:
        """Copy frozen weights anew: they were loaded."""
        self._frozen.clear()

    def copy(self) -> Mapping[str, Tensor]:
        """Contiguous copies of all weights on rank 0, and nothing on other ranks, which have the same ones.

        Tied weights come once, under the name of the one that is stored in the checkpoint. Under ZeRO 3 each
        parameter is gathered alone, so that a rank never holds two of them besides the copies.
        """
        if torch.distributed.get_rank() != 0:
            return {}
        weights = {name: self._copy(name, parameter) for name, parameter in self._checkpoint.named_parameters()}
        persistent = persistent_buffers(self._checkpoint)
        for name, buffer in self._checkpoint.named_buffers():
            if name in persistent:
                weights[name] = buffer.detach().to("cpu", copy=True).contiguous()
        return weights

    def _copy(self, name: str, parameter: nn.Parameter) -> Tensor:
        import deepspeed

        if name in self._frozen:
            return self._frozen[name]
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            copied = parameter.detach().to("cpu", copy=True).contiguous()
        if not parameter.requires_grad:
            self._frozen[name] = copied
        return copied


def persistent_buffers(module: nn.Module) -> set[str]:
    """Names of the buffers that a checkpoint holds."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, owner in module.named_modules()
        for name in owner._buffers
        if name not in owner._non_persistent_buffers_set
    }
