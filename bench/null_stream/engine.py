"""An engine and an encoder that compute nothing: answers are known before the question is read.

Whether the rewards of a group differ is decided by a hash of its id, so that the share of groups without variance is
known, and the same group has the same answers whoever answers it.
"""

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence

from bench.null_stream.rows import ANSWER, RIGHT, WRONG

from tristream.policy.prompt_encoder import EncodedPrompt
from tristream.producer.engines.protocol import Completion, EngineCounts, GenerationRequest, WeightsFile
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, Message, VersionSpan

END = 2
PROMPT = Tokens.of([5, 6, 7, 8])
LOGPROBS = LogProbs.of([-0.5, -0.5])


class NullTokenizer:
    """What a conversation asks of a tokenizer: that the last token ends a turn."""

    all_special_ids = (END,)
    added_tokens_decoder: Mapping[int, object] = {}

    def decode(self, _tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Nothing follows a prompt before its answer."""
        return ""


class NullEncoder:
    """Encodes every prompt alike."""

    tokenizer = NullTokenizer()

    def encode(self, messages: Sequence[Message], images: Sequence[bytes]) -> EncodedPrompt:
        """Four tokens."""
        return EncodedPrompt(tokens=PROMPT, text=messages[-1].content)

    def expand(self, tokens: Tokens, _images: Sequence[bytes]) -> Tokens:
        """Nothing is expanded: there are no images."""
        return tokens

    def decode(self, tokens: Tokens) -> str:
        """A right or a wrong answer, by the first token."""
        answer = ANSWER if tokens.to_list()[0] == RIGHT else "8"
        return f"It is \\boxed{{{answer}}}."


class NullEngine:
    """Answers at once.

    Args:
        equal_share: share of the groups whose answers are all wrong.
        num_slots: completions at once.
    """

    def __init__(self, *, equal_share: float, num_slots: int = 512) -> None:
        self.version: int | None = None
        self.counts = EngineCounts()
        self.max_running = num_slots
        self._equal_share = equal_share

    @property
    def num_running(self) -> int:
        """None: an answer takes no time."""
        return 0

    async def generate(self, request: GenerationRequest) -> Completion:
        """Answer a request, after others had their turn."""
        await asyncio.sleep(0)
        group, _, index = request.id.rpartition("/")
        first = WRONG if has_equal_answers(group, self._equal_share) or int(index) % 2 else RIGHT
        self.counts.sampled_tokens += 2
        self.counts.prompt_tokens += len(request.prompt_tokens)
        return Completion(
            id=request.id,
            prompt_tokens=request.prompt_tokens,
            tokens=Tokens.of([first, END]),
            logprobs=LOGPROBS,
            version_spans=(VersionSpan(version=self.version or 0, start=0, end=2),),
            finish_reason=FinishReason.STOP,
            started_ns=time.time_ns(),
            generate_seconds=0.0,
        )

    async def update_weights(self, version: int, _weights: WeightsFile) -> None:
        """Take the version; its weights are nothing."""
        self.version = version

    async def close(self) -> None:
        """Nothing to end."""


def has_equal_answers(group_id: str, share: float) -> bool:
    """Whether a group is one of those whose answers are all equal."""
    digest = hashlib.blake2b(group_id.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") < share * 2**32
