"""What anybody who reaches a broker can put on the topics of a run: bytes that are no events, events of nobody."""

import asyncio
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from aiokafka import AIOKafkaProducer

from tristream.runtime.bus.kafka import KafkaBus
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.codecs.base import MalformedEventError
from tristream.wire.events import (
    Command,
    CommandKind,
    DeadLetter,
    DropReason,
    Fate,
    Group,
    Ledger,
    Outcome,
    Part,
    PartState,
    PartStatus,
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    Split,
    StepReport,
    VersionSpan,
    Weights,
)
from tristream.wire.topics import (
    ALL_TOPICS,
    BARRIER_HEADER,
    COMMANDS,
    CONTRACT_HEADER,
    CONTRACT_VERSION,
    DEAD_LETTERS,
    EPOCH_HEADER,
    FENCE_HEADER,
    MAX_RECORD_BYTES,
    OUTCOMES,
    PARTS,
    POLICY,
    PROMPTS,
    REWARDS,
    ROLLOUTS,
    STEPS,
    Topic,
)

Headers = Sequence[tuple[str, bytes | None]]
CONTRACT = (CONTRACT_HEADER, str(CONTRACT_VERSION).encode())
BROKEN = b"\xff\xff\xff\xff"
"""Bytes that are a message of no topic."""
NOBODY = 10**9
"""Number of a group that is never dispatched."""
FAR = 2**62
PLACEHOLDER = "SURROGATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dose:
    """One record."""

    name: str
    topic: Topic[Any]
    value: bytes | None
    key: bytes | None = b"poison"
    headers: Headers = (CONTRACT,)
    in_all_partitions: bool = True
    """Else it goes where the records of its group go."""

    @property
    def must_be_named(self) -> bool:
        """Whether there has to be a dead letter of it, for whatever it is."""
        names = {name for name, _ in self.headers}
        if BARRIER_HEADER in names:
            return False
        if FENCE_HEADER in names:
            return not (dict(self.headers)[FENCE_HEADER] or b"").isdigit()
        if self.topic.single_writer or (EPOCH_HEADER in names and self.name != "an epoch that nobody holds"):
            return True
        try:
            self.topic.codec.decode(self.value or b"")
        except MalformedEventError:
            return True
        return CONTRACT not in self.headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Events of the run, after which others are made."""

    prompt: Prompt
    rollout: Rollout
    reward: Reward
    future_number: int
    """Of a group that will be dispatched and is not yet."""


def take_samples(bus: KafkaBus) -> Samples:
    """What is on the log by now, of a group that has all its rewards."""
    found: dict[str, list[Any]] = {}
    for topic in (PROMPTS, ROLLOUTS, REWARDS):
        reader = bus.reader([topic])
        found[topic.name] = [record.event for record in reader.read_to_end() if record.event.group.split is Split.TRAIN]
        reader.close()
    oldest = min(found["rewards"], key=lambda reward: reward.group.number)
    (prompt,) = [prompt for prompt in found["prompts"] if prompt.group == oldest.group]
    rollout = next(rollout for rollout in found["rollouts"] if rollout.group == oldest.group)
    newest = max(prompt.group.number for prompt in found["prompts"])
    return Samples(prompt=prompt, rollout=rollout, reward=oldest, future_number=newest + 60)


def bytes_for(topic: Topic[Any], samples: Samples) -> Iterator[Dose]:
    """Records whose bytes, key or headers are not as they should be."""
    valid = ROLLOUTS.codec.encode(samples.rollout) if topic is not ROLLOUTS else PROMPTS.codec.encode(samples.prompt)
    own = dict(_events(samples))[topic.name].encode_first()
    values: Mapping[str, bytes | None] = {
        "no value": None,
        "nothing": b"",
        "random bytes": random.Random(7).randbytes(500),
        "a record that is cut": own[: len(own) // 2],
        "a record of another topic": valid,
    }
    for name, value in values.items():
        yield Dose(name=name, topic=topic, value=value)
    header_sets: Mapping[str, Headers] = {
        "no contract": (),
        "contract 1": ((CONTRACT_HEADER, b"1"),),
        "contract 99": ((CONTRACT_HEADER, b"99"),),
        "a contract that is no number": ((CONTRACT_HEADER, b"\xff two"),),
        "a null contract": ((CONTRACT_HEADER, None),),
    }
    for name, headers in header_sets.items():
        yield Dose(name=name, topic=topic, value=own, headers=headers)
    yield Dose(
        name="null headers", topic=topic, value=BROKEN, headers=(CONTRACT, ("source", None), ("verifiers", None))
    )
    yield Dose(name="a key that is no text", topic=topic, value=BROKEN, key=b"\xff\xfe\x80")
    if not topic.compacted:  # the broker refuses it there
        yield Dose(name="no key", topic=topic, value=BROKEN, key=None)
    for epoch in (b"later", b"-1", b"", b"9" * 31, b"9" * 10_000, None):
        yield Dose(name="an epoch that is none", topic=topic, value=own, headers=(CONTRACT, (EPOCH_HEADER, epoch)))
        yield Dose(name="a fence that is none", topic=topic, value=BROKEN, headers=((FENCE_HEADER, epoch),))
    for name in ("an epoch that nobody holds", "a fence of nobody"):
        header = EPOCH_HEADER if "epoch" in name else FENCE_HEADER
        yield Dose(name=name, topic=topic, value=own, headers=(CONTRACT, (header, b"999999")))
    yield Dose(name="a barrier of nobody", topic=topic, value=None, headers=((BARRIER_HEADER, b"\xff nobody"),))
    large = BROKEN * ((MAX_RECORD_BYTES - 1024) // len(BROKEN))
    yield Dose(name="just under 8 MiB", topic=topic, value=large, in_all_partitions=False)


@dataclass(frozen=True, slots=True)
class _Events:
    """Events of one topic, by what is wrong with them."""

    topic: Topic[Any]
    by_name: Mapping[str, Any]

    def encode_first(self) -> bytes:
        """A valid record of the topic."""
        return self.topic.codec.encode(next(iter(self.by_name.values())))

    def doses(self) -> Iterator[Dose]:
        """The records: those of nobody's groups in all partitions, those of a group where it is."""
        for name, event in self.by_name.items():
            value = self.topic.codec.encode(event).replace(PLACEHOLDER.encode(), b"\xed\xa0\x80" * 3)
            group = getattr(event, "group", None)
            key = self.topic.key(event).encode()
            is_nobodys = group is None or group.number in (NOBODY, FAR)
            yield Dose(name=name, topic=self.topic, value=value, key=key, in_all_partitions=is_nobodys)


