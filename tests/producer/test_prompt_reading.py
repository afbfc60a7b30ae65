"""A producer says that there are no prompts only where it knows, and joins its group anew where nothing comes."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tristream.producer import prompt_reading
from tristream.producer.prompt_reading import GROUP, MAX_GROUP_SIZE, PromptReader
from tristream.runtime.bus.memory import MemoryBus, MemoryReader
from tristream.runtime.bus.protocol import Tap
from tristream.runtime.errors import TryAgainError
from tristream.wire.events import (
    Group,
    Message,
    Progress,
    Prompt,
    RewardSpec,
    RewardTerm,
    Sampling,
    Split,
)
from tristream.wire.topics import DEAD_LETTERS, PROMPTS, Topic

NO_PROMPTS = "prompts from the dispatcher"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_reading, "POLL_SECONDS", 0.01)
    for name in ("IDLE_SECONDS", "MARK_SECONDS", "CHECK_AGAIN_SECONDS"):
        monkeypatch.setattr(prompt_reading, name, 0.1)


class StandingBus(MemoryBus):
    """A bus on which a group stands still: its first readers get nothing."""

    def __init__(self, num_standing: int) -> None:
        super().__init__("demo")
        self.num_standing = num_standing
        self.num_readers = 0

    def reader(
        self,
        topics: Sequence[Topic[Any]],
        *,
        group: str | None = None,
        offsets: Mapping[tuple[str, int], int] | None = None,
        tap: Tap | None = None,
        is_patient: bool = False,
    ) -> MemoryReader:
        reader = super().reader(topics, group=group, offsets=offsets, tap=tap)
        if group == GROUP:
            self.num_readers += 1
            if self.num_readers <= self.num_standing:
                reader.pause()
        return reader


def make_prompt(number: int, size: int = 3) -> Prompt:
    return Prompt(
        group=Group(run="demo", split=Split.TRAIN, number=number, source="sums", sample_id=f"row-{number}", size=size),
        messages=(Message(role="user", content="2 + 2?"),),
        images=(),
        reward=RewardSpec(
            terms=(RewardTerm(id="math", verifier="math", version="1", weights={"accuracy": 1.0}),), ground_truth="4"
        ),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=6, seed=1),
        progress=Progress(step=1, total_steps=4),
        created_ns=1,
    )


def take_until(reader: PromptReader, condition: Callable[[], bool]) -> list[Prompt]:
    taken, deadline = [], time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        taken += reader.take(40)
    return taken


def test_no_prompts_is_said_once_the_end_of_the_log_is_read() -> None:
    said: list[str] = []
    reader = PromptReader(MemoryBus("demo"), said.append)
    take_until(reader, lambda: NO_PROMPTS in said)
    assert said[0] != NO_PROMPTS
    assert not any("anew" in words for words in said)


def test_a_group_that_stands_still_is_joined_anew_and_its_prompts_are_taken() -> None:
    said: list[str] = []
    bus = StandingBus(num_standing=2)
    for number in range(34):
        bus.publish(PROMPTS, make_prompt(number))
    reader = PromptReader(bus, said.append)
    taken = take_until(reader, lambda: NO_PROMPTS in said)
    assert sorted(prompt.group.number for prompt in taken) == list(range(34))
    assert bus.num_readers == 3
    assert "its group, joined anew because it makes no progress" in said


def test_a_group_that_stands_still_for_good_ends_the_producer_to_be_started_again() -> None:
    said: list[str] = []
    bus = StandingBus(num_standing=100)
    bus.publish(PROMPTS, make_prompt(0))
    reader = PromptReader(bus, said.append)
    with pytest.raises(TryAgainError, match="joining it 3 times did not help"):
        take_until(reader, lambda: False)
    assert bus.num_readers == 4
    assert NO_PROMPTS not in said


def test_the_first_of_two_prompts_of_one_number_is_taken_and_absurd_ones_are_dead_letters() -> None:
    bus = MemoryBus("demo")
    first = make_prompt(0)
    for prompt in (first, replace(first, digest="b"), make_prompt(1, size=MAX_GROUP_SIZE + 1)):
        bus.publish(PROMPTS, prompt)
    reader = PromptReader(bus, lambda _words: None)
    assert reader.take(40) == [first]
    (letter,) = [record.event for record in bus.reader([DEAD_LETTERS]).read_to_end()]
    assert "asks for 4097 answers" in letter.error
    assert PROMPTS.codec.decode(letter.value) == make_prompt(1, size=MAX_GROUP_SIZE + 1)


def test_what_is_delivered_is_committed_up_to_the_first_prompt_that_is_not() -> None:
    bus = MemoryBus("demo", num_partitions=1)
    for number in range(6):
        bus.publish(PROMPTS, make_prompt(number))
    reader = PromptReader(bus, lambda _words: None)
    taken = reader.take(40)
    reader.commit([taken[0].group.id, taken[1].group.id, taken[4].group.id])
    assert [record.offset for record in bus.reader([PROMPTS], group=GROUP).read_to_end()] == [2, 3, 4, 5]
    reader.commit([prompt.group.id for prompt in taken])
    assert not list(bus.reader([PROMPTS], group=GROUP).read_to_end())


def test_a_reader_without_room_takes_nothing_and_goes_on_where_it_was() -> None:
    bus = MemoryBus("demo")
    reader = PromptReader(bus, lambda _words: None)
    bus.publish(PROMPTS, make_prompt(0))
    reader.stay()
    assert [prompt.group.number for prompt in reader.take(40)] == [0]
