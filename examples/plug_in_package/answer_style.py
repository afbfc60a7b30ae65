"""Three verifiers of how answers are written: one of a rollout, one that waits for a judge, one of a whole group."""

import asyncio
from collections import Counter

from tristream.verifiers import Abstain, Limits, Rollout, verifier


@verifier(version="1", components=["accuracy"])
def brief(rollout: Rollout, *, max_chars: int = 400) -> float:
    """1 for an answer of at most ``max_chars`` characters."""
    return float(len(rollout.text) <= max_chars)


@verifier(version="1", components={"politeness": (-1.0, 1.0)}, limits=Limits(wall_seconds=10.0))
async def judged(rollout: Rollout, *, courtesy: str = "please", rudeness: str = "obviously") -> float:
    """1, 0 or -1 by what a judge says. This one reads two words; yours waits for a model instead of sleeping."""
    if not rollout.text.strip():
        raise Abstain
    await asyncio.sleep(0.01)
    words = rollout.text.lower().split()
    return float(courtesy in words) - float(rudeness in words)


@verifier(version="1", components=["distinctness"], scope="group")
def distinct(rollouts: tuple[Rollout, ...]) -> list[float]:
    """For each rollout of a group, the share of the others whose text is another."""
    counts = Counter(rollout.text for rollout in rollouts)
    others = max(1, len(rollouts) - 1)
    return [(len(rollouts) - counts[rollout.text]) / others for rollout in rollouts]
