"""Judging answers with the verifiers of a run, through the pool and without a broker."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from tristream.assembler.rewards import final_reward
from tristream.config.run_file import RunFile
from tristream.local.trying.judged_groups import JudgedAnswer, TermVerdict
from tristream.runtime.errors import TryAgainError
from tristream.runtime.store import BlobStore
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.definition import Scope
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.pool.tasks import PoolError, Task, Verdict, VerifierFacts
from tristream.verifiers.service.answers import Answer
from tristream.verifiers.service.preparing import Preparer
from tristream.verifiers.service.rewards import judgement_of
from tristream.wire.events import FinishReason, Prompt, RewardTerm, Rollout
from tristream.wire.verifiers import versioned_name


class Judge:
    """Judges groups of rollouts as the verifier worker and the assembler of the run do."""

    def __init__(self, pool: Pool, preparer: Preparer, *, zero_on_timeout: bool) -> None:
        self._pool = pool
        self._preparer = preparer
        self._zero_on_timeout = zero_on_timeout
        self.ranges = {name: facts.components for name, facts in pool.facts.items()}
        """Range of each component, by ``NAME@VERSION``."""

    async def judge(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> tuple[JudgedAnswer, ...]:
        """The rollouts of a prompt, judged; those that failed have no verdict.

        Raises:
            TryAgainError: the processes that judge do not work.
        """
        answered = [rollout for rollout in rollouts if rollout.finish_reason is not FinishReason.ERROR]
        terms = prompt.reward.terms if answered else ()
        by_term = [await self._judge_term(term, answered) for term in terms]
        verdicts = {
            rollout.index: tuple(of_term[place] for of_term in by_term) for place, rollout in enumerate(answered)
        }
        return tuple(_judged(rollout, verdicts.get(rollout.index, ())) for rollout in rollouts)

    async def _judge_term(self, term: RewardTerm, rollouts: Sequence[Rollout]) -> list[TermVerdict]:
        facts = self._pool.facts[versioned_name(term.verifier, term.version)]
        answers = [_to_answer(rollout) for rollout in rollouts]
        calls = [answers] if facts.scope is Scope.GROUP else [[answer] for answer in answers]
        verdicts = await self._ask([self._preparer.prepare_term(term, facts, call) for call in calls])
        return [
            self._term_verdict(term, verdict, place, facts)
            for call, verdict in zip(calls, verdicts, strict=True)
            for place in range(len(call))
        ]

    async def _ask(self, asked: Sequence[Task | Verdict]) -> list[Verdict]:
        try:
            futures = iter(self._pool.submit([task for task in asked if isinstance(task, Task)]))
            return [each if isinstance(each, Verdict) else await asyncio.wrap_future(next(futures)) for each in asked]
        except PoolError as error:
            raise TryAgainError(f"the processes that judge do not work: {error}") from None

    def _term_verdict(self, term: RewardTerm, verdict: Verdict, place: int, facts: VerifierFacts) -> TermVerdict:
        return TermVerdict(
            term=term,
            status=verdict.status,
            detail=verdict.detail,
            judgement=judgement_of(verdict, place, facts, zero_on_timeout=self._zero_on_timeout),
            seconds=verdict.wall_seconds if place == 0 else 0.0,
            is_async=facts.is_async,
        )


@contextmanager
def running_judge(settings: RunFile, prompts: Iterable[Prompt], blobs: BlobStore) -> Iterator[Judge]:
    """A judge with the verifiers that the prompts ask for; its processes end with the block.

    Raises:
        UserError: a verifier cannot be loaded.
        TryAgainError: the processes do not work.
    """
    verification = settings.verification
    terms = {(term.verifier, term.version) for prompt in prompts for term in prompt.reward.terms}
    names = sorted(versioned_name(*pinned) for pinned in terms)
    pool = Pool(
        {name: verification.plug_ins.get(name, "") for name in names},
        num_processes=verification.num_processes,
        cpu_seconds=verification.cpu_seconds,
        wall_seconds=verification.wall_seconds,
        memory_mib=verification.memory_mib,
    )
    preparer = Preparer(blobs.read_image, ImageSizes(settings.model.path, partial(_same, blobs)))
    try:
        pool.start()
        yield Judge(pool, preparer, zero_on_timeout=verification.on_timeout == "zero")
    except PoolError as error:
        raise TryAgainError(f"the processes that judge do not work: {error}") from None
    finally:
        pool.stop()


def _same(blobs: BlobStore) -> BlobStore:
    return blobs


def _judged(rollout: Rollout, verdicts: tuple[TermVerdict, ...]) -> JudgedAnswer:
    if not verdicts:
        return JudgedAnswer(rollout=rollout)
    said = {
        verdict.term.id: {**verdict.judgement.components, **dict.fromkeys(verdict.judgement.abstained)}
        for verdict in verdicts
    }
    return JudgedAnswer(rollout=rollout, verdicts=verdicts, reward=final_reward(rollout.reward, said))


def _to_answer(rollout: Rollout) -> Answer:
    return Answer(
        rollout=rollout,
        num_prompt_tokens=rollout.num_prompt_tokens,
        num_sampled_tokens=rollout.num_sampled_tokens,
    )
