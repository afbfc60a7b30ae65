"""``[[sources]]``: what the run learns from."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tristream.config.base import Section


class SourceSection(Section):
    """One data source: V-Triune rows in Parquet."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the source, the key of all its metrics."""
    train: Path
    """Parquet file of training rows."""
    eval: Path | None = None
    """Parquet file of held-out rows."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the prompts, relative to the other sources."""
    metric: str = "accuracy"
    """Reward component or metric that evaluation reports."""
    correct_at: float = Field(default=0.5, allow_inf_nan=False)
    """An answer counts as correct if its metric is at least this."""
    environment: str = ""
    """How a rollout goes on, as ``FILE.py:NAME`` or ``MODULE:NAME``; empty: the policy answers once."""
    on_bad_row: Literal["refuse", "skip"] = "refuse"
    """Whether a row that cannot be used ends the run before it starts, or is left out and named in the summary."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Verifier parameters laid over those of each row, in training."""
    eval_params: dict[str, Any] = Field(default_factory=dict)
    """Verifier parameters laid over those of each row, in evaluation."""
