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
    top_k: int = 0
    """Most likely tokens kept; 0 keeps all."""
    min_p: float = 0.0
    """Tokens less likely than this share of the most likely one are left out; 0 keeps all."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, and stay part of it."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end a completion, besides the model's own."""

    @property
    def is_truncated(self) -> bool:
        """Whether tokens that the policy might take are left out, so that it is not sampled from the policy itself."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0 or self.min_p > 0)


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
