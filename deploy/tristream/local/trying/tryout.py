"""A tryout: a few groups of each source, answered by the model of a run and judged by its verifiers, in this process.

    choose prompts -> source by source: answer (engine) -> judge (pool) -> figures, pace, advice

Nothing is written, and no broker is asked. What is there when it is interrupted counts.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from tristream.config.run_file import RunFile
from tristream.local.preflight import check_inputs
from tristream.local.trying.advice import Advice, find_advice
from tristream.local.trying.answering import Answering, open_answering
from tristream.local.trying.choosing import choose_prompts
from tristream.local.trying.figures import SourceFigures, compute_figures
from tristream.local.trying.judged_groups import JudgedGroup, highest_reward
from tristream.local.trying.judging import Judge, running_judge
from tristream.local.trying.pace import Pace, compute_pace
from tristream.runtime.store import BlobStore
from tristream.wire.events import Prompt

NO_STORE = "memory://tristream-try"
"""Nothing is written to it: all images stay in their prompts."""
GROUPS_BEYOND = 2
"""Groups that are asked for beside those that the engine has room for, so that it is always full."""


@dataclass(slots=True, kw_only=True)
class Tryout:
    """What is known so far."""

    settings: RunFile
    num_groups: int
    """Wanted of each source."""
    groups: dict[str, list[JudgedGroup]] = field(default_factory=dict)
    """Those that are judged, by source."""
    max_running: int = 1
    """Answers that the engine generates at once."""
    phase: str = "reading the data"
    """What goes on, in words."""
    source: str = ""
    """Which one is tried at the moment."""
    num_answered: int = 0
    """Answers to its prompts so far."""
    is_interrupted: bool = False

    @property
    def figures(self) -> list[SourceFigures]:
        """Of each source, tried or not."""
        return [compute_figures(source, groups) for source, groups in self.groups.items()]

    @property
    def num_wanted(self) -> int:
        """Answers wanted of one source."""
        return self.num_groups * self.settings.rollout.group_size

    @property
    def can_learn(self) -> bool:
        """Whether a group of any source has something to teach."""
        return any(figures.num_mixed for figures in self.figures)

    def add(self, group: JudgedGroup) -> None:
        """Take a judged group; those of a source stay in the order of the run."""
        groups = self.groups[group.prompt.group.source]
        groups.append(group)
        groups.sort(key=lambda each: each.prompt.group.number)

    def pace(self) -> Pace | None:
        """Steps per hour to expect at most."""
        return compute_pace(
            self.figures,
            {source.name: source.weight for source in self.settings.sources},
            groups_per_step=self.settings.rollout.groups_per_step,
            max_running=self.max_running,
            drops_zero_variance=self.settings.assembly.drop_zero_variance,
        )

    def advice(self) -> list[Advice]:
        """What would keep it from learning."""
        num_processes = self.settings.verification.num_processes
        return [advice for each in self.figures for advice in find_advice(each, num_processes=num_processes)]


Show = Callable[[Tryout], None]
"""Is called whenever there is something new."""


def try_run(tryout: Tryout, show: Show, *, sources: Collection[str] = ()) -> None:
    """Fill a tryout; if it is interrupted, with what there is.

    Args:
        tryout: filled as groups are judged.
        show: is told of what is new.
        sources: names of those that are tried; empty for all.

    Raises:
        UserError: the data, the verifiers or the model of the run file are not usable.
        TryAgainError: the processes that judge do not work.
    """
    settings = tryout.settings
    try:
        show(tryout)
        blobs = _images_in_prompts(settings)
        check_inputs(_without_database(settings))
        prompts = choose_prompts(settings, blobs, num_groups=tryout.num_groups, sources=sources)
        tryout.groups = {source: [] for source in prompts}
        _enter(tryout, show, "starting the verifiers")
        with running_judge(settings, [prompt for each in prompts.values() for prompt in each], blobs) as judge:
            asyncio.run(_try_sources(tryout, show, prompts, judge, blobs))
    except KeyboardInterrupt:
        tryout.is_interrupted = True
    except BaseExceptionGroup as errors:  # of the tasks of a source, of which the first one ended the others
        raise errors.exceptions[0] from None


async def _try_sources(
    tryout: Tryout, show: Show, prompts: Mapping[str, Sequence[Prompt]], judge: Judge, blobs: BlobStore
) -> None:
    _enter(tryout, show, "loading the model")
    async with open_answering(tryout.settings, blobs) as answering:
        tryout.max_running = answering.max_running
        for source, of_source in prompts.items():
            tryout.source, tryout.num_answered = source, 0
            _enter(tryout, show, f"{source} is tried")
            await _try_source(tryout, show, of_source, answering, judge)
    tryout.source = ""


async def _try_source(
    tryout: Tryout, show: Show, prompts: Sequence[Prompt], answering: Answering, judge: Judge
) -> None:
    room = math.ceil(answering.max_running / tryout.settings.rollout.group_size) + GROUPS_BEYOND
    places = asyncio.Semaphore(room)

    def on_answer() -> None:
        tryout.num_answered += 1
        show(tryout)

    async def try_group(prompt: Prompt) -> None:
        async with places:
            started = time.monotonic()
            rollouts = await answering.answer_group(prompt, on_answer)
            answered = time.monotonic()
        group = JudgedGroup(
            prompt=prompt,
            answers=await judge.judge(prompt, rollouts),
            highest_reward=highest_reward(prompt.reward, judge.ranges),
            started_seconds=started,
            answered_seconds=answered,
        )
        tryout.add(group)
        show(tryout)

    async with asyncio.TaskGroup() as tasks:
        for prompt in prompts:
            tasks.create_task(try_group(prompt))


def _enter(tryout: Tryout, show: Show, phase: str) -> None:
    tryout.phase = phase
    show(tryout)


def _images_in_prompts(settings: RunFile) -> BlobStore:
    limit = settings.store.max_image_bytes
    return BlobStore(NO_STORE, inline_limit_bytes=limit, max_image_bytes=limit)


def _without_database(settings: RunFile) -> RunFile:
    """The database is not asked, so that it need not be there."""
    return settings.model_copy(update={"monitoring": settings.monitoring.model_copy(update={"clickhouse_url": ""})})
