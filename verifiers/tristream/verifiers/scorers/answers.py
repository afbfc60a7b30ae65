r"""Where the answer stands in a completion: in ``\boxed{}``, between tags, in the last line, or anywhere."""

from collections.abc import Callable, Mapping
from typing import Literal

from tristream.verifiers.scorers.boxed import has_one_boxed, last_boxed

OPENING, CLOSING = "<answer>", "</answer>"

AnswerIn = Literal["boxed", "tags", "last_line", "text"]
r"""``boxed``: the last ``\boxed{}``; ``tags``: ``<answer>...</answer>``; ``last_line``; ``text``: all of it."""


def between_tags(text: str) -> str | None:
    """What the first ``<answer>`` encloses, stripped; None if it is not closed. Takes time linear in the text."""
    start = text.find(OPENING)
    end = text.find(CLOSING, start + len(OPENING)) if start >= 0 else -1
    return text[start + len(OPENING) : end].strip() if end >= 0 else None


def last_line(text: str) -> str | None:
    """The last line that is not blank, stripped."""
    lines = text.rstrip().splitlines()
    return lines[-1].strip() if lines else None


def find_answer(text: str, place: AnswerIn) -> str | None:
    """The answer, without outer white space; None if there is none there."""
    return FINDERS[place](text)


def has_one_answer(text: str, place: AnswerIn) -> bool:
    """Whether the answer stands there exactly once, and whole."""
    if place == "boxed":
        return has_one_boxed(text)
    if place == "tags":
        return text.count(OPENING) == text.count(CLOSING) == 1 and between_tags(text) is not None
    return bool(find_answer(text, place))


FINDERS: Mapping[str, Callable[[str], str | None]] = {
    "boxed": last_boxed,
    "tags": between_tags,
    "last_line": last_line,
    "text": lambda text: text.strip() or None,
}
