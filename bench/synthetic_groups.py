"""Groups of rollouts that nobody sampled, of any size, for counting what they cost."""

import argparse
import hashlib
import random
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from tristream.runtime.bus.protocol import Record
from tristream.wire.arrays import ITEM_BYTES, LogProbs, Tokens
from tristream.wire.events import (
    FinishReason,
    Group,
    Message,
    Progress,
    Prompt,
    Reward,
    RewardSpec,
    RewardTerm,
    Rollout,
    Sampling,
    Split,
    Status,
    VersionSpan,
    given,
    sampled,
)
from tristream.wire.topics import Topic, record_headers
from tristream.wire.verifiers import BUILT_IN_VERSIONS

RUN = "synthetic"
VOCABULARY = 150_000
CHARACTERS_PER_TOKEN = 4
TERM = RewardTerm(id="math", verifier="math", version=BUILT_IN_VERSIONS["math"], weights={"accuracy": 1.0})

EventT = TypeVar("EventT")


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShape:
    """How large the synthetic groups are."""

    num_rollouts: int
    num_prompt_tokens: int
    num_sampled_tokens: int

    @property
    def packed_bytes(self) -> int:
        """Tokens and log-probabilities of a group, its prompt once."""
        return ITEM_BYTES * (self.num_prompt_tokens + 2 * self.num_rollouts * self.num_sampled_tokens)


def add_shape_arguments(parser: argparse.ArgumentParser, *, num_sampled_tokens: int) -> None:
    """Let a command line say how large the groups are; ``take_shape`` reads it."""
    parser.add_argument("--rollouts", type=int, default=8, help="rollouts of a group, 2 or more (default: 8)")
    parser.add_argument("--prompt-tokens", type=int, default=200, help="tokens of a prompt (default: 200)")
    parser.add_argument(
        "--tokens",
        type=int,
        default=num_sampled_tokens,
        help=f"sampled tokens of a rollout (default: {num_sampled_tokens})",
    )


def take_shape(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> GroupShape:
    """How large the groups are; ends with a message if they cannot be."""
    if min(arguments.prompt_tokens, arguments.tokens) < 1 or arguments.rollouts < 2:
        parser.error("numbers are 1 or more, and --rollouts is 2 or more")
    return GroupShape(
        num_rollouts=arguments.rollouts,
        num_prompt_tokens=arguments.prompt_tokens,
        num_sampled_tokens=arguments.tokens,
    )


def make_rollouts(shape: GroupShape, number: int) -> list[Rollout]:
    """The rollouts of one group, with random tokens and texts."""
    generator = random.Random(number)
    group = Group(
        run=RUN, split=Split.TRAIN, number=number, source="words", sample_id=str(number), size=shape.num_rollouts
    )
    prompt = make_tokens(generator, shape.num_prompt_tokens)
    prompt_text = make_text(generator, shape.num_prompt_tokens)
    return [
        make_rollout(generator, group, index, prompt, prompt_text, shape.num_sampled_tokens)
        for index in range(shape.num_rollouts)
    ]


def make_rollout(
    generator: random.Random, group: Group, index: int, prompt: Tokens, prompt_text: str, num_sampled: int
) -> Rollout:
    answer = sampled(
        make_tokens(generator, num_sampled),
        LogProbs.of(-generator.random() for _ in range(num_sampled)),
        (VersionSpan(version=0, start=0, end=num_sampled),),
    )
    return Rollout(
        group=group,
        index=index,
        segments=(given(prompt), answer),
        text=make_text(generator, num_sampled),
        finish_reason=FinishReason.STOP,
        prompt_text=prompt_text,
        reward=RewardSpec(terms=(TERM,), ground_truth="4"),
        progress=Progress(step=1, total_steps=1),
        temperature=1.0,
        queued_seconds=0.0,
        generate_seconds=0.0,
        producer=RUN,
        prompt_digest=make_digest(group),
        created_ns=1,
    )


def make_prompt(rollout: Rollout) -> Prompt:
    """The prompt that a rollout answers."""
    return Prompt(
        group=rollout.group,
        messages=(Message(role="user", content=rollout.prompt_text),),
        images=(),
        reward=rollout.reward,
        sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=rollout.num_sampled_tokens, seed=1),
        progress=rollout.progress,
        digest=rollout.prompt_digest,
        created_ns=1,
    )


def make_digest(group: Group) -> str:
    return hashlib.sha256(group.id.encode()).hexdigest()


def make_tokens(generator: random.Random, count: int) -> Tokens:
    return Tokens.of(generator.choices(range(VOCABULARY), k=count))


def make_text(generator: random.Random, num_tokens: int) -> str:
    return "".join(generator.choices(string.ascii_lowercase + " ", k=CHARACTERS_PER_TOKEN * num_tokens))


def make_reward(rollout: Rollout) -> Reward:
    """A reward that differs within the group, so that the group is not dropped."""
    return Reward(
        group=rollout.group,
        index=rollout.index,
        term_id=TERM.id,
        verifier=TERM.verifier,
        version=TERM.version,
        status=Status.SCORED,
        components={"accuracy": float(rollout.index % 2)},
        queued_seconds=0.0,
        score_seconds=0.0,
        created_ns=1,
    )


def encode(topic: Topic[EventT], events: Iterable[EventT]) -> list[Record[bytes]]:
    """The events as records of one partition."""
    return [
        Record(
            topic=topic.name,
            partition=0,
            offset=offset,
            key=topic.key(event),
            event=topic.codec.encode(event),
            headers={name: value.encode() for name, value in record_headers(topic, event).items()},
        )
        for offset, event in enumerate(events)
    ]
