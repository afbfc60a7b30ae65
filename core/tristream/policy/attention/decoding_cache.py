"""Keys and values of the rows that decode together, in which equal prompts are kept once.

The rollouts of a group share their prompt. Here the prompt's keys and values exist once for all of them, and only the
completions have their own; attention reads both parts (``decoding``). Memory and memory traffic for prompts are as many
times smaller as a prompt has rows ("Hydragen", Juravsky et al. 2024; "bifurcated attention", Athiwaratkun et al. 2024).

Rows come and go between any two tokens, and nothing is computed for rows that are not there. Each row fills columns of
its own from the first on; attention takes rows in chunks of similar length (``row_order``).

Shapes: L layers, P prompts, S prompt positions (padded on the right), B rows, T completion columns, K key-value heads,
D head size. Keys and values of all layers are one tensor: the first index is 2 * layer for keys, one more for values.
"""
# ruff: noqa: N803, N806, N815 - names of tensors end in the letters of their shape

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tristream.policy.attention.row_order import Chunk, RowOrder, arrange

COLUMN_CHUNK = 64
"""Columns are allocated this many at a time."""
ROW_CHUNK = 16
"""Rows are allocated this many at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A prompt that the model has read; told apart by identity, since equal ones may be of different weights."""

    states_LKSD: Tensor
    """Its keys and values, shape [2 L, K, S, D]."""

    @property
    def length(self) -> int:
        """Its tokens."""
        return self.states_LKSD.shape[2]


