"""``[verification]``: how rollouts are scored."""

from typing import Literal

from pydantic import Field, field_validator

from tristream.config.base import Section
from tristream.wire.verifiers import canonical_name


class VerificationSection(Section):
    """How rollouts are scored."""

    verifiers: tuple[str, ...] = ()
    """Verifiers of the worker; empty means all built-in ones and all plug-ins."""
    plug_ins: dict[str, str] = Field(default_factory=dict)
    """Verifiers of your own: ``NAME@VERSION = "module:name"`` or ``"file.py:name"``, below the run file's folder."""
    num_processes: int = Field(default=1, ge=1)
    """Child processes that score."""
    deadline_seconds: float = Field(default=10.0, gt=0)
    """A child that needs longer for one rollout is killed, and the reward is TIMEOUT."""
    cpu_seconds: float | None = Field(default=None, gt=0)
    """CPU time that judging one rollout may use, instead of what its verifier declares."""
    wall_seconds: float | None = Field(default=None, gt=0)
    """Time that judging one rollout may take, waiting included, instead of what its verifier declares."""
    memory_mib: int | None = Field(default=None, ge=16)
    """Memory that judging one rollout may use, instead of what its verifier declares."""
    on_timeout: Literal["zero", "unscored"] = "zero"
    """What an answer is worth on which a verifier uses up its limits, where the truth is fine."""
    window_size: int = Field(default=512, ge=1)
    """Most rollouts that are scored at once; one that takes long delays no other of them."""
    batch_size: int = Field(default=64, ge=1)
    """Most rollouts taken from the log at once."""

    @field_validator("verifiers")
    @classmethod
    def _by_canonical_name(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({canonical_name(name) for name in names}))
