"""Prompts: work for the producers."""

from dataclasses import dataclass

from tristream.wire.events.policies import Weights
from tristream.wire.events.samples import Group, Image, Message, Progress, RewardSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How completions are sampled; temperature 0 is greedy."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """Work for a producer: one prompt and how to answer it."""

    group: Group
    messages: tuple[Message, ...]
    images: tuple[Image, ...]
    reward: RewardSpec
    sampling: Sampling
    progress: Progress
    pinned_weights: Weights | None = None
    """Weights that must be used (evaluation); None means the newest."""
    run_fingerprint: str = ""
    """Fingerprint of everything in the run file and the data that prompts depend on."""
    digest: str = ""
    """Digest of the prompt itself; two prompts of one number have the same."""
    created_ns: int
