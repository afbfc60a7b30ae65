"""What a verifier sees and what it may say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tristream.wire.events import Message

__all__ = ["Abstain", "Image", "Message", "Rollout", "Score", "Unscorable"]


class Unscorable(Exception):  # noqa: N818 - a state of the sample, not an error of the program
    """The truth or the parameters are unusable, so no answer could earn a number."""


class Abstain(Exception):  # noqa: N818 - an opinion, not an error of the program
    """The verifier has no opinion on this rollout: the other components make its reward alone.

    Raised, it stands for all components; a component alone abstains by the value None.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of the prompt."""

    media_type: str
    """Such as ``image/png``."""
    sha256: str
    data: bytes = b""
    """The encoded image; only for verifiers that need ``images``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    r"""One answer to judge.

    Example:
        >>> Rollout(text=r"\boxed{4}", ground_truth="4").progress
        0.0
    """

    text: str
    """The completion, as text."""
    ground_truth: str = ""
    """The truth as the row has it."""
    truth: Any = None
    """The truth as the verifier's own ``truth`` function has parsed it; ``ground_truth`` if it has none."""
    messages: tuple[Message, ...] = ()
    """The chat that was asked, before the template."""
    prompt_text: str = ""
    """The prompt as the model saw it."""
    images: tuple[Image, ...] = ()
    source: str = ""
    sample_id: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the row, such as ``ability``, and those of ``extra_info`` by their names."""
    split: str = "train"
    """``train`` or ``eval``."""
    index: int = 0
    """Which rollout of its group it is."""
    finish_reason: str = "stop"
    """``stop`` or ``length``."""
    num_prompt_tokens: int = 0
    num_sampled_tokens: int = 0
    """Tokens that the policy sampled."""
    step: int = 0
    """Training step that the prompt was dispatched for."""
    total_steps: int = 1
    """Steps of the whole run, at least 1."""

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0..1."""
        return self.step / self.total_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What an answer is worth, for verifiers that say more than their components."""

    components: Mapping[str, float | None]
    """Values by component; None abstains."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Numbers to watch, not rewarded."""
    params_used: Mapping[str, Any] = field(default_factory=dict)
    """Parameters as resolved for this rollout, such as the value of a schedule; JSON values. Laid over the checked
    parameters."""
