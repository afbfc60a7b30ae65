"""``[evaluation]``: when the held-out rows are answered greedily."""

from pydantic import Field

from tristream.config.base import Section


class EvaluationSection(Section):
    """When the held-out rows are answered greedily."""

    every: int = Field(default=20, ge=1)
    """Steps between evaluations; the first and the last policy are always evaluated."""
    max_tokens: int | None = None
    """Most tokens of an answer; None means as in training."""

    def is_due(self, version: int, total_steps: int) -> bool:
        """Whether the held-out rows are answered with a policy version."""
        return version % self.every == 0 or version == total_steps
