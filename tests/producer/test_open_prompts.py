"""Which prompts are open, and up to where everything is delivered."""

from hypothesis import given
from hypothesis import strategies as st

from tristream.producer.open_prompts import OpenPrompts
from tristream.runtime.bus.protocol import Record
from tristream.wire.events import Group, Progress, Prompt, RewardSpec, Sampling, Split

FIRST, SECOND = ("prompts", 0), ("prompts", 1)


def make_record(number: int, partition: int = 0, offset: int | None = None) -> Record[Prompt]:
    group = Group(run="demo", split=Split.TRAIN, number=number, source="sums", sample_id="", size=2)
    prompt = Prompt(
        group=group,
        messages=(),
        images=(),
        reward=RewardSpec(terms=(), ground_truth=""),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=6, seed=1),
        progress=Progress(step=1, total_steps=4),
        created_ns=1,
    )
    place = number if offset is None else offset
    return Record(topic="prompts", partition=partition, offset=place, key=group.id, event=prompt, headers={})


def test_nothing_beyond_the_first_open_prompt_of_a_partition_is_handled() -> None:
    prompts = OpenPrompts()
    assert [prompts.take(make_record(number)) for number in range(4)] == [True] * 4
    assert prompts.take(make_record(9, partition=1))
    for group_id in ("demo/0", "demo/2", "demo/9"):
        prompts.deliver(group_id)
    assert prompts.handled({FIRST: 6, SECOND: 12}) == {FIRST: 1, SECOND: 12}
    assert len(prompts) == 2


def test_a_prompt_in_work_that_is_read_again_is_no_new_one_and_both_its_places_are_handled() -> None:
    prompts = OpenPrompts()
    assert prompts.take(make_record(5, offset=5))
    assert not prompts.take(make_record(5, offset=7))
    assert prompts.handled({FIRST: 8}) == {FIRST: 5}
    prompts.deliver("demo/5")
    assert prompts.handled({FIRST: 8}) == {FIRST: 8}
    assert prompts.take(make_record(5, offset=8))


def test_partitions_that_moved_away_are_forgotten_until_they_come_back() -> None:
    prompts = OpenPrompts()
    prompts.take(make_record(0))
    assert prompts.handled({SECOND: 3}) == {SECOND: 3}
    assert prompts.handled({FIRST: 40}) == {FIRST: 40}, "another member has answered what was open"
    assert not prompts.take(make_record(0)), "it is still in work"
    assert prompts.handled({FIRST: 40}) == {FIRST: 0}
    prompts.deliver("demo/0")
    assert prompts.handled({FIRST: 40}) == {FIRST: 40}


def test_a_log_that_was_made_anew_has_other_prompts_at_the_same_places() -> None:
    prompts = OpenPrompts()
    prompts.take(make_record(0, offset=0))
    prompts.take(make_record(7, offset=0))
    prompts.deliver("demo/0")
    assert prompts.handled({FIRST: 1}) == {FIRST: 0}


@given(st.permutations(range(12)), st.integers(0, 12))
def test_what_is_handled_is_always_delivered(order: list[int], num_delivered: int) -> None:
    prompts = OpenPrompts()
    for number in range(12):
        prompts.take(make_record(number))
    delivered = order[:num_delivered]
    for number in delivered:
        prompts.deliver(f"demo/{number}")
    (handled,) = prompts.handled({FIRST: 12}).values()
    assert set(range(handled)) <= set(delivered)
    assert handled == 12 or handled not in delivered
