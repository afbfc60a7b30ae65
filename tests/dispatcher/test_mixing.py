import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory import held_bytes_of
from tristream.dispatcher.mixing import MixedSource, Mixture, Pick, epoch_order
from tristream.wire.seeds import derive_seed

SOURCES = st.lists(st.tuples(st.floats(0.1, 10.0, allow_nan=False), st.integers(1, 7)), min_size=1, max_size=6).map(
    lambda pairs: [MixedSource(name=f"s{i}", weight=weight, size=size) for i, (weight, size) in enumerate(pairs)]
)


@given(SOURCES, st.integers(0, 2**32), st.lists(st.integers(0, 200), max_size=20))
def test_the_nth_prompt_does_not_depend_on_what_was_asked_before(
    sources: list[MixedSource], seed: int, numbers: list[int]
) -> None:
    in_order = Mixture(sources, seed)
    expected = [in_order.pick(number) for number in range(201)]
    fresh = Mixture(sources, seed)
    assert [fresh.pick(number) for number in numbers] == [expected[number] for number in numbers]


@given(SOURCES, st.integers(0, 100))
def test_each_source_has_its_share_at_all_times(sources: list[MixedSource], seed: int) -> None:
    mixture = Mixture(sources, seed)
    total = sum(source.weight for source in sources)
    counts = [0] * len(sources)
    for number in range(300):
        counts[mixture.pick(number).source] += 1
        for count, source in zip(counts, sources, strict=True):
            share = (number + 1) * source.weight / total
            assert abs(count - share) < max(1.0, len(sources) - 1) + 0.01


@given(SOURCES, st.integers(0, 100))
def test_each_epoch_of_a_source_has_every_sample_once(sources: list[MixedSource], seed: int) -> None:
    mixture = Mixture(sources, seed)
    picks = [mixture.pick(number) for number in range(300)]
    for index, source in enumerate(sources):
        samples = [pick.sample for pick in picks if pick.source == index]
        for start in range(0, len(samples) - source.size + 1, source.size):
            assert sorted(samples[start : start + source.size]) == list(range(source.size))


def test_weights_one_to_three_take_turns() -> None:
    sources = [MixedSource(name="a", weight=0.1, size=10), MixedSource(name="b", weight=0.3, size=10)]
    mixture = Mixture(sources, 1)
    turns = [mixture.pick(number).source for number in range(8)]
    assert turns == [1, 0, 1, 1, 1, 0, 1, 1]


def test_the_order_is_pinned_across_processes_and_releases() -> None:
    source = MixedSource(name="digits", weight=1.0, size=8)
    assert list(epoch_order(source, 1, 0)) == [2, 4, 5, 7, 1, 6, 0, 3]
    assert Mixture([source], 1).pick(9) == Pick(source=0, sample=epoch_order(source, 1, 1)[1])
    assert derive_seed(1, "demo/0") == 3619629305552229968


def test_a_source_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Mixture([MixedSource(name="a", weight=1.0, size=0)], 1)


def test_a_paused_source_is_left_out_and_goes_on_where_it_was() -> None:
    sources = [MixedSource(name=name, weight=1, size=9) for name in "abc"]
    mixture = Mixture(sources, 1)
    mixture.pause(["b"], 4)
    mixture.resume(["b"], 8)
    picks = [mixture.pick(number) for number in range(14)]
    assert [pick.source for pick in picks] == [0, 1, 2, 0, 0, 2, 0, 2, 0, 1, 2, 0, 1, 2]
    for source in range(3):
        samples = [pick.sample for pick in picks if pick.source == source]
        assert samples == list(epoch_order(sources[source], 1, 0))[: len(samples)]


@given(SOURCES, st.integers(0, 2**32), st.data())
def test_the_nth_prompt_is_a_function_of_n_and_the_pauses(
    sources: list[MixedSource], seed: int, data: st.DataObject
) -> None:
    """Whether the pauses are known before or come while prompts are asked for, in whatever order these are asked."""
    names = [source.name for source in sources]
    starts = sorted(data.draw(st.lists(st.integers(0, 100), max_size=5)))
    changes = [(start, data.draw(st.booleans()), data.draw(st.sampled_from(names))) for start in starts]

    def change(mixture: Mixture, start: int, is_pause: bool, name: str) -> None:
        (mixture.pause if is_pause else mixture.resume)([name], start)

    live, expected = Mixture(sources, seed), []
    for number in range(120):
        for start, is_pause, name in changes:
            if start == number:
                change(live, start, is_pause, name)
        expected.append(live.pick(number) if live.has_source(number) else None)
    known = Mixture(sources, seed)
    for start, is_pause, name in changes:
        change(known, start, is_pause, name)
    order = data.draw(st.permutations(range(120)))
    found = {number: known.pick(number) if known.has_source(number) else None for number in order}
    assert [found[number] for number in range(120)] == expected


def test_while_all_sources_are_paused_there_is_no_prompt() -> None:
    mixture = Mixture([MixedSource(name=name, weight=1, size=9) for name in "ab"], 1)
    mixture.pause(["a", "b"], 3)
    assert mixture.has_source(2)
    assert not mixture.has_source(3)
    with pytest.raises(ValueError, match="every source is paused at prompt 3"):
        mixture.pick(3)
    mixture.resume(["b"], 3)
    assert {mixture.pick(number).source for number in range(3, 9)} == {1}


def test_memory_does_not_grow_with_the_prompts_and_far_numbers_are_found_at_once() -> None:
    sources = [MixedSource(name=f"s{i}", weight=weight, size=50) for i, weight in enumerate((1.0, 2.5, 0.3))]
    mixture = Mixture(sources, 1)
    for number in range(2000):
        mixture.pick(number)
    with held_bytes_of("dispatcher") as held_bytes:
        for number in range(2000, 1_000_000, 101):
            mixture.pick(number)
        mixture.pick(10**12)
        assert held_bytes() < 16_384
