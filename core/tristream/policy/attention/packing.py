"""Attention for packed groups whose rollouts share one prompt.

A micro-batch is one row of tokens without padding. It holds units; a unit is a prompt followed by the
completions of some rollouts of it::

    [ prompt 0 | completion 0.0 | completion 0.1 | prompt 1 | completion 1.0 | ... ]

A prompt token sees the prompt up to itself; a completion token sees its whole prompt and its own completion
up to itself. That is what each rollout would see in a forward pass of its own, so values and gradients are
the same, and the prompt is computed once for all of its rollouts. Only inside attention are rows padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

ATTENTION_NAME = "tristream_packed_groups"
"""Name under which the attention is registered with transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixLayout:
    """Where the prompts and completions of a packed row are; all indices are into the row."""

    prompt_rows: Tensor
    """Shape [units, longest prompt], token indices; padding repeats index 0."""
    completion_rows: Tensor
    """Shape [rollouts, longest completion], token indices; padding repeats index 0."""
    unit_of_rollout: Tensor
    """Shape [rollouts], the unit whose prompt the rollout continues."""
    completion_mask: Tensor
    """Shape [rollouts, 1, longest completion, longest prompt + longest completion]; True is seen."""
    restore: Tensor
    """Shape [tokens], where each token of the row is in the flattened prompt rows and completion rows."""
    longest: int
    """Tokens of the longest prompt with one completion."""

    def to(self, device: torch.device) -> "PrefixLayout":
        """The layout on a device."""
        return PrefixLayout(
            prompt_rows=self.prompt_rows.to(device),
            completion_rows=self.completion_rows.to(device),
            unit_of_rollout=self.unit_of_rollout.to(device),
            completion_mask=self.completion_mask.to(device),
            restore=self.restore.to(device),
            longest=self.longest,
        )


def build_layout(units: Sequence[tuple[int, Sequence[int]]]) -> PrefixLayout:
    """Lay out units given as (prompt length, completion lengths); completions of length 0 take no row."""
    longest_prompt = max(prompt for prompt, _ in units)
    longest_completion = max((length for _, completions in units for length in completions), default=0)
    rollouts = [(unit, length) for unit, (_, completions) in enumerate(units) for length in completions if length]
    prompt_rows = torch.zeros(len(units), longest_prompt, dtype=torch.long)
    completion_rows = torch.zeros(len(rollouts), longest_completion, dtype=torch.long)
    restore: list[Tensor] = []
    start, row, num_prompt_slots = 0, 0, len(units) * longest_prompt
    for unit, (prompt, completions) in enumerate(units):
        prompt_rows[unit, :prompt] = torch.arange(start, start + prompt)
        restore.append(torch.arange(prompt) + unit * longest_prompt)
        start += prompt
        for length in filter(None, completions):
            completion_rows[row, :length] = torch.arange(start, start + length)
            restore.append(torch.arange(length) + num_prompt_slots + row * longest_completion)
            start, row = start + length, row + 1
    unit_of_rollout = torch.tensor([unit for unit, _ in rollouts], dtype=torch.long)
    prompt_lengths = torch.tensor([prompt for prompt, _ in units])
    sees_prompt = torch.arange(longest_prompt)[None, :] < prompt_lengths[unit_of_rollout][:, None]
    causal = torch.ones(longest_completion, longest_completion, dtype=torch.bool).tril()
    return PrefixLayout(
        prompt_rows=prompt_rows,
        completion_rows=completion_rows,
        unit_of_rollout=unit_of_rollout,
        completion_mask=torch.cat(
            [
                sees_prompt[:, None, None, :].expand(-1, 1, longest_completion, -1),
                causal.expand(len(rollouts), 1, -1, -1),
            ],
            dim=-1,
        ),
        restore=torch.cat(restore),
        longest=max(prompt + max(completions, default=0) for prompt, completions in units),
    )


def shared_prefix_attention(
    module: nn.Module,  # noqa: ARG001 - transformers passes it
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: object,
) -> tuple[Tensor, None]:
    """Attention of one packed row, in the form transformers calls it.

    Args:
        module: the attention layer.
        query: shape [1, heads, tokens, head size]; rotary positions are applied already.
        key: shape [1, key-value heads, tokens, head size].
        value: shape [1, key-value heads, tokens, head size].
        attention_mask: must be None; the layout says who sees whom.
        options: ``prefix_layout`` (required), ``scaling``, ``sliding_window``.

    Returns:
        Shape [1, tokens, heads, head size], and no attention weights.
    """
    layout, scaling, window = options["prefix_layout"], options.get("scaling"), options.get("sliding_window")
    assert isinstance(layout, PrefixLayout), "the packed row has no layout"
    assert attention_mask is None, "a packed row takes no mask"
    assert scaling is None or isinstance(scaling, float)
    if isinstance(window, int) and window < layout.longest:
        raise ValueError(f"a sequence of {layout.longest} tokens exceeds the sliding window of {window}")
    num_repeats = query.shape[1] // key.shape[1]
    # [tokens, heads, head size]: rows are gathered along the first dimension.
    query_rows, key_rows, value_rows = (states[0].transpose(0, 1) for states in (query, key, value))
    prompt_key, prompt_value = key_rows[layout.prompt_rows], value_rows[layout.prompt_rows]
    prompts = _attend(query_rows[layout.prompt_rows], prompt_key, prompt_value, None, (scaling, num_repeats))
    outputs = prompts.flatten(0, 1)
    if layout.completion_rows.numel():
        completion_key = torch.cat([prompt_key[layout.unit_of_rollout], key_rows[layout.completion_rows]], dim=1)
        completion_value = torch.cat([prompt_value[layout.unit_of_rollout], value_rows[layout.completion_rows]], dim=1)
        completions = _attend(
            query_rows[layout.completion_rows],
            completion_key,
            completion_value,
            layout.completion_mask,
            (scaling, num_repeats),
        )
        outputs = torch.cat([outputs, completions.flatten(0, 1)])
    return outputs[layout.restore][None], None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, options: tuple[float | None, int]
) -> Tensor:
    """Attention of rows [rows, tokens, heads, head size]; causal where there is no mask."""
    scaling, num_repeats = options
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    if num_repeats > 1:
        key, value = key.repeat_interleave(num_repeats, dim=1), value.repeat_interleave(num_repeats, dim=1)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return output.transpose(1, 2)
