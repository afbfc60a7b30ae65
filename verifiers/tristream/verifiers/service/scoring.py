"""From records of the rollouts topic to their rewards; knows no broker.

Every rollout that asks for a served verifier gets exactly one reward a verifier, whatever happens to
the scoring; a record that is not a rollout becomes a dead letter. Each reward is published as soon as
its score is there, and ``handle`` returns when all of them are acknowledged.

A producer that died may have answered a prompt twice, with another text. Whoever joins rollouts and
rewards takes the first of each, so of two records of one rollout only the first is judged.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tristream.runtime.store import BlobError
from tristream.verifiers.registry import canonical_name
from tristream.verifiers.service.child import Task, Verdict
from tristream.verifiers.service.pool import Pool
from tristream.verifiers.verifier import Request, Verifier
from tristream.wire.events import DeadLetter, Reward, RewardTerm, Rollout, Split, Status
from tristream.wire.topics import DEAD_LETTERS, REWARDS, ROLLOUTS, VERIFIERS_HEADER, Topic

LOG = logging.getLogger("tristream.verifier")

EventT = TypeVar("EventT")

MAX_DEAD_LETTER_BYTES = 4 * 2**20
"""Longer values are cut in their dead letter, so that it fits into a record."""

PrepareParams = Callable[[Rollout, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Completes the parameters of a term with what only the rollout knows."""


class Publish(Protocol):
    """Sends an event and returns when the broker has it."""

    async def __call__(self, topic: Topic[EventT], event: EventT) -> None:
        """Send the event to the topic."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRecord:
    """A record as it comes from the broker."""

    partition: int
    offset: int
    key: bytes
    value: bytes | None
    headers: Mapping[str, bytes]


class RolloutScorer:
    """Judges rollouts with the served verifiers and publishes the rewards."""

    def __init__(
        self,
        verifiers: Mapping[str, type[Verifier]],
        pool: Pool,
        publish: Publish,
        *,
        run: str,
        prepare_params: PrepareParams | None = None,
    ) -> None:
        self._verifiers = verifiers
        self._pool = pool
        self._publish = publish
        self._run = run
        self._prepare_params = prepare_params
        self.num_by_status: Counter[Status] = Counter()
        """Rewards published, by status."""
        self.num_scored: Counter[str] = Counter()
        """Rewards published with a number, by verifier."""
        self.num_dead_letters = 0

    def wants(self, record: RawRecord) -> bool:
        """Whether the record may need a served verifier, by its headers alone."""
        if record.value is None:  # a barrier
            return False
        header = record.headers.get(VERIFIERS_HEADER)
        if header is None:
            return True
        names = {canonical_name(name) for name in header.decode(errors="replace").split(",")}
        return not names.isdisjoint(self._verifiers)

    async def handle(self, records: Sequence[RawRecord]) -> None:
        """Publish what the records call for; returns when all of it is acknowledged.

        Args:
            records: in the order of the log; of two records of one rollout the first counts.
        """
        rollouts: dict[str, Rollout] = {}
        for record in records:
            rollout = await self._read(record)
            if rollout is not None:
                rollouts.setdefault(rollout.id, rollout)
        await asyncio.gather(
            *[self._score(rollout, term) for rollout in rollouts.values() for term in self._served_terms(rollout)]
        )

    async def _read(self, record: RawRecord) -> Rollout | None:
        """The rollout, if it needs a served verifier; a dead letter goes out if it cannot be read."""
        if record.value is None or not self.wants(record):
            return None
        try:
            return ROLLOUTS.codec.decode(record.value)
        except ValueError as error:
            await self._publish_dead_letter(record, record.value, str(error))
            return None

    def _served_terms(self, rollout: Rollout) -> list[RewardTerm]:
        """The terms to score: the first of each verifier, since a reward is known by its verifier's name."""
        terms: dict[str, RewardTerm] = {}
        for term in rollout.reward.terms:
            if canonical_name(term.verifier) in self._verifiers:
                terms.setdefault(term.verifier, term)
        return list(terms.values())

    async def _score(self, rollout: Rollout, term: RewardTerm) -> None:
        queued_seconds = max(0.0, (time.time_ns() - rollout.created_ns) / 1e9)
        name = canonical_name(term.verifier)
        try:
            params = parse_params(term.params_json)
            if self._prepare_params is not None:
                params = await self._prepare_params(rollout, params)
        except ValueError as error:
            verdict = Verdict(status=Status.UNSCORABLE, detail=f"the parameters are unusable: {error}")
        except BlobError as error:
            verdict = Verdict(status=Status.ERROR, detail=str(error))
        else:
            task = Task(verifier=name, request=make_request(rollout, params))
            verdict = await asyncio.wrap_future(self._pool.submit([task])[0])
        if verdict.status in (Status.TIMEOUT, Status.ERROR):
            LOG.warning("%s of %s: %s: %s", name, rollout.id, verdict.status, verdict.detail)
        reward = Reward(
            group=rollout.group,
            index=rollout.index,
            verifier=term.verifier,
            version=self._verifiers[name].version,
            status=verdict.status,
            detail=verdict.detail,
            components=verdict.components,
            metrics=verdict.metrics,
            params_json=json.dumps(verdict.params_used, sort_keys=True),
            queued_seconds=queued_seconds,
            score_seconds=verdict.score_seconds,
            created_ns=time.time_ns(),
        )
        await self._publish(REWARDS, reward)
        self.num_by_status[verdict.status] += 1
        self.num_scored[name] += verdict.status is Status.SCORED

    async def _publish_dead_letter(self, record: RawRecord, value: bytes, error: str) -> None:
        if len(value) > MAX_DEAD_LETTER_BYTES:
            error = f"{error} (value cut from {len(value)} bytes)"
        LOG.warning("dead letter: rollouts partition %d offset %d: %s", record.partition, record.offset, error)
        letter = DeadLetter(
            run=self._run,
            topic=ROLLOUTS.name,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=value[:MAX_DEAD_LETTER_BYTES],
            headers=record.headers,
            error=error,
            part="verifier",
            created_ns=time.time_ns(),
        )
        await self._publish(DEAD_LETTERS, letter)
        self.num_dead_letters += 1


def parse_params(params_json: str) -> dict[str, Any]:
    """The parameters of a term as a dict.

    Raises:
        ValueError: the text is not a JSON object.
    """
    params = json.loads(params_json or "{}")
    if not isinstance(params, dict):
        raise ValueError(f"not a JSON object: {params_json[:80]!r}")
    return params


def make_request(rollout: Rollout, params: Mapping[str, Any]) -> Request:
    """What a verifier sees of a rollout."""
    return Request(
        text=rollout.text,
        prompt_text=rollout.prompt_text,
        ground_truth=rollout.reward.ground_truth,
        params=params,
        step=rollout.progress.step,
        total_steps=rollout.progress.total_steps,
        is_evaluation=rollout.group.split is Split.EVAL,
    )
