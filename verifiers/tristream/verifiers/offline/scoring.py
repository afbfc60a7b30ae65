"""One line in, one line out, in the same order, judged by a pool; only a window of lines is in memory."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice

from tristream.verifiers.definition import Scope
from tristream.verifiers.offline.lines_of_file import Line, parse_object
from tristream.verifiers.offline.questions import Answer, LineError, LineFormat, Question
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.pool.tasks import Task, Verdict
from tristream.wire.events import Status

TASKS_PER_SUBMISSION = 16
WINDOW = 1024
"""Most tasks on their way, so that a slow one delays no other for long."""
MAX_GROUP_LINES = 4096
"""A longer group is judged in parts."""

Item = tuple[Line, Question | Answer]
"""A line, and what it asks, or the answer to a bad one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Neighbouring lines that are judged together, and their verdict, which is to come."""

    items: Sequence[Item]
    verdict: "Future[Verdict] | None" = None


def score_lines(
    lines: Iterable[Line], line_format: LineFormat, pool: Pool, *, window: int = WINDOW
) -> Iterator[tuple[Line, Answer]]:
    """Answer each line, in order.

    Raises:
        PoolError: the pool ended.
    """
    waiting: deque[_Asked] = deque()
    gathered = _gather(_read(lines, line_format), pool)
    while batch := list(islice(gathered, TASKS_PER_SUBMISSION)):
        waiting.extend(_submit(batch, pool))
        while len(waiting) > window:
            yield from _answers(waiting.popleft(), line_format)
    while waiting:
        yield from _answers(waiting.popleft(), line_format)


def _read(lines: Iterable[Line], line_format: LineFormat) -> Iterator[Item]:
    for line in lines:
        fields = {}
        try:
            fields = parse_object(line.data)
            yield line, line_format.read(fields)
        except LineError as error:
            yield line, Answer(fields={**fields, "error": f"line {line.number}: {error}"})


def _gather(items: Iterable[Item], pool: Pool) -> Iterator[list[Item]]:
    """Lines that are judged together: one, but for neighbours of one group and a verifier of groups."""
    together: list[Item] = []
    for item in items:
        key = _group_key(item[1], pool)
        if together and (key is None or key != _group_key(together[0][1], pool) or len(together) == MAX_GROUP_LINES):
            yield together
            together = []
        together.append(item)
        if key is None:
            yield together
            together = []
    if together:
        yield together


def _group_key(asked: Question | Answer, pool: Pool) -> tuple[str, str, str] | None:
    if isinstance(asked, Answer) or asked.known is not None or not asked.group:
        return None
    is_of_groups = pool.facts[asked.verifier].scope is Scope.GROUP
    return (asked.verifier, asked.params_json, asked.group) if is_of_groups else None


def _submit(batch: Sequence[Sequence[Item]], pool: Pool) -> list[_Asked]:
    tasks = [_task(items) for items in batch]
    verdicts = iter(pool.submit([task for task in tasks if task is not None]))
    return [
        _Asked(items=items, verdict=None if task is None else next(verdicts))
        for items, task in zip(batch, tasks, strict=True)
    ]


def _task(items: Sequence[Item]) -> Task | None:
    questions = [asked for _, asked in items if isinstance(asked, Question)]
    if not questions or questions[0].known is not None:
        return None
    first = questions[0]
    return Task(
        verifier=first.verifier,
        rollouts=tuple(question.rollout for question in questions),
        params_json=first.params_json,
    )


def _answers(asked: _Asked, line_format: LineFormat) -> Iterator[tuple[Line, Answer]]:
    for place, (line, question) in enumerate(asked.items):
        if isinstance(question, Answer):
            yield line, question
            continue
        verdict = question.known if asked.verdict is None else asked.verdict.result()
        assert verdict is not None, "a question without a task has its verdict"
        judgement = verdict.judgements[place] if verdict.status is Status.SCORED else None
        yield line, line_format.write(question, verdict, judgement)
