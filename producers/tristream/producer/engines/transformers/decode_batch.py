"""The rows that decode together, and what is known of each.

Shapes: B rows; element i of each tensor belongs to row i.
"""
# ruff: noqa: N803, N806 - names of tensors end in the letters of their shape

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tristream.policy.attention.decoding_cache import DecodingCache
from tristream.producer.engines.protocol import Completion, GenerationRequest
from tristream.producer.engines.stopping import Stopping
from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy, Prefilled, PreparedPrompt
from tristream.producer.engines.transformers.sampling import UNIFORM_BITS, SamplingTensors, sample_tokens
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, VersionSpan


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """One completion wanted, and what there is of it."""

    request: GenerationRequest
    prompt: PreparedPrompt
    stopping: Stopping
    uniforms: random.Random = field(init=False)
    is_cached: bool = False
    """Whether its prompt was read already."""
    started_ns: int = 0
    """When it was begun; 0 before."""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    """Versions, and the first token of each."""
    finish_reason: FinishReason | None = None
    is_cancelled: bool = False

    def __post_init__(self) -> None:
        self.uniforms = random.Random(self.request.sampling.seed)

    @property
    def is_over(self) -> bool:
        """Whether it needs its place no longer."""
        return self.finish_reason is not None or self.is_cancelled

    def begin(self, version: int | None) -> None:
        """Take a slot; its first token is sampled by this version."""
        assert version is not None, "no weights were loaded"
        self.started_ns = time.time_ns()
        self.take_version(version)

    def take_version(self, version: int) -> None:
        """What follows is sampled by this version."""
        if self.spans and self.spans[-1][1] == len(self.tokens):
            self.spans.pop()
        self.spans.append((version, len(self.tokens)))

    def append(self, token: int, logprob: float, now_ns: int) -> None:
        """Add a token, and see whether it is the last."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if token in self.stopping.token_ids or self.stopping.ends_with_text(self.tokens):
            self.finish_reason = FinishReason.STOP
        elif len(self.tokens) >= self.request.sampling.max_tokens or self._is_late(now_ns):
            self.finish_reason = FinishReason.LENGTH

    def _is_late(self, now_ns: int) -> bool:
        max_seconds = self.request.max_seconds
        return max_seconds is not None and now_ns - self.started_ns >= max_seconds * 1e9

    def completion(self) -> Completion:
        """The finished row."""
        assert self.finish_reason is not None
        ends = [*(start for _, start in self.spans[1:]), len(self.tokens)]
        return Completion(
            id=self.request.id,
            prompt_tokens=self.prompt.tokens,
            tokens=Tokens.of(self.tokens),
            logprobs=LogProbs.of(self.logprobs),
            version_spans=tuple(
                VersionSpan(version=version, start=start, end=end)
                for (version, start), end in zip(self.spans, ends, strict=True)
            ),
            finish_reason=self.finish_reason,
            started_ns=self.started_ns,
            generate_seconds=(time.time_ns() - self.started_ns) / 1e9,
        )


class DecodeBatch:
    """The running rows; element i of each tensor belongs to ``rows[i]``."""

    def __init__(self, policy: DecodingPolicy) -> None:
        self._policy = policy
        self._clear()

    def _clear(self) -> None:
        self.rows: list[Row] = []
        self._cache: DecodingCache | None = None
        self._position_B = torch.zeros(0, dtype=torch.long, device=self._policy.device)
        """Rotary position of each row's newest token."""
        self._token_B = torch.zeros(0, dtype=torch.long, device=self._policy.device)
        """Each row's newest token, not yet read by the model."""
        self._sampling: SamplingTensors | None = None
        """Those of the rows, in order, as long as they stay the same."""

    def step(self, joining: Sequence[tuple[Row, Prefilled]]) -> list[Row]:
        """Sample the next token of all rows, and the first of those that join; return the rows that are over."""
        logits = [prefilled.logits_V for _, prefilled in joining]
        num_before = len(self.rows)
        parts = [torch.stack(logits)] if logits else []
        if self._cache is not None:
            parts.insert(0, self._policy.decode(self._token_B, self._position_B, self._cache))
            self._position_B += 1
        self.rows.extend(row for row, _ in joining)
        if joining or self._sampling is None:
            self._sampling = SamplingTensors.of([row.request.sampling for row in self.rows], self._policy.device)
        self._sample(torch.cat(parts), self._sampling)
        leaving = [place for place, row in enumerate(self.rows) if row.is_over]
        over = [self.rows[place] for place in leaving]
        if joining or leaving:
            self._exchange(num_before, leaving, [prefilled for _, prefilled in joining])
        return over

    def _sample(self, logits_BV: Tensor, sampling: SamplingTensors) -> None:
        uniforms = [row.uniforms.getrandbits(UNIFORM_BITS) / 2**UNIFORM_BITS for row in self.rows]
        uniform_B = torch.tensor(uniforms, device=logits_BV.device)
        self._token_B, logprob_B = sample_tokens(logits_BV, sampling, uniform_B)
        now_ns = time.time_ns()
        for row, token, logprob in zip(self.rows, self._token_B.tolist(), logprob_B.tolist(), strict=True):
            row.append(token, logprob, now_ns)

    def _exchange(self, num_before: int, leaving: Sequence[int], joining: Sequence[Prefilled]) -> None:
        """Of the rows before and those that joined, keep who is not over."""
        if len(leaving) == len(self.rows):
            self._clear()
            return
        gone = set(leaving)
        staying = [number for number in range(len(joining)) if num_before + number not in gone]
        if self._cache is None:
            self._cache = DecodingCache(joining[staying[0]].prefix)
        position_B = torch.tensor([prefilled.next_position for prefilled in joining], device=self._token_B.device)
        self._position_B = torch.cat([self._position_B, position_B.long()])
        leaving_before = [place for place in leaving if place < num_before]
        exchanged = self._cache.exchange(leaving_before, [joining[number].prefix for number in staying])
        sources = [place if place < num_before else num_before + staying[place - num_before] for place in exchanged]
        if not all(math.isfinite(row.logprobs[-1]) for row in self.rows):
            self._cache.wipe()
        kept = torch.tensor(sources, device=self._token_B.device)
        self.rows = [self.rows[source] for source in sources]
        self._position_B, self._token_B = self._position_B[kept], self._token_B[kept]
        self._sampling = None
