"""Steps per hour that generating allows, by what was seen of each source; pure.

A step takes a fixed number of groups that are kept, and each group that is dropped is replaced by another one of the
mix. With the engine full, answers come at the rate of the places in it by the time of an answer in its place, which
leaves out how an engine runs empty at the end of a trial.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tristream.local.trying.figures import SourceFigures
from tristream.local.trying.judged_groups import GroupKind

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast the run can be at most."""

    steps_per_hour: float
    seconds_per_step: float
    """Of generating."""
    groups_per_step: int
    """That are trained."""
    generated_groups_per_step: float
    """With those that are dropped."""
    kept_share: float
    """Share of the groups that is trained, in the mix of the run."""
    num_places: int
    """Answers that were generated at once."""


def compute_pace(
    figures: Sequence[SourceFigures],
    weights: Mapping[str, float],
    *,
    groups_per_step: int,
    max_running: int,
    drops_zero_variance: bool = True,
) -> Pace | None:
    """Steps per hour to expect at most; None if no group would be trained, or nothing was generated.

    Args:
        figures: of the sources; they are mixed by their weights.
        weights: weight of each source in the mix.
        groups_per_step: groups of a training batch.
        max_running: answers that the engine generates at once.
        drops_zero_variance: whether groups whose rewards are all equal are dropped.
    """
    seen = [each for each in figures if each.num_groups]
    total_weight = sum(weights[each.source] for each in seen)
    kept_share = group_seconds = 0.0
    num_places = max_running
    for each in seen:
        share = weights[each.source] / total_weight
        places = min(max_running, each.num_answers)
        num_places = min(num_places, places)
        num_kept = each.num_mixed if drops_zero_variance else each.num_groups - each.num_of(GroupKind.UNSCORED)
        kept_share += share * num_kept / each.num_groups
        group_seconds += share * each.engine_seconds / places / each.num_groups
    if not kept_share or not group_seconds:
        return None
    num_generated = groups_per_step / kept_share
    return Pace(
        steps_per_hour=SECONDS_PER_HOUR / (num_generated * group_seconds),
        seconds_per_step=num_generated * group_seconds,
        groups_per_step=groups_per_step,
        generated_groups_per_step=num_generated,
        kept_share=kept_share,
        num_places=num_places,
    )
