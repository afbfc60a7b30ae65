"""The points of a part's life at which a test can kill it, by part: what ``tristream.runtime.hooks`` is told of."""

from collections.abc import Mapping

from tristream.wire.events import Part

HOOK_POINTS: Mapping[Part, tuple[str, ...]] = {
    Part.DISPATCHER: (
        "lease.claimed",
        "fence.prompts",
        "fence.commands",
        "publish.prompts:20",
        "flush:3",
        "barrier.prompts",
    ),
    Part.PRODUCER: ("publish.rollouts:20", "commit:2", "barrier.policy", "status.renamed:3"),
    Part.VERIFIER: ("publish.rewards:20", "commit:2", "status.renamed:3"),
    Part.ASSEMBLER: (
        "lease.claimed",
        "fence.outcomes",
        "attach.rebuilt",
        "barrier.rollouts",
        "publish.outcomes:4",
        "batch.built:2",
        "flush:3",
        "commit.flushed",
    ),
    Part.LEARNER: (
        "lease.claimed",
        "fence.policy",
        "fence.steps",
        "checkpoint.taken_over",
        "store.renamed",
        "weights.written",
        "publish.policy:2",
        "publish.steps:2",
        "flush:3",
        "checkpoint.written",
        "checkpoint.renamed",
        "commit.sent",
    ),
    Part.MONITOR: ("archive.written:2", "commit:2"),
}
NOT_REACHED: Mapping[str, str] = {
    "report.renamed": "``tristream up`` writes the report, no part of a stream does",
    "summary.renamed": "``tristream up`` writes the summary, no part of a stream does",
    "store.downloaded": "the store is a folder of this machine, from which nothing is downloaded",
}
"""Points that no part of these runs comes to, and why."""


def named(part: Part) -> tuple[str, ...]:
    """The points of a part as ``TRISTREAM_KILL_AT`` wants them."""
    return tuple(f"{part}:{point}" for point in HOOK_POINTS[part])
