"""The rows that decode together, and what is known of each.

Shapes: B rows; element i of each tensor belongs to row i.
"""
# ruff: noqa: N815 - names of tensors end in the letters of their shape

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tristream.policy.attention.decoding_cache import DecodingCache
from tristream.producer.engines.protocol import GenerationRequest
from tristream.wire.events import FinishReason


@dataclass(slots=True)
class Row:
    """One completion in work."""

    request: GenerationRequest
    uniforms: random.Random
    started_ns: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    is_reported: bool = False

    def append(self, token: int, logprob: float, stop_tokens: frozenset[int]) -> None:
        """Add a token, unless the row is finished and only still in the batch."""
        if self.finish_reason is not None:
            return
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in stop_tokens:
            self.finish_reason = FinishReason.STOP
        elif len(self.tokens) >= self.request.sampling.max_tokens:
            self.finish_reason = FinishReason.LENGTH


@dataclass(frozen=True, slots=True)
class SamplingTensors:
    """How each row is sampled."""

    temperature_B: Tensor
    top_p_B: Tensor

    @classmethod
    def of(cls, rows: Sequence[Row], device: torch.device) -> "SamplingTensors":
        """Those of the rows, in order."""
        return cls(
            torch.tensor([row.request.sampling.temperature for row in rows], dtype=torch.float32, device=device),
            torch.tensor([row.request.sampling.top_p for row in rows], dtype=torch.float32, device=device),
        )


@dataclass(slots=True)
class DecodeBatch:
    """The running rows; element i of each tensor belongs to ``rows[i]``."""

    rows: list[Row]
    cache: DecodingCache
    position_B: Tensor
    """Rotary position of each row's newest token."""
    sampling: SamplingTensors
    token_B: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """Each row's newest token, not yet read by the model."""

    def join(self, other: "DecodeBatch") -> None:
        """Add the rows of another batch."""
        self.rows.extend(other.rows)
        self.cache.join(other.cache)
        self.position_B = torch.cat([self.position_B, other.position_B])
        self.token_B = torch.cat([self.token_B, other.token_B])
        self.sampling = SamplingTensors.of(self.rows, self.token_B.device)

    def keep(self, indexes: Sequence[int]) -> None:
        """Drop all other rows."""
        kept = torch.tensor(indexes, device=self.token_B.device)
        self.rows = [self.rows[index] for index in indexes]
        self.cache.keep_rows(kept)
        self.position_B, self.token_B = self.position_B[kept], self.token_B[kept]
        self.sampling = SamplingTensors.of(self.rows, kept.device)
