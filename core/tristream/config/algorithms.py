"""``[learner.algorithm]``: what turns rewards into an update; one section a type."""

from typing import Literal

from pydantic import Field

from tristream.config.base import Section


class GrpoSection(Section):
    """GRPO with a clip range that is higher above, as V-Triune and DAPO use it."""

    type: Literal["grpo"] = "grpo"
    """Which algorithm."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """Lower clip range of the ratio."""
    clip_high: float = Field(default=0.28, gt=0)
    """Upper clip range of the ratio."""


AlgorithmSection = GrpoSection
"""A second algorithm makes this a union that is told apart by ``type``."""
