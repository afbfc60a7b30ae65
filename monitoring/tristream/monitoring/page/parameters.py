"""Parameters of a request: each is checked, and what is wrong gets one line for people."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from urllib.parse import parse_qsl

from tristream.monitoring.queries.curves import PARTS
from tristream.monitoring.queries.rollout_details import RolloutKey
from tristream.monitoring.queries.rollout_search import SPLITS, STATUSES, Search, parse_cursor

MAX_ROLLOUTS = 100
MAX_POINTS = 2000
MAX_STEP = 2**40
MAX_WHOLE = 2**53
MAX_TEXT = 200
"""Characters that are searched for."""

Query = Mapping[str, str]


class RefusalError(Exception):
    """A request that gets an error: its status and one line for people."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


def refuse(text: str) -> RefusalError:
    """What is raised for a wrong parameter."""
    return RefusalError(HTTPStatus.BAD_REQUEST, text)


def parse_query(query: str) -> dict[str, str]:
    """Parameters by name; none may come twice."""
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(dict(pairs)) < len(pairs):
        raise refuse("a parameter is given twice")
    return dict(pairs)


def refuse_others(query: Query, known: Sequence[str]) -> None:
    """Refuse parameters that are not known."""
    unknown = sorted(set(query) - set(known))
    if unknown:
        raise refuse(f"unknown parameter {unknown[0]!r}; known: {', '.join(known) or 'none'}")


def whole_number(query: Query, name: str, default: int, low: int, high: int) -> int:
    """A whole number between bounds."""
    text = query.get(name, "") or str(default)
    if re.fullmatch(r"[0-9]{1,13}", text) and low <= int(text) <= high:
        return int(text)
    raise refuse(f"{name} must be a whole number from {low} to {high}")


def choice(query: Query, name: str, known: Sequence[str]) -> str:
    """One of some words, or empty."""
    text = query.get(name, "")
    if text and text not in known:
        raise refuse(f"{name} must be empty or one of {', '.join(filter(None, known))}")
    return text


def parse_parts(query: Query) -> list[str]:
    """Which curves are asked for; all by default."""
    parts = query["parts"].split(",") if query.get("parts") else list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        raise refuse(f"parts must be some of {','.join(PARTS)}, not {unknown[0]!r}")
    return parts


def parse_steps(query: Query, first: str, last: str) -> tuple[int | None, int | None]:
    """Bounds of a range of steps, where they are given."""
    bounds = [whole_number(query, name, 0, 0, MAX_STEP) if query.get(name) else None for name in (first, last)]
    return bounds[0], bounds[1]


SEARCH_PARAMETERS = (
    "split", "source", "status", "text", "min_reward", "max_reward", "first_step", "last_step", "one_each",
    "limit", "cursor",
)  # fmt: skip


def parse_search(query: Query, sources: Sequence[str]) -> Search:
    """What rollouts are looked for."""
    refuse_others(query, SEARCH_PARAMETERS)
    first_step, last_step = parse_steps(query, "first_step", "last_step")
    if len(query.get("text", "")) > MAX_TEXT:
        raise refuse(f"text must have at most {MAX_TEXT} characters")
    return Search(
        split=choice(query, "split", SPLITS),
        source=choice(query, "source", sources),
        status=choice(query, "status", STATUSES),
        text=query.get("text", "").strip(),
        min_reward=_number(query, "min_reward"),
        max_reward=_number(query, "max_reward"),
        first_step=first_step,
        last_step=last_step,
        one_each=bool(choice(query, "one_each", ("1",))),
    )


def parse_page(query: Query) -> tuple[int, str]:
    """How many rollouts, and from where on."""
    cursor = query.get("cursor", "")
    try:
        parse_cursor(cursor)
    except ValueError:
        raise refuse("cursor must be empty or the 'next' of an answer") from None
    return whole_number(query, "limit", 24, 1, MAX_ROLLOUTS), cursor


def parse_key(query: Query) -> RolloutKey:
    """A rollout such as ``train/0/0/812/3``: split, step and attempt of its evaluation, group number, index."""
    refuse_others(query, ("key",))
    match = re.fullmatch(r"(train|eval)/(\d{1,18})/(\d{1,9})/(\d{1,18})/(\d{1,9})", query.get("key", ""))
    if not match:
        raise refuse("key must be SPLIT/EVAL_STEP/EVAL_ATTEMPT/NUMBER/INDEX, such as train/0/0/812/3")
    eval_step, attempt, number, index = (int(value) for value in match.groups()[1:])
    return match[1], eval_step, attempt, number, index


def _number(query: Query, name: str) -> float | None:
    text = query.get(name, "")
    if not text:
        return None
    if re.fullmatch(r"-?\d{1,9}(\.\d{1,12})?", text):
        return float(text)
    raise refuse(f"{name} must be a number, such as 0.5")
