"""``tristream rescore``: what the rollouts of a run would have been worth by another verifier.

    log -> settled groups -> pool -> scores.jsonl -> comparison by source

A rollout keeps its own definition of reward: a verifier of the name of one of its terms takes the place of that term,
with its weights and parameters. One of another name is compared alone with the final reward.
"""

import os
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from tristream.config.run_file import RunFile
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.store import open_store
from tristream.verifiers.adapters.image_grid import ImageSizes
from tristream.verifiers.loading import code_sha256
from tristream.verifiers.offline.comparison import Comparison
from tristream.verifiers.offline.describing import Description, describe
from tristream.verifiers.offline.logged_groups import TOPICS, Choice, GroupReader, LoggedGroup, open_logs
from tristream.verifiers.offline.pools import running_pool
from tristream.verifiers.offline.questions import FinalReward
from tristream.verifiers.offline.replacing import Replacement
from tristream.verifiers.offline.rescored_file import Definition, RescoredFile, RescoredRollout
from tristream.verifiers.offline.served import serve_one
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.pool.tasks import Task, Verdict
from tristream.verifiers.service.images import ImageReader

NICENESS = 10
"""The run goes first."""
WINDOW_GROUPS = 64
"""Groups on their way through the pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is asked for."""

    entry_point: str
    """``module:name``, ``file.py:name``, or the name of an installed or built-in verifier."""
    choice: Choice
    params: Mapping[str, Any]
    """Laid over the parameters of a term."""
    weights: Mapping[str, float]
    """Of the components of the verifier, which is compared alone then; empty for those of the term."""

    def definition(self, description: Description) -> Definition:
        """What the rollouts are rescored by."""
        return Definition(
            verifier=description.versioned_name,
            entry_point=description.entry_point,
            code_sha256=code_sha256(description.entry_point),
            params=self.params,
            weights=self.weights,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """What came of it."""

    verifier: str
    """``NAME@VERSION``."""
    path: str
    """File of all results."""
    num_groups: int
    """Groups that were rescored this time."""
    num_known: int
    """Groups that were rescored before."""
    num_unsettled: int
    """Groups that the run has not settled yet."""
    sources: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    logged: LoggedGroup
    indexes: Sequence[int]
    """Rollouts that are judged, in order."""
    verdicts: "Sequence[Verdict | Future[Verdict]]"


def rescore(
    settings: RunFile, folder: RunFolder, wish: Wish, final_reward: FinalReward, *, num_workers: int
) -> Rescored:
    """Score the settled groups of a run, as far as that has not been done; the run is left alone.

    Args:
        settings: the run.
        folder: where it is; the results go there.
        wish: which verifier judges which groups.
        final_reward: combines the components of a rollout.
        num_workers: processes that judge; 0 for one a core.

    Raises:
        UserError: the verifier cannot be loaded, or there is no log.
        TryAgainError: the broker does not answer, or the processes do not work.
    """
    os.nice(NICENESS)
    description = describe(wish.entry_point)
    replacement = Replacement(
        description,
        wish.params,
        wish.weights,
        final_reward,
        read_image=ImageReader(partial(open_store, settings.store, folder), stop=threading.Event()).read,
        completion=ImageSizes(settings.model.path, partial(open_store, settings.store, folder)),
    )
    with closing(RescoredFile(folder.path, wish.definition(description))) as file:
        num_known = len(file.known)
        reader = GroupReader(wish.choice, file.known.__contains__)
        with open_logs(settings, folder) as logs, running_pool(serve_one(description), num_workers) as pool:
            for log in logs:
                with closing(log.reader(TOPICS)) as records:
                    for logged, rollouts in _judge(reader.read(records.read_to_end()), replacement, pool):
                        file.append(logged.group.number, logged.group.source, logged.step, rollouts)
        return Rescored(
            verifier=description.versioned_name,
            path=str(file.path),
            num_groups=len(file.known) - num_known,
            num_known=num_known,
            num_unsettled=reader.num_unsettled,
            sources=tuple(file.compare(wish.choice)),
        )


def _judge(
    groups: Iterator[LoggedGroup], replacement: Replacement, pool: Pool
) -> Iterator[tuple[LoggedGroup, list[RescoredRollout]]]:
    waiting: deque[_Asked] = deque()
    for logged in groups:
        indexes = [index for index in sorted(logged.worths) if index in logged.answers]
        if indexes:
            waiting.append(_ask(logged, indexes, replacement, pool))
        if len(waiting) > WINDOW_GROUPS:
            yield _conclude(waiting.popleft(), replacement)
    while waiting:
        yield _conclude(waiting.popleft(), replacement)


def _ask(logged: LoggedGroup, indexes: Sequence[int], replacement: Replacement, pool: Pool) -> _Asked:
    tasks = replacement.tasks(logged, indexes)
    futures = iter(pool.submit([task for task in tasks if isinstance(task, Task)]))
    verdicts = [next(futures) if isinstance(task, Task) else task for task in tasks]
    return _Asked(logged=logged, indexes=indexes, verdicts=verdicts)


def _conclude(asked: _Asked, replacement: Replacement) -> tuple[LoggedGroup, list[RescoredRollout]]:
    verdicts = [known if isinstance(known, Verdict) else known.result() for known in asked.verdicts]
    num_rollouts = len(asked.indexes)
    if replacement.is_of_groups:
        placed = [(verdicts[0], place) for place in range(num_rollouts)]
    else:
        placed = [(verdict, 0) for verdict in verdicts]
    return asked.logged, [
        replacement.rescored(asked.logged, index, verdict, place)
        for index, (verdict, place) in zip(asked.indexes, placed, strict=True)
    ]
