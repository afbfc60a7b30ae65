"""The producer's loop around an engine that takes time and samples from a table."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from producer_run import MakeImage, ProducerRun
from table_engine import TableEngine
from tristream.config.run_file import RunFile
from tristream.producer import weights_keeping
from tristream.producer.engines.protocol import GenerationRequest
from tristream.producer.prompt_reading import GROUP
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import TryAgainError
from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.wire.events import FinishReason, Part, PartState, Rollout, VersionSpan
from tristream.wire.topics import PROMPTS, ROLLOUTS


@pytest.fixture
def run(make_settings: Callable[..., RunFile], make_image: MakeImage) -> ProducerRun:
    return ProducerRun(make_settings(), make_image)


def tokens_of(rollout: Rollout) -> list[int]:
    return rollout.segments[-1].tokens.to_list()


def number_of(request: GenerationRequest) -> int:
    return int(request.id.split("/")[-2])


def is_for(*numbers: int) -> Callable[[GenerationRequest], bool]:
    return lambda request: number_of(request) in numbers


def unread_numbers(run: ProducerRun) -> list[int]:
    """Prompts that a next producer would read."""
    reader = run.bus.reader([PROMPTS], group=GROUP)
    return sorted(record.event.group.number for record in reader.read_to_end())


def test_a_slow_prompt_holds_up_nobody_and_each_rollout_is_published_as_it_ends(run: ProducerRun) -> None:
    run.publish_bytes(0)
    run.ask(run.training_prompt(0, max_tokens=150), *(run.training_prompt(number) for number in range(1, 12)))
    engine = TableEngine(run.encoder, token_seconds=0.02)
    with run.producer(engine, group_size=3):
        run.rollouts(36)
    order = [rollout.group.number for rollout in run.in_order()]
    assert order[-3:] == [0, 0, 0]
    assert sorted(order) == sorted(list(range(12)) * 3)
    assert engine.most_running == 8
    assert engine.is_closed


def test_a_prompt_is_committed_when_all_before_it_are_delivered_and_what_is_not_is_read_again(
    run: ProducerRun,
) -> None:
    bus = MemoryBus("demo", num_partitions=1)
    run = ProducerRun(run.settings, run._make_image, bus)
    run.publish_bytes(0)
    slow = TableEngine(run.encoder, token_seconds=0.02, tokens_of=lambda r: 200 if number_of(r) == 3 else 2)
    prompts = [run.training_prompt(number, max_tokens=200 if number == 3 else 6) for number in range(8)]
    run.ask(*prompts)
    producer = run.start(slow, group_size=3)
    run.rollouts(21)
    time.sleep(0.5)  # a commit or two
    producer.stop()
    assert unread_numbers(run) == [3, 4, 5, 6, 7]
    with run.producer(TableEngine(run.encoder), group_size=3):
        run.rollouts(21 + 15)
        run.wait_for("prompts from the dispatcher")
        run.wait_until(lambda: unread_numbers(run) == [], "the commit of all")
    assert {rollout.id for rollout in run.rollouts(36)} == {f"demo/{n}/{i}" for n in range(8) for i in range(3)}


def test_prompts_beyond_the_slots_and_a_few_more_are_left_to_other_producers(run: ProducerRun) -> None:
    run.publish_bytes(0)
    engine = TableEngine(run.encoder, token_seconds=0.05)
    with run.producer(engine, group_size=3):
        run.wait_until(lambda: engine.updates == [0])  # prompts that wait for weights take no room
        run.ask(*(run.training_prompt(number, max_tokens=200) for number in range(30)))
        run.wait_until(lambda: run.measure("num_running") == 8, "a full engine")
        time.sleep(0.5)
        assert 4 <= run.measure("num_waiting") <= 9
        run.wait_until(lambda: run.measure("idle_share") < 0.2, "an engine that is not idle")


def test_a_group_far_larger_than_the_engine_is_answered(run: ProducerRun) -> None:
    run.publish_bytes(0)
    run.ask(run.training_prompt(0, size=4096, max_tokens=2), run.training_prompt(1))
    with run.producer(TableEngine(run.encoder, max_running=64)):
        rollouts = run.rollouts(4099, seconds=60)
    assert {rollout.index for rollout in rollouts if rollout.group.number == 0} == set(range(4096))
    assert {rollout.error for rollout in rollouts} == {""}


def test_new_weights_come_while_rollouts_run_and_spans_tell_so(run: ProducerRun) -> None:
    run.publish_bytes(0)
    run.ask(*(run.training_prompt(number, max_tokens=100) for number in range(3)))
    engine = TableEngine(run.encoder, max_running=9, token_seconds=0.01)
    with run.producer(engine):
        run.wait_until(lambda: engine.num_running == 9)
        time.sleep(0.2)
        run.publish_bytes(1)
        rollouts = run.rollouts(9)
    assert engine.updates == [0, 1]
    for rollout in rollouts:
        first, second = rollout.segments[-1].version_spans
        assert (first.version, first.start, second.version, second.end) == (0, 0, 1, 100)
        assert first.end == second.start
        assert rollout.oldest_version == 0


def test_evaluation_keeps_its_weights_beside_training_rollouts_that_go_on(run: ProducerRun) -> None:
    weights = run.publish_bytes(0)
    run.ask(run.training_prompt(0, max_tokens=150), run.evaluation_prompt(0, weights, max_tokens=60))
    engine = TableEngine(run.encoder, token_seconds=0.01)
    with run.producer(engine):
        run.wait_until(lambda: engine.num_running == 4)
        newest = run.publish_bytes(1)
        time.sleep(0.3)
        assert engine.updates == [0]
        run.ask(run.evaluation_prompt(1, newest), run.training_prompt(1))
        rollouts = {rollout.id: rollout for rollout in run.rollouts(8)}
    assert engine.updates == [0, 1]
    assert rollouts["demo/eval-0/0/0"].segments[-1].version_spans == (VersionSpan(version=0, start=0, end=60),)
    assert rollouts["demo/eval-1/1/0"].segments[-1].version_spans == (VersionSpan(version=1, start=0, end=6),)
    assert [span.version for span in rollouts["demo/0/0"].segments[-1].version_spans] == [0, 1]


@pytest.mark.parametrize(("max_staleness", "is_mixed"), [(0, False), (5, True)])
def test_an_older_pinned_version_spoils_no_training_rollout(
    run: ProducerRun, max_staleness: int, is_mixed: bool
) -> None:
    old = run.publish_bytes(2)
    run.publish_bytes(3)
    run.ask(run.training_prompt(0, step=4, max_tokens=60))
    engine = TableEngine(run.encoder, token_seconds=0.01)
    with run.producer(engine, max_staleness=max_staleness):
        run.wait_until(lambda: engine.num_running == 3)
        run.ask(run.evaluation_prompt(0, old), run.training_prompt(1, step=4))
        rollouts = run.rollouts(7)
        run.wait_until(lambda: engine.updates == [3, 2, 3], "the newest weights again")
    for rollout in rollouts:
        if rollout.group.eval_step:
            assert {span.version for span in rollout.segments[-1].version_spans} == {2}
        elif max_staleness == 0:
            assert rollout.oldest_version == 3
    first = next(rollout for rollout in rollouts if rollout.id == "demo/0/0")
    assert (len(first.segments[-1].version_spans) > 1) == is_mixed


@pytest.mark.parametrize("max_staleness", [0, 1, 4])
def test_no_rollout_is_begun_with_weights_too_old_for_its_step(run: ProducerRun, max_staleness: int) -> None:
    """The learner is slow: prompts are there before the version that they need, as far as admission allows it."""
    num_steps = 6
    engine = TableEngine(run.encoder, token_seconds=0.002)
    by_version = {v: [step for step in range(1, num_steps + 1) if step - 1 - max_staleness <= v] for v in range(-1, 6)}
    with run.producer(engine, max_staleness=max_staleness):
        asked: set[int] = set()
        for version in range(num_steps):
            for step in by_version[version]:
                if step not in asked:
                    asked.add(step)
                    run.ask(run.training_prompt(2 * step, step), run.training_prompt(2 * step + 1, step))
            time.sleep(0.15)
            run.publish_bytes(version)
        rollouts = run.rollouts(6 * num_steps)
    for rollout in rollouts:
        assert rollout.progress.step - 1 - rollout.oldest_version <= max_staleness
        if max_staleness == 0:
            assert len(rollout.segments[-1].version_spans) == 1


def test_prompts_that_wait_for_a_version_hold_up_none_that_can_go_on_and_older_weights_do_in_the_end(
    run: ProducerRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_keeping, "FRESH_SECONDS", 2.0)
    run.publish_bytes(3)
    run.ask(run.training_prompt(9, step=9), run.training_prompt(0, step=4))
    with run.producer(TableEngine(run.encoder)):
        assert {rollout.group.number for rollout in run.rollouts(3)} == {0}
        run.wait_for("policy version 7 from the learner")
        assert {rollout.oldest_version for rollout in run.rollouts(6)} == {3}


def test_a_rollout_that_takes_too_long_is_cut_off_and_keeps_its_tokens(run: ProducerRun) -> None:
    run.publish_bytes(0)
    run.ask(run.training_prompt(0, max_tokens=200))
    with run.producer(TableEngine(run.encoder, token_seconds=0.01), max_seconds=0.3):
        rollouts = run.rollouts(3)
    assert {rollout.finish_reason for rollout in rollouts} == {FinishReason.LENGTH}
    assert all(5 < rollout.num_sampled_tokens < 100 for rollout in rollouts)


def test_a_group_at_which_the_engine_fails_is_given_up_and_the_others_are_answered(run: ProducerRun) -> None:
    run.publish_bytes(0)
    run.ask(*(run.training_prompt(number) for number in range(4, 10)))
    engine = TableEngine(run.encoder, token_seconds=0.01, fails_at=is_for(6))
    with run.producer(engine):
        rollouts = run.rollouts(18)
    assert {rollout.error for rollout in rollouts if rollout.group.number == 6} == {"the engine failed: out of memory"}
    assert {rollout.error for rollout in rollouts if rollout.group.number != 6} == {""}
    assert len({rollout.id for rollout in rollouts}) == len(run.in_order()) == 18


def test_an_engine_that_fails_once_costs_nothing(run: ProducerRun) -> None:
    run.publish_bytes(0)
    run.ask(*(run.training_prompt(number) for number in range(4)))
    failures = [True]
    engine = TableEngine(run.encoder, token_seconds=0.01, fails_at=lambda _request: bool(failures and failures.pop()))
    with run.producer(engine):
        assert {rollout.error for rollout in run.rollouts(12)} == {""}


def test_an_engine_that_fails_at_everything_ends_the_producer_to_be_started_again(run: ProducerRun) -> None:
    run.publish_bytes(0)
    run.ask(*(run.training_prompt(number) for number in range(40)))
    producer = run.start(TableEngine(run.encoder, fails_at=lambda _request: True))
    producer.join()
    assert isinstance(producer.error, TryAgainError)
    assert "the engine failed at each of the last" in str(producer.error)
    failed = run.in_order()
    assert {rollout.error for rollout in failed} == {"the engine failed: out of memory"}
    assert len(failed) >= 16 * 3
    assert len(unread_numbers(run)) <= 40 - 16


def test_a_prompt_that_is_read_again_while_it_is_in_work_is_answered_once(run: ProducerRun) -> None:
    run.publish_bytes(0)
    prompt = run.training_prompt(0, max_tokens=60)
    run.ask(prompt, replace(prompt, created_ns=prompt.created_ns + 1))
    with run.producer(TableEngine(run.encoder, token_seconds=0.01)):
        run.rollouts(3)
        run.wait_for("prompts from the dispatcher")
        assert len(run.in_order()) == 3
        assert unread_numbers(run) == []


def test_images_are_waited_for_while_the_store_is_away(run: ProducerRun, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = BlobStore(run.blobs.uri, inline_limit_bytes=0)
    run.publish_bytes(0)
    prompt = run.training_prompt(0)
    run.ask(replace(prompt, images=(stored.put_image(prompt.images[0].data, "image/png"),)))
    is_away, read = threading.Event(), BlobStore.read_image
    is_away.set()

    def read_if_there(store: BlobStore, image: Any) -> bytes:
        if is_away.is_set():
            raise StoreUnavailableError("the store answers 503")
        return read(store, image)

    monkeypatch.setattr(BlobStore, "read_image", read_if_there)
    with run.producer(TableEngine(run.encoder)):
        run.wait_for("the images of demo/0: the store answers 503")
        is_away.clear()
        assert {rollout.error for rollout in run.rollouts(3)} == {""}


def test_a_producer_is_told_to_stop_while_a_hundred_rollouts_run(run: ProducerRun) -> None:
    run.publish_bytes(0)
    run.ask(*(run.training_prompt(number, max_tokens=200) for number in range(40)))
    engine = TableEngine(run.encoder, max_running=100, token_seconds=0.1)
    producer = run.start(engine)
    run.wait_until(lambda: engine.num_running == 100)
    started = time.monotonic()
    producer.stop()
    assert producer.error is None
    assert time.monotonic() - started < 2
    assert (engine.num_running, engine.is_closed) == (0, True)
    assert run.status()["state"] == PartState.DONE
    assert len(unread_numbers(run)) == 40


def test_two_producers_on_one_machine_show_as_two(run: ProducerRun) -> None:
    run.publish_bytes(4)
    first, second = TableEngine(run.encoder), TableEngine(run.encoder)
    with run.producer(first, instance="host-1"), run.producer(second, instance="host-2"):
        run.ask(*(run.training_prompt(number, step=5) for number in range(6)))
        run.rollouts(18)
        time.sleep(0.5)
    published = [record.event for record in run.bus.reader([ROLLOUTS]).read_to_end()]
    statuses = run.newest_statuses()
    assert set(statuses) == {"host-1", "host-2"}
    for instance, status in statuses.items():
        own = [rollout for rollout in published if rollout.producer == instance]
        assert (status.part, status.state) == (Part.PRODUCER, PartState.DONE)
        assert status.measures["num_rollouts"] == len(own)
        assert status.measures["num_tokens"] == sum(rollout.num_sampled_tokens for rollout in own)
        assert status.measures["num_failed_prompts"] == 0
        assert status.measures["tokens_per_second/sums"] > 0


def test_prompts_that_wait_for_weights_take_no_room_of_those_that_can_go_on(run: ProducerRun) -> None:
    old = run.publish_bytes(2)
    run.publish_bytes(3)
    waiting = [run.training_prompt(number, step=5) for number in range(8)]
    run.ask(*waiting, *(run.evaluation_prompt(number, old, max_tokens=30) for number in range(12)))
    engine = TableEngine(run.encoder, token_seconds=0.02)
    with run.producer(engine, max_staleness=0):
        rollouts = run.rollouts(12)
        assert {rollout.group.eval_step for rollout in rollouts} == {2}
        run.publish_bytes(4)
        assert {r.oldest_version for r in run.rollouts(12 + 24) if not r.group.eval_step} == {4}
    assert engine.updates.count(2) <= 2, "weights are not changed for every prompt of a round"
    assert engine.updates[-1] == 4
