"""Environments in the producer: what they do to their own rollout, and never to others."""

import asyncio
from collections.abc import Callable

import pytest

from producer_run import MakeImage, ProducerRun
from table_engine import TableEngine
from tristream.config.run_file import RunFile
from tristream.producer.environments.contract import Client, Sample
from tristream.wire.events import FinishReason


@pytest.fixture
def run(make_settings: Callable[..., RunFile], make_image: MakeImage) -> ProducerRun:
    run = ProducerRun(make_settings(), make_image)
    run.publish_bytes(0)
    return run


async def two_turns(client: Client, sample: Sample) -> None:
    answer = await client.answer(max_tokens=3)
    client.add("user", f"{sample.ground_truth} {len(answer.text)}")
    await client.answer(max_tokens=3)


def test_a_rollout_of_several_turns_keeps_them_in_order_and_other_sources_answer_once(run: ProducerRun) -> None:
    run.ask(run.training_prompt(0, max_tokens=6), run.training_prompt(1, source="counts"))
    with run.producer(TableEngine(run.encoder), environments={"sums": two_turns}):
        rollouts = run.rollouts(6)
    for rollout in rollouts:
        kinds = [segment.is_sampled for segment in rollout.segments]
        assert rollout.error == ""
        if rollout.group.number == 1:
            assert kinds == [False, True]
            continue
        assert kinds == [False, True, False, True]
        assert (rollout.num_sampled_tokens, len(rollout.messages)) == (6, 3)
        assert rollout.messages[-1].content.startswith("4 ")
        assert [rollout.segments[0].images, rollout.segments[2].images] == [rollout.images, ()]
        assert rollout.images


async def fails_at_two(client: Client, sample: Sample) -> None:
    await client.answer()
    if int(sample.sample_id.removeprefix("row-")) == 2:
        raise KeyError("no such tool")


def test_an_environment_that_raises_fails_its_rollouts_with_the_reason(run: ProducerRun) -> None:
    run.ask(*(run.training_prompt(number) for number in range(4)))
    with run.producer(TableEngine(run.encoder), environments={"sums": fails_at_two}):
        rollouts = run.rollouts(12)
    reasons = {rollout.group.number: rollout.error for rollout in rollouts}
    assert reasons == {0: "", 1: "", 2: "its environment failed: KeyError: 'no such tool'", 3: ""}


async def sleeps(client: Client, sample: Sample) -> None:
    await client.answer()
    if sample.sample_id == "row-1":
        await asyncio.sleep(3600)


def test_an_environment_that_takes_too_long_fails_its_rollouts_and_its_waits_for_slots_do_not_count(
    run: ProducerRun,
) -> None:
    run.ask(*(run.training_prompt(number) for number in range(6)))
    engine = TableEngine(run.encoder, max_running=1, token_seconds=0.01)  # the last begins after more than a second
    with run.producer(engine, environments={"sums": sleeps}, max_seconds=0.5):
        rollouts = run.rollouts(18)
    reasons = {rollout.group.number: rollout.error for rollout in rollouts}
    assert reasons.pop(1).startswith("its environment took longer than rollout.max_seconds, 0.5 s")
    assert set(reasons.values()) == {""}


async def says_nothing(_client: Client, _sample: Sample) -> None:
    return


async def gives_up(_client: Client, _sample: Sample) -> None:
    raise TimeoutError("the tool timed out")


def test_an_environment_without_an_answer_and_one_with_a_timeout_of_its_own_fail_in_words(run: ProducerRun) -> None:
    run.ask(run.training_prompt(0), run.training_prompt(1, source="counts"))
    with run.producer(TableEngine(run.encoder), environments={"sums": says_nothing, "counts": gives_up}):
        rollouts = run.rollouts(6)
    assert {(rollout.group.source, rollout.error) for rollout in rollouts} == {
        ("sums", "its environment ended before the policy answered"),
        ("counts", "its environment failed: TimeoutError: the tool timed out"),
    }
    assert {rollout.finish_reason for rollout in rollouts} == {FinishReason.ERROR}


async def hides_failures(client: Client, _sample: Sample) -> None:
    try:
        await client.answer()
    except Exception as error:
        raise ValueError("no answer") from error


def test_an_engine_that_fails_behind_an_environment_is_asked_anew(run: ProducerRun) -> None:
    failures = [True]
    run.ask(run.training_prompt(0))
    engine = TableEngine(run.encoder, token_seconds=0.01, fails_at=lambda _request: bool(failures and failures.pop()))
    with run.producer(engine, environments={"sums": hides_failures}):
        assert {rollout.error for rollout in run.rollouts(3)} == {""}
