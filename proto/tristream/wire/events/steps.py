"""Step reports: what one optimizer step did."""

from collections.abc import Mapping
from dataclasses import dataclass

from tristream.wire.events.outcomes import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStatistics:
    """Training statistics of one rollout, means over its sampled tokens."""

    group_number: int
    index: int
    mean_logprob: float
    mean_entropy: float
    clip_fraction: float
    mean_kl: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step did."""

    run: str
    step: int
    total_steps: int
    metrics: Mapping[str, float]
    layer_grad_norms: Mapping[str, float]
    phase_seconds: Mapping[str, float]
    rollouts: tuple[RolloutStatistics, ...]
    outcomes: tuple[Outcome, ...]
    """Outcomes of its groups with their advantages; they are final once a durable checkpoint covers the step."""
    num_completion_tokens: int
    """Sampled tokens trained on."""
    created_ns: int

    @property
    def num_groups(self) -> int:
        """Groups trained on."""
        return len(self.outcomes)

    @property
    def max_age(self) -> int:
        """Largest age of a rollout trained on, in policy versions."""
        return max((outcome.max_age for outcome in self.outcomes), default=0)
