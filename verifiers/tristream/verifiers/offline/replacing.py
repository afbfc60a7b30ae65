"""How another verifier judges logged rollouts, and what its verdicts make of their rewards."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tristream.runtime.store import BlobError
from tristream.verifiers.contract import Unscorable
from tristream.verifiers.definition import Need, Scope
from tristream.verifiers.offline.describing import Description
from tristream.verifiers.offline.logged_groups import LoggedGroup
from tristream.verifiers.offline.plain_lines import weigh
from tristream.verifiers.offline.questions import FinalReward
from tristream.verifiers.offline.rescored_file import RescoredRollout, cut
from tristream.verifiers.pool.tasks import Judgement, Task, Verdict
from tristream.verifiers.service.answers import Answer
from tristream.verifiers.service.conversion import to_contract
from tristream.verifiers.service.preparing import Parameters
from tristream.wire.events import Image, RewardTerm, Rollout, Status


class Replacement:
    """One verifier in the place of another.

    Args:
        description: what the verifier declares.
        params: laid over the parameters of a term.
        weights: of its components, if it is compared alone; empty for those of the term that it replaces.
        final_reward: combines the components of a rollout.
        read_image: reads the bytes of an image, for verifiers that need them.
        completion: completes parameters by what only a rollout knows.
    """

    def __init__(
        self,
        description: Description,
        params: Mapping[str, Any],
        weights: Mapping[str, float],
        final_reward: FinalReward,
        *,
        read_image: Callable[[Image], bytes],
        completion: Parameters,
    ) -> None:
        self._name = description.name
        self._versioned_name = description.versioned_name
        self._params = params
        self._weights = weights
        self._final_reward = final_reward
        self._read_image = read_image if Need.IMAGES in description.needs else None
        self._completion = completion
        self.is_of_groups = description.scope == Scope.GROUP

    def tasks(self, logged: LoggedGroup, indexes: Sequence[int]) -> list[Task | Verdict]:
        """What the pool is asked about rollouts of a group, or why it cannot be: one for all, or one for each."""
        answers = [logged.answers[index] for index in indexes]
        units = [answers] if self.is_of_groups else [[answer] for answer in answers]
        return [self._task(unit) for unit in units]

    def rescored(self, logged: LoggedGroup, index: int, verdict: Verdict, place: int) -> RescoredRollout:
        """What a verdict makes of a rollout; ``place`` is where the verdict has it."""
        rollout = logged.answers[index].rollout
        judgement = verdict.judgements[place] if verdict.status is Status.SCORED else None
        new = None if judgement is None else self._reward(rollout, logged, judgement)
        detail = verdict.detail
        if judgement is not None and new is None:
            detail = "its components make no reward with the weights of the row; give --weights"
        return RescoredRollout(
            index=index,
            old=logged.worths[index],
            new=new,
            status=str(verdict.status),
            detail=detail,
            components={} if judgement is None else _values(judgement),
            text=cut(rollout.text),
        )

    def _task(self, answers: Sequence[Answer]) -> Task | Verdict:
        first = answers[0].rollout
        try:
            params_json = json.dumps({**self._own_params(first), **self._params})
            if self._completion.concern(params_json):
                params_json = self._completion.complete(first, params_json)
            rollouts = tuple(to_contract(answer, self._images(answer.rollout)) for answer in answers)
        except (Unscorable, ValueError) as error:
            return Verdict(status=Status.UNSCORABLE, detail=str(error))
        except BlobError as error:
            return Verdict(status=Status.ERROR, detail=str(error))
        return Task(verifier=self._versioned_name, rollouts=rollouts, params_json=params_json)

    def _images(self, rollout: Rollout) -> tuple[bytes, ...]:
        return () if self._read_image is None else tuple(map(self._read_image, rollout.images))

    def _reward(self, rollout: Rollout, logged: LoggedGroup, judgement: Judgement) -> float | None:
        term = self._replaced_term(rollout)
        if term is None:
            return weigh(self._weights, judgement, self._final_reward)
        said = logged.components.get(rollout.index, {})
        return self._final_reward(rollout.reward, {**said, term.id: _values(judgement)})

    def _replaced_term(self, rollout: Rollout) -> RewardTerm | None:
        if self._weights:
            return None
        return next((term for term in rollout.reward.terms if term.counts and term.verifier == self._name), None)

    def _own_params(self, rollout: Rollout) -> dict[str, Any]:
        asking = (term.params_json for term in rollout.reward.terms if term.verifier == self._name)
        params = json.loads(next(asking, "{}"))
        return params if isinstance(params, dict) else {}


def _values(judgement: Judgement) -> dict[str, float | None]:
    return {**judgement.components, **dict.fromkeys(judgement.abstained)}