def corpus(samples: Samples) -> list[Dose]:
    """Everything, for each topic."""
    doses = [dose for topic in ALL_TOPICS for dose in bytes_for(topic, samples)]
    return doses + [dose for _, events in _events(samples) for dose in events.doses()]


def _events(samples: Samples) -> list[tuple[str, _Events]]:
    by_topic: Mapping[str, tuple[Topic[Any], Mapping[str, Any]]] = {
        topic.name: (topic, events)
        for topic, events in (
            (PROMPTS, _prompts(samples.prompt)),
            (ROLLOUTS, _rollouts(samples)),
            (REWARDS, _rewards(samples)),
            (OUTCOMES, _outcomes(samples)),
            (POLICY, _policies(samples.prompt.group.run)),
            (STEPS, _reports(samples)),
            (COMMANDS, _commands(samples.prompt.group.run)),
            (PARTS, _statuses(samples.prompt.group.run)),
            (DEAD_LETTERS, _letters(samples.prompt.group.run)),
        )
    }
    return [(name, _Events(topic, events)) for name, (topic, events) in by_topic.items()]


def _prompts(prompt: Prompt) -> Mapping[str, Prompt]:
    nobody = replace(prompt, group=replace(prompt.group, number=NOBODY))
    return {
        "a prompt of nobody": nobody,
        "a foreign fingerprint": replace(prompt, run_fingerprint="foreign"),
        "another digest": replace(prompt, digest="0" * 64),
        "a prompt of another run": replace(nobody, group=replace(nobody.group, run="another")),
        "a prompt with surrogates": replace(nobody, messages=(replace(prompt.messages[0], content=PLACEHOLDER),)),
    }


