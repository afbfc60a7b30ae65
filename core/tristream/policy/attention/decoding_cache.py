"""Keys and values of a decoding batch, in which equal prompts are kept once.

The G rollouts of a group share their prompt. Here the prompt's keys and values exist once for all of
them, and only the completions have their own; attention reads both parts (``decoding``). Memory
and memory traffic for prompts are G times smaller than with one cache a row ("Hydragen", Juravsky et
al. 2024; "bifurcated attention", Athiwaratkun et al. 2024).

Shapes: P prompts, S prompt positions (padded on the right), B rows, T completion columns, K key-value heads,
D head size; one tensor a layer. All rows write the same column; a row that joined later has a later
first column.
"""
# ruff: noqa: N803, N806, N815 - names of tensors end in the letters of their shape

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

COLUMN_CHUNK = 64
"""Columns are allocated this many at a time."""


@dataclass(slots=True, kw_only=True)
class DecodingCache:
    """One decoding batch; changed in place as it decodes."""

    prefix_keys: list[Tensor]
    """[P, K, S, D] a layer."""
    prefix_values: list[Tensor]
    keys: list[Tensor]
    """[B, K, allocated columns, D] a layer."""
    values: list[Tensor]
    prefix_lengths_P: Tensor
    prompt_B: Tensor
    """Prompt of each row."""
    slot_B: Tensor
    """Which of its prompt's rows a row is."""
    first_column_B: Tensor
    num_columns: int
    num_slots: int
    """Most rows of one prompt."""
    prefix_bias_PS: Tensor
    """0 at prompt tokens, -inf at padding."""
    own_bias_BT: Tensor | None = None
    """0 from a row's first column on, -inf before; None while every row starts at column 0."""

    @classmethod
    def begin(
        cls, prefix: Sequence[tuple[Tensor, Tensor]], prefix_lengths_P: Tensor, rows_per_prompt: Sequence[int]
    ) -> "DecodingCache":
        """A batch of fresh rows.

        Args:
            prefix: keys and values [P, K, S, D] of each layer.
            prefix_lengths_P: prompt tokens of each prompt, at least 1.
            rows_per_prompt: rows of each prompt, at least 1; rows come in the order of their prompts.
        """
        device = prefix_lengths_P.device
        counts = torch.tensor(rows_per_prompt, device=device)
        prompt_B = torch.repeat_interleave(torch.arange(len(rows_per_prompt), device=device), counts)
        slots = [slot for count in rows_per_prompt for slot in range(count)]
        num_rows = len(slots)
        return cls(
            prefix_keys=[keys for keys, _ in prefix],
            prefix_values=[values for _, values in prefix],
            keys=[_empty_columns(keys, num_rows) for keys, _ in prefix],
            values=[_empty_columns(values, num_rows) for _, values in prefix],
            prefix_lengths_P=prefix_lengths_P,
            prompt_B=prompt_B,
            slot_B=torch.tensor(slots, device=device),
            first_column_B=torch.zeros(num_rows, dtype=torch.long, device=device),
            num_columns=0,
            num_slots=max(rows_per_prompt),
            prefix_bias_PS=_prefix_bias(prefix_lengths_P, prefix[0][0].shape[2]),
        )

    @property
    def num_rows(self) -> int:
        """Rows in the batch."""
        return len(self.prompt_B)

    def open_column(self) -> None:
        """Make room for the next token of every row."""
        self.num_columns += 1
        if self.num_columns > self.keys[0].shape[2]:
            self.keys = [pad(keys, (0, 0, 0, COLUMN_CHUNK)) for keys in self.keys]
            self.values = [pad(values, (0, 0, 0, COLUMN_CHUNK)) for values in self.values]
        if self.own_bias_BT is not None:
            self.own_bias_BT = pad(self.own_bias_BT, (0, 1))

    def append(self, layer: int, keys_BKD: Tensor, values_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """Write the newest column of a layer; return all its completion keys and values [B, K, T, D]."""
        column = self.num_columns - 1
        self.keys[layer][:, :, column] = keys_BKD
        self.values[layer][:, :, column] = values_BKD
        return self.keys[layer][:, :, : self.num_columns], self.values[layer][:, :, : self.num_columns]

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all other rows, the prompts without rows, and the columns without tokens."""
        prompts, self.prompt_B = torch.unique(self.prompt_B[rows], return_inverse=True)
        if len(prompts) < len(self.prefix_lengths_P):
            self.prefix_lengths_P = self.prefix_lengths_P[prompts]
            longest = int(self.prefix_lengths_P.max())
            self.prefix_keys = [keys[prompts, :, :longest] for keys in self.prefix_keys]
            self.prefix_values = [values[prompts, :, :longest] for values in self.prefix_values]
            self.prefix_bias_PS = _prefix_bias(self.prefix_lengths_P, longest)
        self._renumber_slots(rows)
        first_column_B = self.first_column_B[rows]
        unused = int(first_column_B.min())
        self.keys = [keys[rows, :, unused:] for keys in self.keys]
        self.values = [values[rows, :, unused:] for values in self.values]
        self.first_column_B = first_column_B - unused
        self.num_columns -= unused
        self._rebuild_own_bias()

    def join(self, other: "DecodingCache") -> None:
        """Add the fresh rows of another batch behind those of this one."""
        longest = max(self.prefix_keys[0].shape[2], other.prefix_keys[0].shape[2])
        self.prefix_keys = _join_padded(self.prefix_keys, other.prefix_keys, longest)
        self.prefix_values = _join_padded(self.prefix_values, other.prefix_values, longest)
        num_allocated = max(self.keys[0].shape[2], other.keys[0].shape[2])
        self.keys = _join_padded(self.keys, other.keys, num_allocated)
        self.values = _join_padded(self.values, other.values, num_allocated)
        self.prompt_B = torch.cat([self.prompt_B, other.prompt_B + len(self.prefix_lengths_P)])
        self.slot_B = torch.cat([self.slot_B, other.slot_B])
        self.num_slots = max(self.num_slots, other.num_slots)
        self.first_column_B = torch.cat([self.first_column_B, other.first_column_B + self.num_columns])
        self.prefix_lengths_P = torch.cat([self.prefix_lengths_P, other.prefix_lengths_P])
        self.prefix_bias_PS = _prefix_bias(self.prefix_lengths_P, longest)
        self._rebuild_own_bias()

    def _renumber_slots(self, rows: Tensor) -> None:
        """Close the gaps, so that attention computes no slot without a row where it can be helped."""
        seen: dict[int, int] = {}
        slots = []
        for prompt in self.prompt_B.tolist():
            slots.append(seen.get(prompt, 0))
            seen[prompt] = slots[-1] + 1
        self.slot_B = torch.tensor(slots, device=rows.device)
        self.num_slots = max(seen.values())

    def _rebuild_own_bias(self) -> None:
        self.own_bias_BT = None
        if int(self.first_column_B.max()) > 0:
            is_before_BT = torch.arange(self.num_columns, device=self.prompt_B.device) < self.first_column_B[:, None]
            self.own_bias_BT = torch.zeros(is_before_BT.shape, device=is_before_BT.device)
            self.own_bias_BT.masked_fill_(is_before_BT, -torch.inf)


def _empty_columns(like: Tensor, num_rows: int) -> Tensor:
    _, num_heads, _, head_size = like.shape
    return like.new_zeros(num_rows, num_heads, COLUMN_CHUNK, head_size)


def _prefix_bias(lengths_P: Tensor, longest: int) -> Tensor:
    is_padding_PS = torch.arange(longest, device=lengths_P.device) >= lengths_P[:, None]
    return torch.zeros(is_padding_PS.shape, device=lengths_P.device).masked_fill_(is_padding_PS, -torch.inf)


def _join_padded(first: list[Tensor], second: list[Tensor], length: int) -> list[Tensor]:
    """Join along the first dimension, padding the third to ``length``."""
    return [
        torch.cat([pad(tensor, (0, 0, 0, length - tensor.shape[2])) for tensor in pair])
        for pair in zip(first, second, strict=True)
    ]
