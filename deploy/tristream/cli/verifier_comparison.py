"""What two verifiers, or a verifier and the final reward, say of the same rollouts of a run, source by source.

It is read from the log, so it can be asked while the run goes on.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tristream.runtime.bus.protocol import Bus, Record
from tristream.verifiers.offline.comparison import Comparison, Judged, SourceOpinions
from tristream.wire.events import Command, CommandKind, Group, Outcome, Reward, Split, Status, StepReport
from tristream.wire.topics import OUTCOMES, REWARDS, STEPS, Topic
from tristream.wire.verifiers import versioned_name

Place = tuple[str, int, int]
"""Source, number of the group, index of the rollout."""
Values = dict[Place, float | None]
"""What each rollout is worth; None if it has no score."""


def read_comparison(bus: Bus, commands: Sequence[Command], first: str, second: str) -> list[Comparison]:
    """Compare two opinions on the training rollouts so far.

    Args:
        bus: the run's.
        commands: those that hold; they say how components weigh.
        first: ``NAME@VERSION``; its opinion is the new one.
        second: ``NAME@VERSION``, or empty for the final reward; its opinion is the old one.
    """
    opinions: dict[str, Values] = {first: {}, second: {}}
    weights = {name: _weights_of(name, commands) for name in opinions}
    for record in _read(bus, [REWARDS]):
        reward: Reward = record.event
        name = versioned_name(reward.verifier, reward.version)
        if name in opinions and reward.group.split is Split.TRAIN:
            opinions[name].setdefault(_place(reward.group, reward.index), value_of(reward, weights[name]))
    if not second:
        opinions[second] = _read_final_rewards(bus)
    return compare_values(opinions[first], opinions[second])


def compare_values(new: Values, old: Values) -> list[Comparison]:
    """Compare what rollouts are worth, by source; a source of which there is nothing to compare is left out."""
    sources: dict[str, SourceOpinions] = {}
    groups: dict[tuple[str, int], list[Judged]] = {}
    for place, before in old.items():
        source, number, index = place
        after = new.get(place)
        if before is None or place not in new:
            continue
        opinions = sources.setdefault(source, SourceOpinions(source))
        if after is None:
            opinions.num_unscored += 1
            continue
        judged = Judged(number=number, index=index, step=0, old=before, new=after, text="")
        groups.setdefault((source, number), []).append(judged)
    for (source, _), group in groups.items():
        sources[source].add(group)
    return [sources[name].compare() for name in sorted(sources)]


def value_of(reward: Reward, weights: Mapping[str, float]) -> float | None:
    """What a verifier's components come to: their weighted mean; without weights, their mean; None without a score."""
    if reward.status is not Status.SCORED and not reward.components:
        return None
    used = {name: weights.get(name, 0.0) if weights else 1.0 for name in reward.components}
    total = sum(abs(weight) for weight in used.values())
    return sum(weight * reward.components[name] for name, weight in used.items()) / total if total else None


def _weights_of(name: str, commands: Iterable[Command]) -> Mapping[str, float]:
    """How the components of a version weighed last; none if it was never promoted."""
    weights: Mapping[str, float] = {}
    for command in commands:
        if command.kind is CommandKind.PROMOTE and versioned_name(command.verifier, command.version) == name:
            weights = command.weights
    return weights


def _read_final_rewards(bus: Bus) -> Values:
    """The final rewards: of dropped groups by their outcomes, of trained ones by the reports of their steps."""
    values: Values = {}
    for record in _read(bus, [OUTCOMES, STEPS]):
        event = record.event
        outcomes: Sequence[Outcome] = event.outcomes if isinstance(event, StepReport) else (event,)
        for outcome in outcomes:
            if outcome.group.split is Split.TRAIN:
                for rollout in outcome.rollouts:
                    values[_place(outcome.group, rollout.index)] = rollout.reward if rollout.valid else None
    return values


def _read(bus: Bus, topics: Sequence[Topic[Any]]) -> Iterable[Record[Any]]:
    reader = bus.reader(topics)
    try:
        yield from reader.read_to_end()
    finally:
        reader.close()


def _place(group: Group, index: int) -> Place:
    return group.source, group.number, index
