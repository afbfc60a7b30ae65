"""What one row of a source is."""

from collections.abc import Mapping
from dataclasses import dataclass

from tristream.wire.events import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImage:
    """One image as it is in the file."""

    data: bytes
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleTerm:
    """A verifier that a row asks for; it becomes a reward term when its version is pinned."""

    verifier: str
    """Its canonical name."""
    weights: Mapping[str, float]
    """Weight of each reward component by its name."""
    params_json: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One row: a question, its images, and how its answers are judged."""

    source: str
    sample_id: str
    messages: tuple[Message, ...]
    """Together they have one ``<image>`` marker for each image."""
    images: tuple[EncodedImage, ...]
    terms: tuple[SampleTerm, ...]
    """At least one; the parameters are those of the row alone."""
    ground_truth: str
    columns_json: str = "{}"
    """Further columns that verifiers may read, a JSON object."""

    @property
    def weighted_verifiers(self) -> frozenset[str]:
        """Names of the verifiers that count."""
        return frozenset(term.verifier for term in self.terms if any(term.weights.values()))
