"""From records of the rollouts topic to their rewards.

A worker serves verifier versions. Every term of a rollout that asks for one of them gets exactly one reward,
whatever happens to the scoring, and whether the term counts or is a shadow; a record that is not a rollout becomes
a dead letter. Each reward is published as soon as its score is there, and ``handle`` returns when all of them are
acknowledged.

A producer that died may have answered a prompt twice, with another text. Whoever joins rollouts and
rewards takes the first of each, so of two records of one rollout only the first is judged.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tristream.runtime.bus.protocol import Bus, Record
from tristream.runtime.bus.records import LogStart, decode_record, foreign_contract
from tristream.runtime.store import BlobError
from tristream.verifiers.service.child import Task, Verdict
from tristream.verifiers.service.pool import Pool
from tristream.verifiers.verifier import ScoringRequest, Verifier
from tristream.wire.arrays import Tokens
from tristream.wire.events import Reward, RewardTerm, Rollout, Status, TermMode, given
from tristream.wire.topics import BARRIER_HEADER, ROLLOUTS, VERIFIERS_HEADER
from tristream.wire.verifiers import versioned_name

LOG = logging.getLogger("tristream.verifier")

CompleteParams = Callable[[Rollout, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Completes the parameters of a term with what only the rollout knows."""
PublishReward = Callable[[Reward], Awaitable[None]]
"""Sends a reward and returns when the broker has it."""


class RolloutScorer:
    """Judges rollouts and publishes the rewards; dead letters go to ``bus``.

    The served verifiers are known by ``NAME@VERSION``, here and in the pool.
    """

    def __init__(
        self,
        served: Mapping[str, type[Verifier]],
        pool: Pool,
        publish: PublishReward,
        *,
        bus: Bus,
        complete_params: CompleteParams | None = None,
    ) -> None:
        self._served = served
        self._pool = pool
        self._publish = publish
        self._bus = bus
        self._complete_params = complete_params
        self._log_start = LogStart()
        self.num_by_status: Counter[Status] = Counter()
        """Rewards published, by status."""
        self.num_scored: Counter[str] = Counter()
        """Rewards published with a number, by ``NAME@VERSION``."""
        self.num_dead_letters = 0

    async def handle(self, records: Sequence[Record[bytes]]) -> None:
        """Publish what the records call for; returns when all of it is acknowledged.

        Args:
            records: in the order of the log; of two records of one rollout the first counts.

        Raises:
            UserError: the log was begun under another contract.
        """
        num_dead_letters = self.num_dead_letters
        rollouts: dict[str, Rollout] = {}
        for record in records:
            rollout = self._read(record)
            if rollout is not None:
                rollouts.setdefault(rollout.id, without_arrays(rollout))
        work = [(rollout, term) for rollout in rollouts.values() for term in self._served_terms(rollout)]
        # Groups wait for what counts: shadows take their turn behind it.
        work.sort(key=lambda pair: pair[1].mode is TermMode.SHADOW)
        await asyncio.gather(*[self._score(rollout, term) for rollout, term in work])
        if self.num_dead_letters > num_dead_letters:
            await asyncio.to_thread(self._bus.flush)

    def wants(self, record: Record[bytes]) -> bool:
        """Whether the record may need a served verifier, by its headers alone."""
        header = record.headers.get(VERIFIERS_HEADER)
        return header is None or not self._served.keys().isdisjoint(header.decode(errors="replace").split(","))

    def _read(self, record: Record[bytes]) -> Rollout | None:
        """The rollout, if it needs a served verifier; a dead letter goes out if it cannot be read."""
        is_barrier = BARRIER_HEADER in record.headers
        is_first = self._log_start.is_first(record.topic, record.partition, record.offset, is_barrier=is_barrier)
        if is_barrier:
            return None
        if foreign_contract(record.headers) is None and not self.wants(record):
            return None
        decoded = decode_record(self._bus, ROLLOUTS, record, is_first=is_first)
        if decoded is None:
            self.num_dead_letters += 1
            return None
        rollout: Rollout = decoded.event
        return rollout

    def _served_terms(self, rollout: Rollout) -> list[RewardTerm]:
        return [term for term in rollout.reward.terms if versioned_name(term.verifier, term.version) in self._served]

    async def _score(self, rollout: Rollout, term: RewardTerm) -> None:
        """Publish the reward of one term."""
        queued_seconds = max(0.0, (time.time_ns() - rollout.created_ns) / 1e9)
        served_name = versioned_name(term.verifier, term.version)
        verdict = await self._judge(rollout, term, served_name)
        if verdict.status in (Status.TIMEOUT, Status.ERROR):
            LOG.warning("%s (%s) of %s: %s: %s", term.id, served_name, rollout.id, verdict.status, verdict.detail)
        reward = Reward(
            group=rollout.group,
            index=rollout.index,
            term_id=term.id,
            verifier=term.verifier,
            version=term.version,
            mode=term.mode,
            status=verdict.status,
            detail=verdict.detail,
            components=verdict.components,
            metrics=verdict.metrics,
            params_json=json.dumps(verdict.params_used, sort_keys=True),
            queued_seconds=queued_seconds,
            score_seconds=verdict.score_seconds,
            created_ns=time.time_ns(),
        )
        await self._publish(reward)
        self.num_by_status[verdict.status] += 1
        self.num_scored[served_name] += verdict.status is Status.SCORED

    async def _judge(self, rollout: Rollout, term: RewardTerm, served_name: str) -> Verdict:
        """What the verifier says, or why it cannot be asked."""
        try:
            params = parse_params(term.params_json)
            if self._complete_params is not None:
                params = await self._complete_params(rollout, params)
        except ValueError as error:
            return Verdict(status=Status.UNSCORABLE, detail=f"the parameters are unusable: {error}")
        except BlobError as error:
            return Verdict(status=Status.ERROR, detail=str(error))
        task = Task(verifier=served_name, request=make_scoring_request(rollout, params))
        return await asyncio.wrap_future(self._pool.submit([task])[0])


def without_arrays(rollout: Rollout) -> Rollout:
    """The rollout with its images but without its tokens and log-probabilities: a verifier reads text."""
    return replace(rollout, segments=(given(Tokens(), rollout.images),))


def parse_params(params_json: str) -> dict[str, Any]:
    """The parameters of a term as a dict.

    Raises:
        ValueError: the text is not a JSON object.
    """
    params = json.loads(params_json or "{}")
    if not isinstance(params, dict):
        raise ValueError(f"not a JSON object: {params_json[:80]!r}")
    return params


def make_scoring_request(rollout: Rollout, params: Mapping[str, Any]) -> ScoringRequest:
    """What a verifier sees of a rollout."""
    return ScoringRequest(
        text=rollout.text,
        prompt_text=rollout.prompt_text,
        ground_truth=rollout.reward.ground_truth,
        params=params,
        step=rollout.progress.step,
        total_steps=rollout.progress.total_steps,
    )
