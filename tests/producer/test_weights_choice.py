"""Which weights an engine should have, and who may begin with those that it has."""

import asyncio

import pytest

from tristream.producer.weights_choice import Need, choose, is_met, next_pin, oldest_trainable
from tristream.wire.events import Weights


def weights(version: int, sha256: str = "a") -> Weights:
    return Weights(version=version, uri=f"weights/{version}", sha256=sha256)


def need(pinned: Weights | None = None, oldest_version: int = 0) -> Need:
    loop = asyncio.new_event_loop()
    try:
        return Need(pinned=pinned, oldest_version=oldest_version, granted=loop.create_future())
    finally:
        loop.close()


def test_the_newest_weights_are_wanted_unless_a_pinned_prompt_is_in_work() -> None:
    assert choose([need(oldest_version=3)], None, weights(4), 1) == weights(4)
    assert choose([need(), need(pinned=weights(3))], None, weights(4), 1) is None
    assert choose([], None, None, 1) is None


@pytest.mark.parametrize(("in_work", "is_loaded"), [([], True), ([2], True), ([2, 3], False)])
def test_a_pinned_version_waits_for_the_training_rollouts_that_it_would_make_too_old(
    in_work: list[int], is_loaded: bool
) -> None:
    needs = [need(oldest_version=version) for version in in_work]
    assert choose(needs, weights(2), weights(3), 1) == (weights(2) if is_loaded else None)


def test_a_pinned_version_waits_too_where_the_learner_has_gone_on_meanwhile() -> None:
    assert choose([need(oldest_version=2)], weights(2), weights(4), 1) is None
    assert choose([need(oldest_version=2)], weights(2), weights(4), 2) == weights(2)


def test_the_oldest_pinned_version_that_the_engine_has_not_is_next() -> None:
    assert next_pin(weights(2), [weights(5), weights(2), weights(4)]) == weights(4)
    assert next_pin(weights(2), [weights(2)]) is None
    assert next_pin(None, []) is None


def test_a_training_prompt_begins_with_any_weights_within_the_bound() -> None:
    wanted = need(oldest_version=3)
    assert is_met(wanted, weights(3), None, oldest_trainable(wanted, weights(4), 1))
    assert not is_met(wanted, weights(2), None, oldest_trainable(wanted, weights(3), 1))
    assert not is_met(wanted, weights(3), None, oldest_trainable(wanted, weights(5), 1)), "the next step is 6"
    assert not is_met(wanted, None, None, 0)


def test_a_training_prompt_waits_where_older_weights_are_about_to_be_loaded() -> None:
    wanted = need(oldest_version=3)
    assert not is_met(wanted, weights(4), weights(2), oldest_trainable(wanted, weights(4), 1))
    assert is_met(wanted, weights(4), weights(3), oldest_trainable(wanted, weights(4), 1))


def test_a_pinned_prompt_begins_with_exactly_its_weights() -> None:
    wanted = need(pinned=weights(3))
    assert is_met(wanted, weights(3), None, 99)
    assert not is_met(wanted, weights(3, sha256="b"), None, 0)
    assert not is_met(wanted, weights(4), None, 0)
