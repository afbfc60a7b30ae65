"""Rollouts in hand: each until all its rewards are acknowledged."""

import threading

from tristream.verifiers.service.answers import Answer
from tristream.verifiers.service.window import Ticket


class RolloutInHand:
    """One rollout and what is still to come of it."""

    __slots__ = ("answer", "num_to_come", "tickets")

    def __init__(self, answer: Answer, ticket: Ticket, num_to_come: int) -> None:
        self.answer = answer
        self.tickets = [ticket]
        """Its record; a second one if it was read again meanwhile, as its partition had moved."""
        self.num_to_come = num_to_come
        """Rewards that are not acknowledged yet."""


class RolloutsInHand:
    """The rollouts in hand by their ids; any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rollouts: dict[str, RolloutInHand] = {}

    def __len__(self) -> int:
        return len(self._rollouts)

    def meets(self, rollout_id: str, ticket: Ticket) -> bool:
        """Whether a rollout is in hand already; a record of it that came again is settled with it.

        A producer that died may have answered a prompt twice, with another text. Whoever joins rollouts and rewards
        takes the first of each, so of two records of one rollout only the first is judged.
        """
        with self._lock:
            known = self._rollouts.get(rollout_id)
            if known is None:
                return False
            if not known.tickets[-1].is_beside(ticket):
                known.tickets.append(ticket)
                return True
        ticket.settle()
        return True

    def add(self, answer: Answer, ticket: Ticket, num_to_come: int) -> RolloutInHand:
        """Take a rollout into hand, of which so many rewards are to come."""
        rollout = RolloutInHand(answer, ticket, num_to_come)
        with self._lock:
            self._rollouts[answer.rollout.id] = rollout
        return rollout

    def count_down(self, rollout: RolloutInHand) -> None:
        """One more of its rewards is acknowledged, or will never be; with the last one its records are settled."""
        with self._lock:
            rollout.num_to_come -= 1
            if rollout.num_to_come > 0:
                return
            if self._rollouts.get(rollout.answer.rollout.id) is rollout:
                del self._rollouts[rollout.answer.rollout.id]
        for ticket in rollout.tickets:
            ticket.settle()

    def drop(self, rollout: RolloutInHand) -> None:
        """Judge it anew when its record is read again."""
        with self._lock:
            if self._rollouts.get(rollout.answer.rollout.id) is rollout:
                del self._rollouts[rollout.answer.rollout.id]
