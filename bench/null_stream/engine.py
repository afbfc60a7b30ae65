"""An engine and an encoder that compute nothing: answers are known before the question is read.

Whether the rewards of a group differ is decided by a hash of its id, so that the share of groups without variance is
known, and the same group has the same answers whoever answers it.
"""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from bench.null_stream.rows import ANSWER, RIGHT, WRONG

from tristream.policy.prompt_encoder import EncodedPrompt
from tristream.producer.engines.protocol import Completion, GenerationRequest
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import FinishReason, Message, VersionSpan

PROMPT = Tokens.of([5, 6, 7, 8])
LOGPROBS = LogProbs.of([-0.5, -0.5])


class NullEncoder:
    """Encodes every prompt alike."""

    def encode(self, messages: Sequence[Message], images: Sequence[bytes]) -> EncodedPrompt:
        """Four tokens."""
        return EncodedPrompt(tokens=PROMPT, text=messages[-1].content)

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
        self._equal_share = equal_share
        self._num_slots = num_slots
        self._requests: list[GenerationRequest] = []

    @property
    def num_waiting(self) -> int:
        """Requests submitted and not answered."""
        return len(self._requests)

    @property
    def num_running(self) -> int:
        """None: an answer takes no time."""
        return 0

    @property
    def num_free_slots(self) -> int:
        """Requests that could be answered at once."""
        return self._num_slots - len(self._requests)

    def submit(self, request: GenerationRequest) -> None:
        """Take a request."""
        self._requests.append(request)

    def step(self) -> Sequence[Completion]:
        """Answer everything."""
        requests, self._requests = self._requests, []
        return [self._answer(request) for request in requests]

    def reset(self) -> None:
        """Forget the requests."""
        self._requests = []

    def load_weights(self, version: int, path: Path) -> None:
        """Take the version; its weights are nothing."""
        self.version = version

    def _answer(self, request: GenerationRequest) -> Completion:
        group, _, index = request.id.rpartition("/")
        first = WRONG if has_equal_answers(group, self._equal_share) or int(index) % 2 else RIGHT
        return Completion(
            id=request.id,
            tokens=Tokens.of([first, 2]),
            logprobs=LOGPROBS,
            version_spans=(VersionSpan(version=self.version or 0, start=0, end=2),),
            finish_reason=FinishReason.STOP,
            started_ns=time.time_ns(),
            generate_seconds=0.0,
        )


def has_equal_answers(group_id: str, share: float) -> bool:
    """Whether a group is one of those whose answers are all equal."""
    digest = hashlib.blake2b(group_id.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") < share * 2**32
