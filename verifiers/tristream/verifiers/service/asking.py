"""What is asked of which verifier: one rollout, or all of a group once they are here."""

from collections.abc import Mapping
from dataclasses import dataclass

from tristream.verifiers.definition import Scope
from tristream.verifiers.pool.tasks import Verdict, VerifierFacts
from tristream.verifiers.service.gathering import Gatherer
from tristream.verifiers.service.in_hand import RolloutInHand, RolloutsInHand
from tristream.verifiers.service.window import Lane, Ticket
from tristream.wire.events import FinishReason, RewardTerm, Status
from tristream.wire.verifiers import versioned_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call of a verifier."""

    term: RewardTerm
    facts: VerifierFacts
    rollouts: tuple[RolloutInHand, ...]
    """One, or those of a group that have an answer."""
    left_out: tuple[RolloutInHand, ...] = ()
    """Those of the group that have none. All of a group are settled together, so that it is read again whole."""
    verdict: Verdict | None = None
    """What came of it, if that is known without calling."""

    @property
    def verifier(self) -> str:
        """``NAME@VERSION``."""
        return versioned_name(self.term.verifier, self.term.version)

    @property
    def lane(self) -> Lane:
        """Which credits it uses."""
        return Lane.ASYNC if self.facts.is_async else Lane.PURE


class Asker:
    """Makes the calls for rollouts; used by one thread, but for ``settle``.

    Args:
        facts: of the verifiers that are served, by ``NAME@VERSION``.
        in_hand: is told of rewards that will never be.
        group_wait_seconds: how long the rest of a group is waited for, by the time of the log.
        from_ns: a group that is not complete because it began before this time is left out.
    """

    def __init__(
        self,
        facts: Mapping[str, VerifierFacts],
        in_hand: RolloutsInHand,
        *,
        group_wait_seconds: float,
        from_ns: int = 0,
    ) -> None:
        self._facts = facts
        self._in_hand = in_hand
        self._group_wait_seconds = group_wait_seconds
        self._groups: Gatherer[RolloutInHand] = Gatherer(group_wait_seconds)
        self._fair_from_ns = from_ns + int(group_wait_seconds * 1e9) if from_ns else 0

    def ask(self, rollout: RolloutInHand, term: RewardTerm, ticket: Ticket, timestamp_ns: int) -> Ask | None:
        """The call that is due now for a term of a rollout; None if its group is waited for, or it gets no reward."""
        facts = self._facts[versioned_name(term.verifier, term.version)]
        if facts.scope is Scope.ROLLOUT:
            return Ask(term=term, facts=facts, rollouts=(rollout,))
        answer = rollout.answer.rollout
        if self._groups.has(ticket.partition, answer.group, term, answer.index):
            self._in_hand.count_down(rollout)
            return None
        has_answer = answer.finish_reason is not FinishReason.ERROR
        group = self._groups.add(
            ticket.partition, answer.group, term, answer.index, rollout, timestamp_ns, has_answer=has_answer
        )
        if group is None:
            return None
        ask = Ask(term=term, facts=facts, rollouts=tuple(group.in_order), left_out=tuple(group.left_out.values()))
        if not ask.rollouts:
            self.settle(ask)
            return None
        return ask

    def settle(self, ask: Ask) -> None:
        """All rewards of a call are acknowledged, or it gets none."""
        for rollout in (*ask.rollouts, *ask.left_out):
            self._in_hand.count_down(rollout)

    def give_up(self, ticket: Ticket, now_ns: int) -> list[Ask]:
        """The groups of a partition that were waited for long enough, with an error each."""
        asks = []
        for group in self._groups.give_up(ticket.partition, now_ns):
            detail = (
                f"the group is incomplete: {group.num_here} of {group.group.size} rollouts "
                f"after {self._group_wait_seconds:g} s"
            )
            ask = Ask(
                term=group.term,
                facts=self._facts[versioned_name(group.term.verifier, group.term.version)],
                rollouts=tuple(group.in_order),
                left_out=tuple(group.left_out.values()),
                verdict=Verdict(status=Status.ERROR, detail=detail),
            )
            if ask.rollouts and group.since_ns >= self._fair_from_ns:
                asks.append(ask)
            else:
                self.settle(ask)
        return asks

    def forget(self) -> None:
        """The partitions move: what waits for the rest of its group is judged when it is read again."""
        for rollout in self._groups.forget():
            self._in_hand.drop(rollout)
