"""``[learner]``: how the policy is updated."""

from pydantic import Field

from tristream.config.algorithms import AlgorithmSection, GrpoSection
from tristream.config.base import Section


class LearnerSection(Section):
    """How the policy is updated."""

    algorithm: AlgorithmSection = GrpoSection()
    """What turns rewards into an update, chosen by ``type``."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of AdamW."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up; constant afterwards."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global gradient norm is clipped to this."""
    zero_stage: int = Field(default=0, ge=0, le=3)
    """ZeRO stage of DeepSpeed."""
    num_threads: int = Field(default=1, ge=1)
    """CPU threads of one rank."""
    logprob_chunk_tokens: int = Field(default=1024, ge=1)
    """Sampled tokens whose logits are in memory at once."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""
