"""``[verification]``: how rollouts are scored."""

from pydantic import Field, field_validator

from tristream.config.base import Section
from tristream.wire.verifiers import canonical_name


class VerificationSection(Section):
    """How rollouts are scored."""

    verifiers: tuple[str, ...] = ()
    """Verifiers of the worker; empty means all that exist."""
    num_processes: int = Field(default=1, ge=1)
    """Child processes that score."""
    deadline_seconds: float = Field(default=10.0, gt=0)
    """A child that needs longer for one rollout is killed, and the reward is TIMEOUT."""
    batch_size: int = Field(default=64, ge=1)
    """Most rollouts taken from the log at once."""

    @field_validator("verifiers")
    @classmethod
    def _by_canonical_name(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({canonical_name(name) for name in names}))
