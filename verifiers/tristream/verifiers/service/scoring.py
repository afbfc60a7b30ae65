"""From records of the rollouts topic to their rewards.

    records -> rollouts -> calls -> tasks -> pool -> verdicts -> rewards -> bus -> acknowledged -> ticket settled

Every term of a rollout that asks for a verifier version which is served gets exactly one reward, whatever happens to
the scoring, and whether the term counts or is a shadow; a record that is not a rollout becomes a dead letter. Each
reward is published as soon as its score is there, by the thread that has it. Nothing here waits for another rollout,
but for those of its group where a verifier judges groups. What concerns more than one rollout, such as a broker that
refuses a reward, ends the work (``Window.fail``).
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

from tristream.runtime.bus.protocol import Bus, Record
from tristream.runtime.errors import StoppedError
from tristream.verifiers.pool.tasks import PoolError, Task, Verdict
from tristream.verifiers.pool.texts import clean
from tristream.verifiers.service.asking import Ask, Asker
from tristream.verifiers.service.in_hand import RolloutsInHand
from tristream.verifiers.service.preparing import Preparer
from tristream.verifiers.service.publishing import RewardPublisher
from tristream.verifiers.service.reading import BuriedError, RolloutReader
from tristream.verifiers.service.terms import Serving
from tristream.verifiers.service.window import Ticket, Window
from tristream.wire.events import Status

NUM_HELPERS = 4
"""Threads for what waits for the store or the broker."""

TakenRecord = tuple[Record[bytes], Ticket]


class TaskPool(Protocol):
    """Where tasks are judged."""

    def submit(self, tasks: Sequence[Task]) -> list["Future[Verdict]"]:
        """Judge tasks; each future gets a verdict, or ``PoolError`` if the pool ends."""
        ...


class RolloutScorer:
    """Judges rollouts and publishes the rewards on ``bus``, and the dead letters.

    Args:
        serving: the verifier versions that are served.
        pool: where they are called.
        bus: where the rewards go.
        window: what is in hand.
        preparer: makes tasks; by default without a store.
        zero_on_timeout: whether an answer on which a verifier uses up its limits counts as a wrong one.
        group_wait_seconds: how long the rest of a group is waited for, by the time of the log.
    """

    def __init__(
        self,
        serving: Serving,
        pool: TaskPool,
        bus: Bus,
        window: Window,
        *,
        preparer: Preparer | None = None,
        zero_on_timeout: bool = True,
        group_wait_seconds: float = 300.0,
    ) -> None:
        self._serving = serving
        self._pool = pool
        self._bus = bus
        self._window = window
        self._preparer = preparer or Preparer()
        self._reader = RolloutReader(serving, bus)
        self._in_hand = RolloutsInHand()
        from_ns = serving.shadow.from_ns if serving.shadow is not None else 0
        self._asker = Asker(serving.facts, self._in_hand, group_wait_seconds=group_wait_seconds, from_ns=from_ns)
        self._helpers = ThreadPoolExecutor(NUM_HELPERS, thread_name_prefix="verifier-helper")
        self._publisher = RewardPublisher(bus, settle=self._settle, fail=window.fail, zero_on_timeout=zero_on_timeout)

    @property
    def num_by_status(self) -> Mapping[Status, int]:
        """Rewards published, by status."""
        return self._publisher.num_by_status

    @property
    def num_scored(self) -> Mapping[str, int]:
        """Rewards published with a number, by ``NAME@VERSION``."""
        return self._publisher.num_scored

    @property
    def num_dead_letters(self) -> int:
        """Records that could not be read."""
        return self._reader.num_dead_letters

    def take(self, records: Sequence[TakenRecord]) -> None:
        """Take records in hand, those of a partition in the order of the log; their rewards come later.

        Raises:
            UserError: the log was begun under another contract.
            PoolError: nothing can be scored.
            BusError: the broker refused a reward.
            StoppedError: told to stop while the broker was away.
        """
        asks: list[Ask] = []
        buried: list[Ticket] = []
        for record, ticket in records:
            try:
                asks += self._read(record, ticket)
            except BuriedError:
                buried.append(ticket)
        if buried:
            self._help(partial(self._settle_once_flushed, buried))
        for ask in asks:
            self._window.begin(ask.lane, len(ask.rollouts))
        self._ask([ask for ask in asks if not self._preparer.may_wait(ask)])
        for ask in asks:
            if self._preparer.may_wait(ask):
                self._help(partial(self._ask, [ask]))

    def forget(self) -> None:
        """The partitions move: what waits for the rest of its group is judged when it is read again."""
        self._asker.forget()

    def close(self) -> None:
        """End the helpers; what has no reward yet gets none."""
        self._publisher.close()
        self._helpers.shutdown(wait=False, cancel_futures=True)

    def _read(self, record: Record[bytes], ticket: Ticket) -> list[Ask]:
        """The calls that are due by a record; one that needs none is settled."""
        asks = self._asker.give_up(ticket, record.timestamp_ns)
        answer = self._reader.read(record)
        terms = [] if answer is None else self._serving.terms(answer.rollout)
        if answer is None or not terms:
            ticket.settle()
            return asks
        if self._in_hand.meets(answer.rollout.id, ticket):
            return asks
        rollout = self._in_hand.add(answer, ticket, len(terms))
        due = [self._asker.ask(rollout, term, ticket, record.timestamp_ns) for term in terms]
        return asks + [ask for ask in due if ask is not None]

    def _ask(self, asks: Sequence[Ask]) -> None:
        """Hand calls to the pool, all of them in one message."""
        asked: list[Ask] = []
        tasks: list[Task] = []
        for ask in asks:
            prepared = self._preparer.prepare(ask)
            if isinstance(prepared, Verdict):
                self._publisher.publish(ask, prepared)
            else:
                asked.append(ask)
                tasks.append(prepared)
        if tasks:
            for ask, judged in zip(asked, self._submit(tasks), strict=True):
                judged.add_done_callback(partial(self._take_verdict, ask))

    def _submit(self, tasks: Sequence[Task]) -> "list[Future[Verdict]]":
        """Submit tasks, one by one if they cannot be sent together, so that it concerns the poison alone."""
        try:
            return self._pool.submit(tasks)
        except PoolError:
            raise
        except Exception as error:
            if len(tasks) > 1:
                return [judged for task in tasks for judged in self._submit([task])]
            judged: Future[Verdict] = Future()
            judged.set_result(Verdict(status=Status.ERROR, detail=clean(f"{type(error).__name__}: {error}")))
            return [judged]

    def _take_verdict(self, ask: Ask, judged: "Future[Verdict]") -> None:
        """Called by the thread of the pool: whatever is raised here would be lost."""
        error = judged.exception()
        if error is not None:
            self._window.fail(error)
        else:
            self._publisher.publish(ask, judged.result())

    def _settle(self, ask: Ask) -> None:
        """All rewards of a call are acknowledged."""
        self._asker.settle(ask)
        self._window.end(ask.lane, len(ask.rollouts))

    def _settle_once_flushed(self, buried: Sequence[Ticket]) -> None:
        self._bus.flush()
        for ticket in buried:
            ticket.settle()

    def _help(self, work: Callable[[], None]) -> None:
        """Have a helper do what may wait; an error ends all work."""

        def do() -> None:
            try:
                work()
            except BaseException as error:
                self._window.fail(error)

        try:
            self._helpers.submit(do)
        except RuntimeError:
            raise StoppedError from None
