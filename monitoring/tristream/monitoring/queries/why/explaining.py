"""``explain``: what changed around a step of a run, ranked by what it did to the training reward."""

from collections.abc import Sequence

from tristream.monitoring.queries.why.commands import suggest_commands
from tristream.monitoring.queries.why.explanation import Explanation
from tristream.monitoring.queries.why.facts import Surroundings
from tristream.monitoring.queries.why.pairs import choose_pairs, read_pairs
from tristream.monitoring.queries.why.ranking import make_verdict, rank_causes
from tristream.monitoring.queries.why.reading import read_surroundings
from tristream.monitoring.queries.why.signals import find_signals
from tristream.monitoring.queries.why.source_finding import describe_change, examine_source
from tristream.monitoring.queries.why.source_mix import compare_mix
from tristream.monitoring.store.client import Client
from tristream.runtime.errors import UserError

NUM_STEPS = 10
"""Steps on each side, unless asked otherwise."""
NUM_PAIRS = 4


def explain(
    client: Client, run: str, step: int, source: str = "", *, num_steps: int = NUM_STEPS, place: str = "RUN"
) -> Explanation:
    """Explain the difference of the training reward between the steps before one, and it with those after it.

    Args:
        client: of the run's database.
        run: which run.
        step: the first step after.
        source: one source; empty for all, where what the mix of sources did is a cause too.
        num_steps: steps on each side, at least 2.
        place: the run as commands name it, such as its folder.

    Raises:
        UserError: the run has no such step, nothing before it, or nothing of the source on one side.
    """
    surroundings = read_surroundings(client, run, step, source, num_steps=num_steps)
    window = surroundings.window
    inside = [group for group in surroundings.groups if window.holds(group.step)]
    change = describe_change(surroundings, inside)
    if change is None:
        raise UserError(
            f"nothing{f' of source {source}' if source else ''} was judged before step {step}, or from it on",
            where=f"run {run}", remedy="give a source of the run file, another step, or more steps on each side",
        )  # fmt: skip
    mix = compare_mix(inside, window)
    found = [examine_source(surroundings, name) for name in sorted({group.source for group in inside})]
    findings = [finding for finding in found if finding is not None]
    causes = rank_causes(
        findings, {source: 1.0} if source else mix.weights, None if source else mix, find_signals(surroundings)
    )
    top = next((cause for cause in causes if cause.stands_out), causes[0])
    pairs = choose_pairs(surroundings, source or top.source, top.delta or change.delta, NUM_PAIRS)
    return Explanation(
        run=run, step=step, source=source, change=change, causes=causes, verdict=make_verdict(change, causes),
        held_out={name: row for name, row in surroundings.held_out.items() if source in ("", name)},
        pairs=read_pairs(client, run, pairs), commands=suggest_commands(place, change, causes, pairs, source),
        notes=_notes(surroundings, [name for name in mix.weights if name not in {f.source for f in findings}]),
    )  # fmt: skip


def _notes(surroundings: Surroundings, absent: Sequence[str]) -> list[str]:
    notes = [
        f"step {mark.step}: {mark.text}{f' ({mark.reason})' if mark.reason else ''}" for mark in surroundings.marks
    ]
    if surroundings.share_read < 0.99:
        notes.append(f"causes are measured on {surroundings.share_read:.0%} of the groups, chosen by their numbers")
    return [*notes, *(f"{name} was judged on one side alone" for name in absent)]