def _rollouts(samples: Samples) -> Mapping[str, Rollout]:
    rollout = samples.rollout
    nobody = replace(rollout, group=replace(rollout.group, number=NOBODY))
    question, answer = rollout.segments
    num_tokens = len(answer.tokens)

    def with_answer(**changes: Any) -> Rollout:
        return replace(nobody, segments=(question, replace(answer, **changes)))

    def spans(version: int) -> tuple[VersionSpan, ...]:
        return (VersionSpan(version=version, start=0, end=num_tokens),)

    def of_group(**changes: Any) -> Rollout:
        return replace(nobody, group=replace(nobody.group, **changes))

    return {
        "a rollout of nobody": nobody,
        "logprobs that are no numbers": with_answer(logprobs=LogProbs.of([math.nan] * num_tokens)),
        "infinite logprobs": with_answer(logprobs=LogProbs.of([-math.inf] * num_tokens)),
        "too few logprobs": with_answer(logprobs=LogProbs.of([-1.0])),
        "no tokens": with_answer(tokens=Tokens.of([]), logprobs=LogProbs.of([]), version_spans=()),
        "no segments": replace(nobody, segments=(), text=""),
        "an empty completion": replace(nobody, segments=(question,), text=""),
        "an index beyond the group": replace(nobody, index=nobody.group.size),
        "a huge index": replace(nobody, index=2**31 - 1),
        "a huge size": of_group(size=2**31 - 1),
        "no size": of_group(size=0),
        "a huge number": of_group(number=FAR),
        "a huge attempt": of_group(split=Split.EVAL, eval_step=1, eval_attempt=99),
        "an evaluation of nobody": of_group(split=Split.EVAL, eval_step=10**6),
        "negative versions": with_answer(version_spans=spans(-5)),
        "versions of the future": with_answer(version_spans=spans(2**31 - 1)),
        "no temperature": replace(nobody, temperature=math.nan),
        "another run": of_group(run="another"),
        "surrogates": replace(nobody, text=PLACEHOLDER),
        "another digest of a settled group": replace(rollout, prompt_digest="0" * 64),
        "another digest of a group to come": replace(
            rollout, group=replace(rollout.group, number=samples.future_number), prompt_digest="0" * 64
        ),
    }


def _rewards(samples: Samples) -> Mapping[str, Reward]:
    reward = samples.reward
    nobody = replace(reward, group=replace(reward.group, number=NOBODY))
    to_come = replace(reward, group=replace(reward.group, number=samples.future_number + 1))

    def with_accuracy(base: Reward, value: float) -> Reward:
        return replace(base, components={**base.components, "accuracy": value})

    return {
        "a reward of nobody": nobody,
        "a reward that is no number": with_accuracy(to_come, math.nan),
        "an infinite reward": with_accuracy(to_come, math.inf),
        "a huge reward": with_accuracy(nobody, 1e308),
        "a huge reward of a settled group": with_accuracy(reward, 1e308),
        "an unknown term": replace(to_come, term_id="unknown"),
        "another version": replace(to_come, version="99"),
        "another size": with_accuracy(replace(to_come, group=replace(to_come.group, size=64)), 0.5),
        "another source": with_accuracy(replace(to_come, group=replace(to_come.group, source="nowhere")), 0.5),
        "an index beyond": replace(nobody, index=10**6),
        "a huge number": replace(nobody, group=replace(nobody.group, number=FAR)),
        "a huge attempt": replace(nobody, group=replace(nobody.group, split=Split.EVAL, eval_step=1, eval_attempt=99)),
        "another run": replace(nobody, group=replace(nobody.group, run="another")),
        "surrogates": replace(nobody, detail=PLACEHOLDER),
    }


def _outcomes(samples: Samples) -> Mapping[str, Outcome]:
    def dropped(group: Group) -> Outcome:
        return Outcome(group=group, fate=Fate.DROPPED, drop_reason=DropReason.STALE, created_ns=1)

    group = samples.prompt.group
    return {
        "an outcome of nobody": dropped(replace(group, number=NOBODY)),
        "an outcome of a settled group": dropped(group),
        "an outcome of a group to come": dropped(replace(group, number=samples.future_number + 2)),
        "trained far from now": Outcome(group=group, fate=Fate.TRAINED, step=10**6, created_ns=1),
        "a huge number": dropped(replace(group, number=FAR)),
    }