class DecodingCache:
    """One decoding batch; changed in place as it decodes."""

    def __init__(self, like: Prefix) -> None:
        states = like.states_LKSD
        self._device = states.device
        num_states, num_heads, _, head_size = states.shape
        self._prefixes = states.new_zeros(num_states, 0, num_heads, 0, head_size)
        self._own = states.new_zeros(num_states, 0, num_heads, 0, head_size)
        self._prompts: list[Prefix] = []
        self._prompt_of_row: list[Prefix] = []
        self._order = RowOrder(is_chunked=states.device.type == "cpu")
        self._place_rows()

    @property
    def num_rows(self) -> int:
        """Rows in the batch."""
        return len(self._prompt_of_row)

    @property
    def chunks(self) -> Sequence[Chunk]:
        """How attention takes the rows."""
        return self._order.chunks

    def exchange(self, leaving: Sequence[int], joining: Sequence[Prefix]) -> list[int]:
        """Let rows leave and fresh rows join.

        Args:
            leaving: rows that leave.
            joining: the prompt of each row that joins.

        Returns:
            For each row afterwards, where it was among the rows before and then those that joined.
        """
        sources = self._order.exchange(leaving, len(joining))
        self._move_rows(sources)
        everybody = [*self._prompt_of_row, *joining]
        self._prompt_of_row = [everybody[source] for source in sources]
        self._hold_prompts()
        self._place_rows()
        return sources

    def wipe(self) -> None:
        """Forget what rows left behind: masking does not keep what is no number from those who take their place."""
        num_slots, num_columns = self._own.shape[1], self._own.shape[3]
        lengths = self._numbers([*self._order.lengths, *[0] * (num_slots - self.num_rows)])
        is_free = torch.arange(num_columns, device=self._device) >= lengths[:, None]
        self._own.masked_fill_(is_free[None, :, None, :, None], 0)

    def open_column(self) -> None:
        """Make room for the next token of every row."""
        self._order.grow()
        longest = self._order.longest
        if longest > self._own.shape[3]:
            self._own = _widened(self._own, columns=longest + COLUMN_CHUNK - 1)
        self._newest_B += 1
        is_after_BT = torch.arange(longest, device=self._device) > self._newest_B[:, None]
        self.own_bias_BT = torch.zeros(is_after_BT.shape, device=self._device).masked_fill_(is_after_BT, -torch.inf)

    def append(self, layer: int, keys_BKD: Tensor, values_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """Write each row's newest column of a layer; return all its completion keys and values [B, K, columns, D]."""
        keys, values = self._own[2 * layer], self._own[2 * layer + 1]
        keys[self._rows_B, :, self._newest_B] = keys_BKD
        values[self._rows_B, :, self._newest_B] = values_BKD
        return keys, values

    def prefix(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values [P, K, S, D] of a layer's prompts."""
        num_prompts, longest = self.prefix_bias_PS.shape
        return self._prefixes[2 * layer, :num_prompts, :, :longest], self._prefixes[
            2 * layer + 1, :num_prompts, :, :longest
        ]

    def _move_rows(self, sources: Sequence[int]) -> None:
        num_before = self.num_rows
        if len(sources) > self._own.shape[1]:
            self._own = _widened(self._own, slots=len(sources) + ROW_CHUNK - 1)
        moves = [(source, row) for row, source in enumerate(sources) if source < num_before and source != row]
        if moves:
            origins, targets = self._numbers(moves).T
            columns = slice(0, max(self._order.lengths[row] for _, row in moves))
            self._own[:, targets, :, columns] = self._own[:, origins, :, columns]

    def _hold_prompts(self) -> None:
        """Keep the prompts that have rows, next to each other."""
        wanted = dict.fromkeys(self._prompt_of_row)
        fresh = [prompt for prompt in wanted if prompt not in self._slot_of_prompt]
        leaving = [slot for slot, prompt in enumerate(self._prompts) if prompt not in wanted]
        if not fresh and not leaving:
            return
        num_before = len(self._prompts)
        sources = arrange([0] * num_before, frozenset(leaving), len(fresh), max(1, num_before + len(fresh)))
        longest = max((prompt.length for prompt in wanted), default=0)
        if len(sources) > self._prefixes.shape[1] or longest > self._prefixes.shape[3]:
            self._prefixes = _widened(self._prefixes, slots=len(sources), columns=longest)
        for slot, source in enumerate(sources):
            if source >= num_before:
                prompt = fresh[source - num_before]
                self._prefixes[:, slot, :, : prompt.length] = prompt.states_LKSD
                self._prefixes[:, slot, :, prompt.length :] = 0
            elif source != slot:
                self._prefixes[:, slot] = self._prefixes[:, source]
        everybody = [*self._prompts, *fresh]
        self._prompts = [everybody[source] for source in sources]

    def _place_rows(self) -> None:
        """Say which rows attend to which prompt, and up to where."""
        self._slot_of_prompt = {prompt: slot for slot, prompt in enumerate(self._prompts)}
        rows_of_slot: list[list[int]] = [[] for _ in self._prompts]
        for row, prompt in enumerate(self._prompt_of_row):
            rows_of_slot[self._slot_of_prompt[prompt]].append(row)
        self.num_places = max(map(len, rows_of_slot), default=0)
        # A place without a row repeats row 0: computed in vain and read by nobody.
        row_of_place = [row for rows in rows_of_slot for row in (*rows, *[0] * (self.num_places - len(rows)))]
        place_of_row = [(0, 0)] * self.num_rows
        for slot, rows in enumerate(rows_of_slot):
            for place, row in enumerate(rows):
                place_of_row[row] = slot, place
        self.row_of_place = self._numbers(row_of_place)
        """Shape [P * N]: the row in each place of each prompt."""
        self.prompt_B, self.place_B = self._numbers(place_of_row).view(-1, 2).unbind(1)
        self._rows_B = torch.arange(self.num_rows, device=self._device)
        self._newest_B = self._numbers(self._order.lengths) - 1
        self.own_bias_BT = torch.zeros(self.num_rows, 0, device=self._device)
        """0 at a row's own columns, -inf after."""
        lengths_P = self._numbers([prompt.length for prompt in self._prompts])
        longest = max((prompt.length for prompt in self._prompts), default=0)
        is_padding_PS = torch.arange(longest, device=self._device) >= lengths_P[:, None]
        self.prefix_bias_PS = torch.zeros(is_padding_PS.shape, device=self._device)
        self.prefix_bias_PS.masked_fill_(is_padding_PS, -torch.inf)
        """0 at prompt tokens, -inf at padding."""

    def _numbers(self, numbers: Sequence[object]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._device)


def _widened(states: Tensor, *, slots: int = 0, columns: int = 0) -> Tensor:
    """The same keys and values with room for more."""
    num_states, num_slots, num_heads, num_columns, head_size = states.shape
    wider = states.new_zeros(num_states, max(slots, num_slots), num_heads, max(columns, num_columns), head_size)
    wider[:, :num_slots, :, :num_columns] = states
    return wider
