"""Tags that an answer consists of."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from tristream.verifiers.contract import Rollout, Score
from tristream.verifiers.definition import verifier
from tristream.verifiers.scorers.parameters import refuse_unknown
from tristream.wire.verifiers import BUILT_IN_VERSIONS

Tag = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")]
Layout = Annotated[tuple[Tag, ...], Field(min_length=1, max_length=16)]


def follows_layout(text: str, tags: Sequence[str]) -> bool:
    """Whether a text is ``<tag>...</tag>`` for each tag in order, each once, with nothing but white space between."""
    end = 0
    for tag in tags:
        start, close = text.find(f"<{tag}>"), text.find(f"</{tag}>")
        if start < end or close < start or text[end:start].strip():
            return False
        end = close + len(tag) + 3
    return not text[end:].strip() and all(is_once(text, tag) for tag in tags)


def is_once(text: str, tag: str) -> bool:
    """Whether a tag opens and closes exactly once."""
    return text.count(f"<{tag}>") == text.count(f"</{tag}>") == 1


@verifier(name="format", version=BUILT_IN_VERSIONS["format"], components=["format"])
def score_format(
    rollout: Rollout,
    /,
    *,
    layout: Layout = ("think", "answer"),
    **others: Any,  # noqa: ANN401 - V-Triune's requests have more
) -> Score:
    """1 if the answer is the tags of ``layout`` in order, once each, and nothing else.

    Metric: ``tag_share``, the share of the tags that open and close exactly once.
    """
    refuse_unknown(score_format, others)
    share = sum(is_once(rollout.text, tag) for tag in layout) / len(layout)
    return Score(components={"format": float(follows_layout(rollout.text, layout))}, metrics={"tag_share": share})