def _policies(run: str) -> Mapping[str, PolicyVersion]:
    def version(number: int, *, uri: str = "weights/none", step: int = 0) -> PolicyVersion:
        weights = Weights(version=number, uri=uri, sha256="0" * 64)
        return PolicyVersion(run=run, weights=weights, total_steps=10**6, durable=Ledger(step=step), created_ns=1)

    return {
        "a version of the future": version(10**6),
        "a version without weights": version(5, uri=""),
        "a version below": version(0),
        "a ledger of the future": version(3, step=10**6),
        "a file of the host": version(10**6, uri="/etc/passwd"),
    }


def _reports(samples: Samples) -> Mapping[str, StepReport]:
    report = StepReport(
        run=samples.prompt.group.run,
        step=10**6,
        total_steps=1,
        metrics={"loss": math.nan},
        layer_grad_norms={},
        phase_seconds={},
        rollouts=(),
        outcomes=tuple(_outcomes(samples).values()),
        num_completion_tokens=0,
        created_ns=1,
    )
    return {"a report of the future": report, "a second report": replace(report, step=1)}


def _commands(run: str) -> Mapping[str, Command]:
    pause = Command(run=run, id="poison", kind=CommandKind.PAUSE_SOURCE, sources=("nowhere",), created_ns=1)
    add = Command(run=run, id="poison-add", kind=CommandKind.ADD, verifier="none", version="9", created_ns=1)
    return {
        "an unknown source": pause,
        "an unknown source goes on": replace(pause, id="poison-2", kind=CommandKind.RESUME_SOURCE),
        "from far away": replace(pause, id="poison-3", from_number=2**62),
        "from below zero": replace(pause, id="poison-4", from_number=-5),
        "without sources": replace(pause, id="poison-5", sources=()),
        "without an id": replace(pause, id=""),
        "an unknown verifier": add,
        "weights that are no numbers": replace(add, id="poison-6", weights={"accuracy": math.nan}),
        "another run": replace(pause, id="poison-7", run="another"),
        "surrogates": replace(pause, id="poison-8", reason=PLACEHOLDER),
    }


def _statuses(run: str) -> Mapping[str, PartStatus]:
    def status(part: Part, epoch: int, **measures: float) -> PartStatus:
        return PartStatus(
            run=run,
            part=part,
            instance=f"stray-{part}-{epoch % 1000}",
            state=PartState.READY,
            since_ns=1,
            started_ns=1,
            created_ns=1,
            measures=measures,
            epoch=epoch,
        )

    epochs = {f"epoch {epoch} of the {part}": status(part, epoch) for part in Part for epoch in (999_999, 10**18, -1)}
    return {
        **epochs,
        "a claim": status(Part.ASSEMBLER, 0, claimed_epoch=777_777.0),
        "measures that are no numbers": status(Part.LEARNER, 0, claimed_epoch=math.nan, version=math.inf),
        "another run": replace(status(Part.LEARNER, 5), run="another"),
        "surrogates": replace(status(Part.LEARNER, 0), waiting_for=PLACEHOLDER),
    }


def _letters(run: str) -> Mapping[str, DeadLetter]:
    letter = DeadLetter(
        run=run,
        topic="nowhere",
        partition=-1,
        offset=2**62,
        key=b"",
        value=BROKEN,
        headers={"": b""},
        error="",
        part="nobody",
        created_ns=-1,
    )
    return {"a letter of nobody": letter, "another run": replace(letter, run="another")}


async def _put(bus: KafkaBus, doses: Sequence[Dose]) -> list[tuple[Dose, int, int]]:
    producer = AIOKafkaProducer(bootstrap_servers=bus.settings.bootstrap_servers, max_request_size=2 * MAX_RECORD_BYTES)
    await producer.start()
    places = []
    for dose in doses:
        number = bus._partition_for(dose.topic, dose.key)
        for partition in bus.partitions_of(dose.topic) if dose.in_all_partitions else [number]:
            name, headers = bus.full_name(dose.topic), list(dose.headers)
            sent = await producer.send_and_wait(name, dose.value, dose.key, partition=partition, headers=headers)
            places.append((dose, partition, sent.offset))
    await producer.stop()
    return places


def put(bus: KafkaBus, doses: Sequence[Dose]) -> list[tuple[Dose, int, int]]:
    """Put records on the log as a foreign client does; returns each with its partition and offset."""
    return asyncio.run(_put(bus, doses))
