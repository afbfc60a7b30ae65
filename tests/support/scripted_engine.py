"""An engine that says what a test tells it to say, and remembers what it was asked."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import Completion, EngineCounts, GenerationRequest, WeightsFile
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, VersionSpan


@dataclass(frozen=True, slots=True)
class Saying:
    """One answer."""

    text: str
    end: str = "<|im_end|>"
    """Special token that ends it; empty for none."""
    finish_reason: FinishReason = FinishReason.STOP


@dataclass(slots=True, kw_only=True)
class ScriptedEngine:
    """Answers in the order of its script, one request after the other."""

    encoder: PromptEncoder
    script: Sequence[Saying]
    version: int | None = 3
    max_running: int = 8
    num_running: int = 0
    counts: EngineCounts = field(default_factory=EngineCounts)
    requests: list[GenerationRequest] = field(default_factory=list)
    forgotten_tokens: int = 0
    """How many tokens of its prompts the engine claims not to have read, at their beginning."""

    async def generate(self, request: GenerationRequest) -> Completion:
        saying = self.script[len(self.requests)]
        self.requests.append(request)
        await asyncio.sleep(0)
        ids = self.encoder.encode_text(saying.text).to_list()
        if saying.end:
            ids.append(self.encoder.tokenizer.convert_tokens_to_ids(saying.end))
        read = self.encoder.expand(request.prompt_tokens, request.images).to_list()
        return Completion(
            id=request.id,
            prompt_tokens=Tokens.of(read[self.forgotten_tokens :]),
            tokens=Tokens.of(ids),
            logprobs=LogProbs.of([-0.5] * len(ids)),
            version_spans=(VersionSpan(version=3, start=0, end=len(ids)),) if ids else (),
            finish_reason=saying.finish_reason,
            started_ns=time.time_ns(),
            generate_seconds=0.25,
        )

    async def update_weights(self, version: int, weights: WeightsFile) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError
