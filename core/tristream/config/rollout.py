"""``[rollout]``: how prompts are dispatched and answered."""

from pydantic import Field

from tristream.config.base import Section
from tristream.config.engines import EngineSection, TransformersEngineSection


class RolloutSection(Section):
    """How prompts are dispatched and answered."""

    groups_per_step: int = Field(default=16, ge=1)
    """Prompt groups in one training batch (B)."""
    group_size: int = Field(default=8, ge=2)
    """Rollouts of one prompt (G)."""
    max_staleness: int = Field(default=1, ge=0)
    """Largest age of a rollout in policy versions (eta); 0 is on-policy."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of training rollouts."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus mass kept; below 1, as with top_k and min_p, rollouts are not quite samples of the policy."""
    top_k: int = Field(default=0, ge=0)
    """Most likely tokens kept; 0 keeps all."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Tokens less likely than this share of the most likely one are left out; 0 keeps all."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, and stay part of it."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer, besides the model's own."""
    max_seconds: float = Field(default=600.0, gt=0)
    """An answer that is generated for longer is cut off, and counts as too long."""
    max_tokens: int = Field(default=512, ge=1)
    """Most tokens of a completion."""
    engine: EngineSection = TransformersEngineSection()
    """What generates, chosen by ``type``."""
    pause_source_after: int = Field(default=64, ge=0)
    """A source whose last so many groups were dropped for one reason is paused, and tried again later; 0: never."""
    max_image_pixels: int = Field(default=50_000_000, ge=1)
    """Images with more pixels are refused, by their header alone."""
    inline_image_bytes: int = Field(default=65536, ge=0)
    """Larger images travel by reference through the store."""

    @property
    def truncation(self) -> tuple[str, ...]:
        """Settings that leave out tokens which the policy might take, such as ``top_p = 0.9``."""
        settings = (("top_p", self.top_p, 1.0), ("top_k", self.top_k, 0), ("min_p", self.min_p, 0.0))
        return tuple(f"{name} = {value:g}" for name, value, everything in settings if value != everything)
