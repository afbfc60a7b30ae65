"""``[learner]``: how the policy is updated."""

from typing import Annotated, Literal

from pydantic import Field

from tristream.config.algorithms import AlgorithmSection
from tristream.config.base import Section

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Share of the past in a running average."""


class ModuleSection(Section):
    """``[[learner.modules]]``: parameters that are trained in their own way."""

    prefix: str = Field(min_length=1)
    """What the names of its parameters begin with; of several prefixes the longest one counts."""
    learning_rate_scale: float = Field(default=1.0, gt=0)
    """Their learning rate is that of the run times this."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Their decoupled weight decay; that of the run if it is left out."""


class LearnerSection(Section):
    """How the policy is updated."""

    algorithm: AlgorithmSection = AlgorithmSection()
    """What turns rewards into an update, chosen by ``type``."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of AdamW."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear warm-up."""
    learning_rate_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes on from its peak, after warm-up and up to the last step of the run."""
    final_learning_rate_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the peak to which ``linear`` and ``cosine`` fall."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    decays_vectors: bool = True
    """Whether parameters of one dimension, such as biases and the weights of norms, decay too."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of AdamW's average of squares."""
    modules: tuple[ModuleSection, ...] = ()
    """Parameters with a learning rate or weight decay of their own."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global gradient norm is clipped to this."""
    zero_stage: int = Field(default=0, ge=0, le=3)
    """ZeRO stage of DeepSpeed."""
    num_threads: int = Field(default=1, ge=1)
    """CPU threads of one rank."""
    micro_batch_tokens: int = Field(default=16384, ge=1)
    """Most tokens that the model computes in one micro-batch, a prompt counted once for the rollouts beside it."""
    logprob_chunk_tokens: int = Field(default=4096, ge=1)
    """Sampled tokens whose logits are in memory at once; those of a micro-batch beyond them are computed twice."""
    checkpoint_every: int = Field(default=10, ge=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""
