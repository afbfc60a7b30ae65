"""Which prompts are tried: the first training prompts of each source, as the run's own dispatcher would make them."""

from collections.abc import Collection, Mapping

from tristream.config.parts import DispatcherSettings
from tristream.config.run_file import RunFile
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.runtime.errors import UserError
from tristream.runtime.store import BlobStore
from tristream.wire.events import Progress, Prompt


def choose_prompts(
    settings: RunFile, blobs: BlobStore, *, num_groups: int, sources: Collection[str] = ()
) -> Mapping[str, list[Prompt]]:
    """The first prompts of each source, by source in the order of the run file.

    Args:
        settings: the run.
        blobs: where large images go.
        num_groups: prompts of each source; after its last row a source begins anew, with other seeds.
        sources: those that are wanted; empty for all.

    Raises:
        UserError: a file of a source is malformed or has rows that cannot be used, or there is no such source.
    """
    names = [source.name for source in settings.sources]
    for name in sources:
        if name not in names:
            raise UserError(f"there is no source '{name}'", where="--source", remedy=f"use {', '.join(names)}")
    maker = PromptMaker(DispatcherSettings.of(settings), blobs)
    chosen: dict[str, list[Prompt]] = {name: [] for name in names if not sources or name in sources}
    missing = set(chosen)
    number = 0
    while missing:
        source = names[maker.mixture.pick(number).source]
        if source in missing:
            chosen[source].append(maker.training_prompt(number, _progress(settings, number)))
            if len(chosen[source]) == num_groups:
                missing.remove(source)
        number += 1
    return chosen


def _progress(settings: RunFile, number: int) -> Progress:
    """Where the run stands when a prompt is dispatched and nothing was dropped before."""
    step = min(settings.run.steps, number // settings.rollout.groups_per_step + 1)
    return Progress(step=step, total_steps=settings.run.steps)
