"""Verifiers, good and bad ones."""

import os
import random
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tristream.verifiers import Abstain, Rollout, Score, Unscorable, verifier

CALLS: list[str] = []
IMPORTED_AT = time.time()


@verifier(version="1", components=["accuracy"])
def brief(rollout: Rollout, *, max_chars: int = 20) -> float:
    return float(len(rollout.text) <= max_chars)


@verifier(version="2", components={"accuracy": (-1.0, 1.0), "style": (0.0, 1.0)})
def strict(rollout: Rollout, *, is_lenient: bool = False) -> Score:
    if rollout.ground_truth == "unusable":
        raise Unscorable("no truth")
    if rollout.text == "no opinion":
        raise Abstain
    accuracy = 1.0 if rollout.text == rollout.ground_truth else -float(not is_lenient)
    return Score(components={"accuracy": accuracy, "style": None}, metrics={"length": float(len(rollout.text))})


@verifier(version="1", components=["share"], scope="group")
def share(rollouts: Sequence[Rollout]) -> list[float]:
    return [1.0 / len(rollouts)] * len(rollouts)


@verifier(version="1", components=["politeness"])
async def polite(rollout: Rollout) -> float:
    return float("please" in rollout.text)


@verifier(version="9", components=["accuracy"], name="math")
def reversing(rollout: Rollout) -> float:
    return float(rollout.index)


@verifier(version="1", components=["accuracy"])
def remembering(rollout: Rollout) -> float:
    CALLS.append(rollout.text)
    return 1.0 / len(CALLS)


@verifier(version="1", components=["accuracy"])
def dicing(_rollout: Rollout) -> float:
    return random.random()


@verifier(version="1", components=["accuracy"])
def dating(_rollout: Rollout) -> float:
    return IMPORTED_AT % 1.0


@verifier(version="1", components=["accuracy"])
def measuring(rollout: Rollout) -> float:
    return float(len(rollout.text))


@verifier(version="1", components=["accuracy"])
def reading(rollout: Rollout) -> float:
    return float(Path("/etc/hostname").exists() and bool(Path("/etc/hostname").read_text()) and len(rollout.text) >= 0)


@verifier(version="1", components=["accuracy"])
def calling(rollout: Rollout) -> float:
    try:
        socket.create_connection(("127.0.0.1", 9), timeout=0.1).close()
    except OSError:
        return 0.0
    return float(bool(rollout.text))


@verifier(version="1", components=["accuracy"], needs=["images"])
def seeing(rollout: Rollout) -> float:
    return float(rollout.images[0].data.startswith(b"\x89PNG"))


@verifier(version="1", components=["accuracy"])
def careless(rollout: Rollout, *, factor: Any = 1) -> float:
    return float(len(rollout.text) * abs(factor) * 0.0)


@verifier(version="1", components=["accuracy"])
def endless(rollout: Rollout) -> float:
    while len(rollout.text) > 4000:
        os.getpid()
    return 1.0
