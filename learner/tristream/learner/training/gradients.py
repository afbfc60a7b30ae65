"""Gradients between backward and step: their norms by layer, without gathering what ranks share out."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tristream.learner.training.distributed import learner_device, sum_over_ranks


def layer_grad_norms(named: Iterable[tuple[str, nn.Parameter]], zero_stage: int) -> dict[str, float]:
    """L2 norm of the gradient of each layer over all ranks, which call it together.

    Under ZeRO 1 and 2 each rank squares the part that it updates, and one sum over the ranks gives all layers: the
    gradient of no parameter is gathered.

    Args:
        named: parameters by name; frozen ones are left out.
        zero_stage: the stage that DeepSpeed runs.
    """
    trained = [(layer_of(name), parameter) for name, parameter in named if parameter.requires_grad]
    layers = {layer: number for number, layer in enumerate(dict.fromkeys(layer for layer, _ in trained))}
    squares = torch.zeros(len(layers), dtype=torch.float64, device=learner_device())
    for layer, parameter in trained:
        gradient = _own_gradient(parameter, zero_stage)
        if gradient is not None and gradient.numel():
            # Exact to 1e-7: torch's norm in fp32 is off by 1e-4 on a matrix of millions.
            squares[layers[layer]] += gradient.float().square().sum()
    total = sum_over_ranks(squares) if zero_stage in (1, 2) else squares
    return dict(zip(layers, total.sqrt().tolist(), strict=True))


def layer_of(name: str) -> str:
    """Layer of a parameter: up to the first number in its name, else the module that owns it.

    Example:
        >>> layer_of("model.language_model.layers.3.mlp.up_proj.weight")
        'model.language_model.layers.3'
    """
    parts = name.split(".")
    numbered = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[:-1] if numbered is None else parts[: numbered + 1])


def _own_gradient(parameter: Any, zero_stage: int) -> Tensor | None:  # noqa: ANN401 - DeepSpeed adds to it
    """The gradient that this rank counts, flat or not; None where there is none, or another rank has it."""
    if zero_stage == 0:
        gradient: Tensor | None = parameter.grad
        return gradient
    if zero_stage == 3:
        from deepspeed.utils import safe_get_full_grad

        whole: Tensor | None = safe_get_full_grad(parameter)
        return whole
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    held: Tensor = mapping.get_lp_grad_fragment(parameter._index_in_param_group).flatten()
    place = mapping.lp_fragment_address
    return held.narrow(0, place.start, place.numel) if held.numel() > place.numel else held
