"""``[assembly]``: how scored groups become batches."""

from pydantic import Field

from tristream.config.base import Section


class AssemblySection(Section):
    """How scored groups become batches."""

    drop_zero_variance: bool = True
    """Drop groups whose rewards are all equal; others are dispatched in their place."""
    generation_timeout_seconds: float = Field(default=1800.0, gt=0)
    """A group whose rollouts are not all there so long after its dispatch is dropped as ``incomplete``."""
    scoring_timeout_seconds: float = Field(default=300.0, gt=0)
    """A group whose rewards are not all there so long after its last rollout is dropped as ``incomplete``."""
    address: str = "127.0.0.1:50051"
    """Address that the assembler serves on and the learner asks."""
