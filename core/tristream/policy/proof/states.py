"""Where two computations of one sequence part: the hidden states between the layers of the decoder, compared."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8}
"""Largest difference that counts as none, as a share of the largest state, by the type of the states."""
COARSE_TOLERANCE = 0.1

States = list[Tensor]
"""What goes into each layer, and what comes out of the decoder: shape [tokens, hidden] each."""


@contextmanager
def recorded_states(model: Any) -> Iterator[States]:  # noqa: ANN401 - transformers has no type for it
    """States of what the decoder computes meanwhile, for one row; tokens of several calls follow one another."""
    decoder = model.get_decoder()
    layers = layers_of(decoder)
    parts: list[States] = [[] for _ in range(len(layers) + 1)]
    states: States = []

    def of_layer(number: int) -> Any:  # noqa: ANN401 - a hook
        def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            parts[number].append((args[0] if args else kwargs["hidden_states"])[0].detach().cpu())

        return keep

    def of_decoder(_module: nn.Module, _args: object, output: Any) -> None:  # noqa: ANN401 - a hook
        parts[-1].append(output.last_hidden_state[0].detach().cpu())

    hooks = [layer.register_forward_pre_hook(of_layer(i), with_kwargs=True) for i, layer in enumerate(layers)]
    hooks.append(decoder.register_forward_hook(of_decoder))
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
        states.extend(torch.cat(of_place) for of_place in parts if of_place)


def layers_of(decoder: Any) -> Sequence[nn.Module]:  # noqa: ANN401 - transformers has no type for it
    """The layers of a decoder, in order; empty if it does not show them."""
    number = decoder.config.num_hidden_layers
    lists = (child for child in decoder.children() if isinstance(child, nn.ModuleList) and len(child) == number)
    return list(next(lists, ()))


def first_departure(own: States, plain: States) -> str:
    """Where states differ first, in words; empty if they do not, up to rounding."""
    with suppress(RuntimeError):  # of states that cannot be compared nothing is said
        for place, (one, other) in enumerate(zip(own, plain, strict=False)):
            scale = float(other.abs().max())
            if not float((one - other).abs().max()) <= TOLERANCES.get(other.dtype, COARSE_TOLERANCE) * scale:
                return _name_of(place, len(plain) - 1)
    return ""


def _name_of(place: int, num_layers: int) -> str:
    if place == 0:
        return "in what the first layer reads"
    if place == num_layers:
        return f"in layer {num_layers} of {num_layers} or the norm behind it"
    return f"in layer {place} of {num_layers} or what is added behind it"
