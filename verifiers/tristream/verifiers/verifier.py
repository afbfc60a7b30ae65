"""What a verifier is: a pure function of an answer, its truth and its parameters.

A verifier never looks at the clock, the network or earlier answers, so the same request has the same
score wherever and whenever it is judged. It may hang or crash: the pool that calls it survives that.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol


class Unscorable(Exception):  # noqa: N818 - a state of the sample, not an error of the program
    """The truth or the parameters are unusable, so no answer could earn a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    r"""One answer to judge.

    Example:
        >>> ScoringRequest(text=r"\boxed{4}", prompt_text="2+2?", ground_truth="4", step=1, total_steps=10).params
        {}
    """

    text: str
    """The completion."""
    prompt_text: str
    """The prompt as the model saw it."""
    ground_truth: str
    params: Mapping[str, Any] = field(default_factory=dict)
    """The verifier parameters of the sample."""
    step: int
    """Training step that the prompt was dispatched for."""
    total_steps: int
    """Steps of the whole run, at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What an answer is worth."""

    components: Mapping[str, float]
    """Parts of the reward by name, such as ``accuracy`` and ``format``; each 0..1."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers to watch, not rewarded."""
    params_used: Mapping[str, Any] = field(default_factory=dict)
    """Parameters as resolved for this request, defaults and schedules included; JSON values."""


class Verifier(Protocol):
    """Scores answers; made once in each child process, without arguments."""

    name: ClassVar[str]
    """Name that samples ask for."""
    version: ClassVar[str]
    """Changes whenever a score could change."""

    def score(self, request: ScoringRequest) -> Score:
        """Judge one answer.

        Raises:
            Unscorable: the truth or the parameters are unusable; a wrong answer is a score of 0.
        """
        ...
