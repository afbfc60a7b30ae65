"""Publishing the rewards of verdicts, in a thread of its own: a broker that is away must not hold up the pool."""

import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue

from tristream.runtime.bus.protocol import Bus, EventTooLargeError
from tristream.verifiers.pool.tasks import Verdict
from tristream.verifiers.service.asking import Ask
from tristream.verifiers.service.rewards import judgement_of, make_reward, without_details
from tristream.wire.events import Reward, Status
from tristream.wire.topics import REWARDS
from tristream.wire.verifiers import versioned_name

LOG = logging.getLogger("tristream.verifier")


class RewardPublisher:
    """Publishes the rewards of calls; any thread may use it.

    Args:
        bus: where they go.
        settle: is told of each call whose rewards are all acknowledged.
        fail: is told of an error that concerns more than one call, such as a broker that refuses a reward.
        zero_on_timeout: whether an answer on which a verifier uses up its limits counts as a wrong one.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        settle: Callable[[Ask], None],
        fail: Callable[[BaseException], None],
        zero_on_timeout: bool,
    ) -> None:
        self._bus = bus
        self._settle = settle
        self._fail = fail
        self._zero_on_timeout = zero_on_timeout
        self._verdicts: SimpleQueue[tuple[Ask, Verdict] | None] = SimpleQueue()
        self.num_by_status: Counter[Status] = Counter()
        """Rewards published, by status."""
        self.num_scored: Counter[str] = Counter()
        """Rewards published with a number, by ``NAME@VERSION``."""
        threading.Thread(target=self._run, name="verifier-rewards", daemon=True).start()

    def publish(self, ask: Ask, verdict: Verdict) -> None:
        """Publish the rewards of a call, in a moment."""
        self._verdicts.put((ask, verdict))

    def close(self) -> None:
        """Publish nothing more."""
        self._verdicts.put(None)

    def _run(self) -> None:
        try:
            while (item := self._verdicts.get()) is not None:
                self._publish_all(*item)
        except BaseException as error:
            self._fail(error)

    def _publish_all(self, ask: Ask, verdict: Verdict) -> None:
        if verdict.status in (Status.TIMEOUT, Status.ERROR):
            first = ask.rollouts[0].answer.rollout.id
            LOG.warning("%s (%s) of %s: %s: %s", ask.term.id, ask.verifier, first, verdict.status, verdict.detail)
        to_come = itertools.count(len(ask.rollouts) - 1, -1)
        for place in range(len(ask.rollouts)):
            sent = self._publish(self._reward_of(ask, verdict, place))
            sent.add_done_callback(partial(self._take_acknowledgement, ask, to_come))

    def _reward_of(self, ask: Ask, verdict: Verdict, place: int) -> Reward:
        rollout = ask.rollouts[place].answer.rollout
        try:
            judgement = judgement_of(verdict, place, ask.facts, zero_on_timeout=self._zero_on_timeout)
            return make_reward(rollout, ask.term, verdict, judgement)
        except Exception as error:  # a verdict that is none concerns this rollout alone
            return without_details(make_reward(rollout, ask.term, verdict), f"{type(error).__name__}: {error}")

    def _publish(self, reward: Reward) -> "Future[None]":
        try:
            sent = self._bus.publish(REWARDS, reward)
        except (EventTooLargeError, TypeError, ValueError, RecursionError) as error:
            reward = without_details(reward, str(error))
            sent = self._bus.publish(REWARDS, reward)
        self.num_by_status[reward.status] += 1
        self.num_scored[versioned_name(reward.verifier, reward.version)] += reward.status is Status.SCORED
        return sent

    def _take_acknowledgement(self, ask: Ask, to_come: Iterator[int], sent: "Future[None]") -> None:
        """Called by the thread of the bus: whatever is raised here would be lost."""
        error = sent.exception()
        if error is not None:
            self._fail(error)
        elif next(to_come) == 0:
            self._settle(ask)
