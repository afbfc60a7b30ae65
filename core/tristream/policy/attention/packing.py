"""Attention for packed rollouts that share a prefix.

A micro-batch is one row of tokens without padding. It holds units; a unit is a prefix followed by what some rollouts
have after it, their tails::

    [ prefix 0 | tail 0.0 | tail 0.1 | prefix 1 | tail 1.0 | ... ]

A token of a prefix sees the prefix up to itself; a token of a tail sees its whole prefix and its own tail up to
itself. That is what each rollout would see in a forward pass of its own, so values and gradients are the same, and
the prefix is computed once for all of its rollouts. Only inside attention are rows padded.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

ATTENTION_NAME = "tristream_packed_rollouts"
"""Name under which the attention is registered with transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixLayout:
    """Where the prefixes and tails of a packed row are; all indices are into the row."""

    prefix_rows: Tensor
    """Shape [units, longest prefix], token indices; padding repeats index 0."""
    tail_rows: Tensor
    """Shape [tails, longest tail], token indices; padding repeats index 0."""
    unit_of_tail: Tensor
    """Shape [tails], the unit whose prefix the tail continues."""
    tail_mask: Tensor
    """Shape [tails, 1, longest tail, longest prefix + longest tail]; True is seen."""
    restore: Tensor
    """Shape [tokens], where each token of the row is in the flattened prefix rows and tail rows."""
    longest: int
    """Tokens of the longest prefix with one tail."""

    def to(self, device: torch.device) -> "PrefixLayout":
        """The layout on a device."""
        return PrefixLayout(
            prefix_rows=self.prefix_rows.to(device),
            tail_rows=self.tail_rows.to(device),
            unit_of_tail=self.unit_of_tail.to(device),
            tail_mask=self.tail_mask.to(device),
            restore=self.restore.to(device),
            longest=self.longest,
        )


def register_packed_attention() -> None:
    """Make the attention known to transformers."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, packed_attention)


def build_layout(units: Sequence[tuple[int, Sequence[int]]]) -> PrefixLayout:
    """Lay out units given as (prefix length, tail lengths); tails of length 0 take no row."""
    longest_prefix = max(prefix for prefix, _ in units)
    longest_tail = max((length for _, lengths in units for length in lengths), default=0)
    tails = [(unit, length) for unit, (_, lengths) in enumerate(units) for length in lengths if length]
    prefix_rows = torch.zeros(len(units), longest_prefix, dtype=torch.long)
    tail_rows = torch.zeros(len(tails), longest_tail, dtype=torch.long)
    restore: list[Tensor] = []
    start, row, num_prefix_slots = 0, 0, len(units) * longest_prefix
    for unit, (prefix, lengths) in enumerate(units):
        prefix_rows[unit, :prefix] = torch.arange(start, start + prefix)
        restore.append(torch.arange(prefix) + unit * longest_prefix)
        start += prefix
        for length in filter(None, lengths):
            tail_rows[row, :length] = torch.arange(start, start + length)
            restore.append(torch.arange(length) + num_prefix_slots + row * longest_tail)
            start, row = start + length, row + 1
    unit_of_tail = torch.tensor([unit for unit, _ in tails], dtype=torch.long)
    prefix_lengths = torch.tensor([prefix for prefix, _ in units])
    return PrefixLayout(
        prefix_rows=prefix_rows,
        tail_rows=tail_rows,
        unit_of_tail=unit_of_tail,
        tail_mask=_tail_mask(prefix_lengths[unit_of_tail], longest_prefix, longest_tail),
        restore=torch.cat(restore),
        longest=max(prefix + max(lengths, default=0) for prefix, lengths in units),
    )


def packed_attention(
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

    Raises:
        ValueError: a sequence is longer than the layer's sliding window.
    """
    layout, scaling, window = options["prefix_layout"], options.get("scaling"), options.get("sliding_window")
    assert isinstance(layout, PrefixLayout), "the packed row has no layout"
    assert attention_mask is None, "a packed row takes no mask"
    assert scaling is None or isinstance(scaling, float)
    if isinstance(window, int) and window < layout.longest:
        raise ValueError(f"a sequence of {layout.longest} tokens exceeds the sliding window of {window}")
    shape = (scaling, query.shape[1] // key.shape[1])
    # [tokens, heads, head size]: rows are gathered along the first dimension.
    query_rows, key_rows, value_rows = (states[0].transpose(0, 1) for states in (query, key, value))
    prefix_key, prefix_value = key_rows[layout.prefix_rows], value_rows[layout.prefix_rows]
    outputs = _attend(query_rows[layout.prefix_rows], prefix_key, prefix_value, None, shape).flatten(0, 1)
    if layout.tail_rows.numel():
        tail_key = torch.cat([prefix_key[layout.unit_of_tail], key_rows[layout.tail_rows]], dim=1)
        tail_value = torch.cat([prefix_value[layout.unit_of_tail], value_rows[layout.tail_rows]], dim=1)
        tails = _attend(query_rows[layout.tail_rows], tail_key, tail_value, layout.tail_mask, shape)
        outputs = torch.cat([outputs, tails.flatten(0, 1)])
    return outputs[layout.restore][None], None


def _tail_mask(prefix_lengths: Tensor, longest_prefix: int, longest_tail: int) -> Tensor:
    """Who sees whom, for tails whose prefixes have these lengths: [tails, 1, longest tail, prefix + tail]."""
    sees_prefix = torch.arange(longest_prefix)[None, :] < prefix_lengths[:, None]
    causal = torch.ones(longest_tail, longest_tail, dtype=torch.bool).tril()
    return torch.cat(
        [
            sees_prefix[:, None, None, :].expand(-1, 1, longest_tail, -1),
            causal.expand(len(prefix_lengths), 1, -1, -1),
        ],
        dim=-1,
    )


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, shape: tuple[float | None, int]) -> Tensor:
    """Attention of rows [rows, tokens, heads, head size]; causal where there is no mask."""
    scaling, num_repeats = shape
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    if num_repeats > 1:
        key, value = key.repeat_interleave(num_repeats, dim=1), value.repeat_interleave(num_repeats, dim=1)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling)
    return output.transpose(1, 2)
