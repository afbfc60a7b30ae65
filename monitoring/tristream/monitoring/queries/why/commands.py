"""Commands that show again what an explanation says."""

import shlex
from collections.abc import Sequence

from tristream.monitoring.queries.why.explanation import Cause, Change
from tristream.monitoring.queries.why.pairs import Pair

VERIFIER_OF_THRESHOLDS = "detection"


def suggest_commands(
    place: str, change: Change, causes: Sequence[Cause], pairs: Sequence[Pair], source: str
) -> list[str]:
    """Commands to run for the causes that stand out, the first ones first.

    Args:
        place: the run's folder or run file, as commands take it.
        change: the windows.
        causes: ranked.
        pairs: what is shown beside each other.
        source: what was asked about; empty for all.
    """
    quoted = shlex.quote(place)
    commands = [command for cause in causes if cause.stands_out for command in _of_cause(quoted, change, cause)]
    if not source:
        named = dict.fromkeys(cause.source for cause in causes if cause.stands_out and cause.source)
        commands += [f"tristream why {quoted} {change.steps_after[0]} --source {shlex.quote(name)}" for name in named]
    for _, before, after in pairs[:1]:
        commands += [f"tristream show {quoted} {answer.number}/{answer.index}" for answer in (before, after)]
    return list(dict.fromkeys(commands))


def _of_cause(place: str, change: Change, cause: Cause) -> list[str]:
    where = f" --sources {shlex.quote(cause.source)}" if cause.source else ""
    steps = f"{change.steps_before[0]}..{change.steps_after[1]}"
    if cause.kind == "threshold":
        old = cause.detail.partition(" -> ")[0].rpartition(" ")[2]
        params = shlex.quote(f'{{"threshold": {old}}}')
        return [
            f"tristream rescore {place} --verifier {VERIFIER_OF_THRESHOLDS} --steps {steps}{where} --params {params}"
        ]
    if cause.kind in ("verifier", "outage", "coverage"):
        return [f"tristream verifiers list --run {place}"]
    if cause.kind == "weights":
        return [f"tristream verifiers list --run {place}"]
    if cause.kind in ("data", "truncation") and cause.source:
        return [f"tristream try {place} --source {shlex.quote(cause.source)}"]
    return []
