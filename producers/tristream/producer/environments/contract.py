"""How a rollout goes on: the contract between the producer and a user's environment.

    async def rollout(client: Client, sample: Sample) -> None:
        answer = await client.answer(stop=("</tool>",))
        client.add("tool", look_up(answer.text))
        await client.answer()

The client keeps the conversation as tokens and never encodes again what was sampled: the prompt of a turn is exactly
the tokens of the turns before it, and what is added.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tristream.wire.arrays import Tokens
from tristream.wire.events import FinishReason, Message, Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the environment may know of the row."""

    sample_id: str
    source: str
    split: str
    """``train`` or ``eval``."""
    messages: tuple[Message, ...]
    ground_truth: str
    columns: Mapping[str, Any]
    """Further columns of the row."""
    seed: int
    """Of this rollout: the same for the same rollout, whenever it is made."""
    step: int
    total_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the policy sampled in one turn."""

    text: str
    """Without special tokens."""
    tokens: Tokens
    finish_reason: FinishReason


class Client(Protocol):
    """One conversation with the policy; used by one environment."""

    @property
    def segments(self) -> Sequence[Segment]:
        """The conversation so far, given and sampled."""
        ...

    @property
    def num_tokens_left(self) -> int:
        """Tokens that the policy may still sample in this rollout: ``rollout.max_tokens`` less those of its turns."""
        ...

    async def answer(self, *, max_tokens: int | None = None, stop: Sequence[str] = ()) -> Answer:
        """Let the policy go on from where the conversation stands.

        Args:
            max_tokens: most tokens of this turn; all that are left if None.
            stop: texts that end this turn, besides those of the run file; they stay part of it.

        Raises:
            RolloutExhaustedError: no token or no time is left.
            EnvironmentMisuseError: the policy spoke last and its turn has ended.
        """
        ...

    def add(self, role: str, content: str, *, images: Sequence[bytes] = ()) -> None:
        """Close the policy's turn, if it is open, and add one of another role, such as ``tool`` or ``user``.

        Args:
            role: a role that the model's chat template knows.
            content: its text; each ``<image>`` in it stands for one of the images.
            images: encoded images.

        Raises:
            PolicyInputError: the template, the tokenizer or the model refuses it.
        """
        ...

    def add_text(self, text: str) -> None:
        """Add text within the policy's own turn, such as the result of a call: it is given, not sampled.

        Raises:
            PolicyInputError: the tokenizer refuses it.
            EnvironmentMisuseError: the policy has ended its turn.
        """
        ...


class EnvironmentMisuseError(Exception):
    """An environment asked its client for what cannot be; the message says what to do instead."""


class RolloutExhaustedError(EnvironmentMisuseError):
    """The policy has used up the tokens or the time of its rollout, which is cut off there and counts as too long.

    An environment may catch it, or look at ``num_tokens_left`` before; one that does neither ends with its last answer.
    """


Environment = Callable[[Client, Sample], Awaitable[None]]
"""How one rollout goes on; what it raises fails this rollout alone, with the reason."""
