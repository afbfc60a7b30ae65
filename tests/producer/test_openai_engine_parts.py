"""Routing, and completions of parts: pure functions."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.producer.engines.openai.partial import (
    PartialCompletion,
    cut_spans,
    extend_spans,
    find_stop,
    relabel_spans,
)
from tristream.producer.engines.openai.probing import LogprobsMode, why_refused
from tristream.producer.engines.openai.routing import (
    BLOCK_TOKENS,
    BUSIER_FACTOR,
    BUSIER_REQUESTS,
    PrefixMemory,
    choose_server,
    rendezvous,
)
from tristream.producer.engines.openai.sglang import SglangWire
from tristream.producer.engines.openai.wire import BadAnswerError, Chunk, VersionLabels, read_event
from tristream.producer.engines.protocol import GenerationRequest
from tristream.wire.arrays import Tokens
from tristream.wire.events import Sampling, VersionSpan

SERVERS = tuple(f"http://server-{number}" for number in range(5))
PROMPTS = st.lists(st.integers(0, 50_000), min_size=1, max_size=200)
PARTS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=12)


@given(PROMPTS, st.sets(st.sampled_from(SERVERS), min_size=1), st.sampled_from(SERVERS))
def test_a_server_that_leaves_moves_its_own_prompts_alone(prompt: list[int], there: set[str], leaving: str) -> None:
    key = Tokens.of(prompt).data[:64]
    chosen = rendezvous(key, there)
    assert chosen in there
    rest = there - {leaving}
    if rest and chosen != leaving:
        assert rendezvous(key, rest) == chosen


def test_prompts_are_spread_over_all_servers() -> None:
    memory = PrefixMemory()
    counts = Counter(memory.prefer([number, 7, 7], SERVERS) for number in range(500))
    assert set(counts) == set(SERVERS)
    assert max(counts.values()) < 2 * min(counts.values())


@given(PROMPTS, st.lists(st.integers(0, 50_000), max_size=200))
def test_a_later_turn_goes_where_most_of_it_was_read(first: list[int], more: list[int]) -> None:
    memory = PrefixMemory()
    server = memory.prefer(first, SERVERS)
    memory.remember(first, server)
    assert memory.prefer(first, SERVERS) == server
    later = [*first, *more]
    if 2 * (len(first) // BLOCK_TOKENS * BLOCK_TOKENS) >= len(later):
        assert memory.prefer(later, SERVERS) == server


def test_a_beginning_that_all_prompts_have_binds_them_to_no_server() -> None:
    memory = PrefixMemory()
    system = list(range(2 * BLOCK_TOKENS))
    chosen = set()
    for number in range(100):
        prompt = [*system, *[number] * (3 * BLOCK_TOKENS)]
        server = memory.prefer(prompt, SERVERS)
        memory.remember(prompt, server)
        chosen.add(server)
    assert chosen == set(SERVERS)


def test_a_server_that_is_gone_or_forgot_is_not_preferred() -> None:
    memory = PrefixMemory()
    prompt = list(range(5 * BLOCK_TOKENS))
    other = next(server for server in SERVERS if server != memory.prefer(prompt, SERVERS))
    memory.remember(prompt, other)
    assert memory.prefer(prompt, SERVERS) == other
    assert memory.prefer(prompt, [server for server in SERVERS if server != other]) != other
    memory.forget(other)
    assert memory.prefer(prompt, SERVERS) != other


def test_the_memory_of_prefixes_is_bounded() -> None:
    memory = PrefixMemory(most_blocks=10)
    old, new = [1] * (8 * BLOCK_TOKENS), [2] * (8 * BLOCK_TOKENS)
    away = next(server for server in SERVERS if server != memory.prefer(old, SERVERS))
    memory.remember(old, away)
    memory.remember(new, away)
    assert memory.prefer(old, SERVERS) != away


@given(st.dictionaries(st.sampled_from(SERVERS), st.integers(0, 500), min_size=1), st.data())
def test_no_server_is_much_busier_than_another(num_running: dict[str, int], data: st.DataObject) -> None:
    preferred = data.draw(st.sampled_from(sorted(num_running)))
    chosen = choose_server(preferred, num_running)
    assert num_running[chosen] <= BUSIER_FACTOR * min(num_running.values()) + BUSIER_REQUESTS
    if num_running[preferred] <= min(num_running.values()) + BUSIER_REQUESTS:
        assert chosen == preferred


def spans_of(parts: list[tuple[int, int]]) -> tuple[VersionSpan, ...]:
    spans: tuple[VersionSpan, ...] = ()
    for version, num_tokens in parts:
        spans = extend_spans(spans, version, num_tokens)
    return spans


def versions_of(spans: tuple[VersionSpan, ...]) -> list[int]:
    """The version of each token; fails if there is a gap."""
    versions: list[int] = []
    for span in spans:
        assert span.start == len(versions) < span.end
        versions += [span.version] * (span.end - span.start)
    return versions


@given(PARTS)
def test_spans_cover_all_tokens_once_and_differ_from_their_neighbours(parts: list[tuple[int, int]]) -> None:
    spans = spans_of(parts)
    assert versions_of(spans) == [version for version, num_tokens in parts for _ in range(num_tokens)]
    assert all(span.version != after.version for span, after in pairwise(spans))


@given(PARTS, st.integers(0, 80))
def test_cut_spans_are_those_of_the_first_tokens(parts: list[tuple[int, int]], num_tokens: int) -> None:
    spans = spans_of(parts)
    assert versions_of(cut_spans(spans, num_tokens)) == versions_of(spans)[:num_tokens]


@given(PARTS, PARTS)
def test_what_a_server_says_of_its_part_replaces_what_was_thought(
    before: list[tuple[int, int]], said: list[tuple[int, int]]
) -> None:
    first, part = spans_of(before), spans_of(said)
    start, num_new = len(versions_of(first)), len(versions_of(part))
    thought = extend_spans(first, 99, num_new)
    labels = [VersionLabels(label=str(span.version), start=span.start, end=span.end) for span in part]
    told = relabel_spans(thought, labels, start, start + num_new)
    assert versions_of(told) == versions_of(first) + versions_of(part)


@pytest.mark.parametrize("labels", [[("default", 0, 3)], [("4", 0, 2)], [("4", 1, 3)], [("4", 0, 1), ("5", 2, 3)]])
def test_labels_that_are_no_versions_or_have_gaps_change_nothing(labels: list[tuple[str, int, int]]) -> None:
    spans = extend_spans((), 7, 3)
    told = [VersionLabels(label=label, start=start, end=end) for label, start, end in labels]
    assert relabel_spans(spans, told, 0, 3) == spans


def make_partial(tokens: list[int], part_start: int, **sampling: object) -> PartialCompletion:
    chosen = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 50, "seed": 5} | sampling
    request = GenerationRequest(id="a", prompt_tokens=Tokens.of([1]), sampling=Sampling(**chosen))  # type: ignore[arg-type]
    partial = PartialCompletion(request=request, expanded_prompt=Tokens.of([1]))
    partial.add(Chunk(tokens=tokens, logprobs=[-1.0] * len(tokens)), 0)
    partial.part_start = part_start
    return partial


def letters(tokens: object) -> str:
    return "".join(map(chr, tokens))  # type: ignore[call-overload]


@given(st.text("abc", min_size=1, max_size=4), st.text("abc", max_size=12), st.integers(0, 12))
def test_a_stop_text_that_began_before_a_part_is_found_where_it_ends(stop: str, text: str, part_start: int) -> None:
    if stop in text[:part_start]:
        return  # the part before would have ended there
    partial = make_partial([ord(letter) for letter in text], part_start, stop=(stop,))
    end = find_stop(letters, partial, part_start)
    place = text.find(stop)
    if place == -1 or not 0 < part_start < len(text):
        assert end is None
    elif place < part_start:
        assert end == place + len(stop)


def test_a_later_part_asks_for_what_is_left_with_other_random_numbers() -> None:
    partial = make_partial([5, 6, 7], 0)
    first = make_partial([], 0).begin_part()
    later = partial.begin_part()
    assert (first.max_tokens, later.max_tokens) == (50, 47)
    assert first.seed == 5 != later.seed
    assert later == make_partial([8, 8, 8], 0).begin_part()


@pytest.mark.parametrize(
    ("mode", "sampling", "fits"),
    [
        (LogprobsMode.RAW, {}, True),
        (LogprobsMode.RAW, {"top_p": 0.9}, True),
        (LogprobsMode.RAW, {"temperature": 0.0}, True),
        (LogprobsMode.RAW, {"temperature": 0.7}, False),
        (LogprobsMode.PROCESSED, {"temperature": 0.7}, True),
        (LogprobsMode.PROCESSED, {"top_p": 0.9}, False),
        (LogprobsMode.PROCESSED, {"temperature": 0.0, "top_p": 0.9}, True),
        (LogprobsMode.FULL, {"temperature": 0.7, "min_p": 0.1}, True),
    ],
)
def test_only_logprobs_that_the_learner_needs_are_taken(
    mode: LogprobsMode, sampling: dict[str, float], fits: bool
) -> None:
    chosen = Sampling(**{"temperature": 1.0, "top_p": 1.0, "max_tokens": 5, "seed": 0, **sampling})  # type: ignore[arg-type]
    assert (why_refused(mode, chosen) is None) is fits


def sglang_event(entries: str, num_tokens: int, reason: str = "null") -> bytes:
    return (
        f'{{"meta_info": {{"output_token_logprobs": {entries}, "completion_tokens": {num_tokens}, '
        f'"finish_reason": {reason}, "cached_tokens": 3}}}}'
    ).encode()


def test_sglang_s_events_are_read_whether_they_hold_all_tokens_or_the_new_ones() -> None:
    both = "[[-0.5, 11, null], [-0.25, 12, null]]"
    first = read_event(SglangWire(), sglang_event("[[-0.5, 11, null]]", 1), 0)
    assert (first.tokens, first.logprobs, first.finish_reason) == ([11], [-0.5], None)
    for entries in (both, "[[-0.25, 12, null]]"):
        chunk = read_event(SglangWire(), sglang_event(entries, 2, '{"type": "stop", "matched": 12}'), 1)
        assert (chunk.tokens, chunk.logprobs, chunk.finish_reason) == ([12], [-0.25], "stop")
        assert chunk.num_cached_prompt_tokens == 3
    with pytest.raises(BadAnswerError):
        read_event(SglangWire(), sglang_event("[]", 2), 0)
