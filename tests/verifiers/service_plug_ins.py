"""Verifiers for the tests of the worker: what an answer says, happens."""

import asyncio
import os
import time

from tristream.verifiers import Abstain, Limits, Rollout, Score, Unscorable, verifier

LIMITS = Limits(cpu_seconds=0.3, wall_seconds=5.0, memory_mib=256)


def parse_truth(ground_truth: str) -> str:
    if ground_truth == "no truth":
        raise Unscorable("the truth is bad")
    return ground_truth


def happen(text: str) -> None:
    if text == "hang":
        while True:
            pass
    if text == "crash":
        os._exit(7)
    if text == "raise":
        raise RuntimeError("no such luck")
    if text == "raise a surrogate":
        raise RuntimeError("a \ud800 surrogate")
    if text == "abstain":
        raise Abstain
    if text.startswith("sleep "):
        time.sleep(float(text.removeprefix("sleep ")))


def deed(rollout: Rollout, *, step_size: int = 1) -> Score | float:
    """Does what the answer says, and ``step_size`` times."""
    for _ in range(step_size):
        happen(rollout.text)
    if rollout.text == "a set":
        return Score(components={"accuracy": 1.0}, params_used={"seen": {1, 2}})
    if rollout.text == "huge":
        return Score(components={"accuracy": 1.0}, params_used={"notes": "x" * 9 * 2**20})
    if rollout.text == "what is seen":
        seen = {
            "messages": [[message.role, message.content] for message in rollout.messages],
            "columns": dict(rollout.columns),
            "tokens": [rollout.num_prompt_tokens, rollout.num_sampled_tokens],
            "place": [rollout.source, rollout.sample_id, rollout.split, rollout.index, rollout.finish_reason],
            "images": [[image.sha256, len(image.data)] for image in rollout.images],
        }
        return Score(components={"accuracy": 1.0}, params_used=seen)
    return float(rollout.text == rollout.truth)


deed_7 = verifier(name="deed", version="7", components=["accuracy"], truth=parse_truth, limits=LIMITS)(deed)
deed_8 = verifier(name="deed", version="8", components=["accuracy"], truth=parse_truth, limits=LIMITS)(deed)


@verifier(version="1", components={"penalty": (-1.0, -0.25)}, limits=LIMITS)
def strict(rollout: Rollout) -> float:
    """A verifier without 0 in its range."""
    happen(rollout.text)
    return -0.5


@verifier(version="1", components=["rank"], scope="group", limits=LIMITS)
def panel(rollouts: tuple[Rollout, ...]) -> list[float]:
    """The share of the group that is shorter."""
    lengths = [len(rollout.text) for rollout in rollouts]
    return [sum(other < length for other in lengths) / len(lengths) for length in lengths]


@verifier(version="1", components=["opinion"], limits=LIMITS)
async def judge(rollout: Rollout) -> float:
    """Waits for as long as the answer says."""
    if rollout.text.startswith("sleep "):
        await asyncio.sleep(float(rollout.text.removeprefix("sleep ")))
    return 0.5


@verifier(version="1", components=["accuracy"], needs=["images"], limits=LIMITS)
def looker(rollout: Rollout) -> Score:
    """Counts the bytes of the images."""
    sizes = [float(len(image.data)) for image in rollout.images]
    return Score(components={"accuracy": 1.0}, metrics={"num_bytes": sum(sizes), "num_images": float(len(sizes))})
