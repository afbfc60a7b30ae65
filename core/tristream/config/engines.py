"""``[rollout.engine]``: what generates; one section a type."""

from typing import Literal

from pydantic import Field

from tristream.config.base import Section


class TransformersEngineSection(Section):
    """The engine on transformers, for small machines."""

    type: Literal["transformers"] = "transformers"
    """Which engine."""
    max_batch_size: int = Field(default=128, ge=1)
    """Most rollouts generated at once."""
    num_threads: int = Field(default=1, ge=1)
    """CPU threads of the engine."""


EngineSection = TransformersEngineSection
"""A second engine makes this a union that is told apart by ``type``."""
