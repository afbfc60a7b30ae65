"""Rollouts by what people look for, the newest first, a page at a time, and fast however many there are.

No query joins whole tables. A search goes through key ranges from the newest down: windows of training groups that
grow while nothing is found, and rounds of evaluation. It ends with a full page, at the end, or when its time is up;
then it says so, and where to go on.
"""

import re
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from tristream.monitoring.queries.rollout_details import RolloutKey, read_details
from tristream.monitoring.queries.rollout_worths import MAX_LATE_STEPS, worths_sql
from tristream.monitoring.queries.select import Rows, select, select_one
from tristream.monitoring.store.client import Client

SEARCH_SECONDS = 2.0
"""No new range is begun after this time."""
FIRST_WINDOW, LAST_WINDOW = 64, 8192
"""Groups of the first and of the largest window."""
MAX_NUMBER = 2**62
MAX_INDEX = 2**31 - 1
JUDGED, WAITING, ANY = "judged", "waiting", ""
STATUSES = (ANY, JUDGED, WAITING, "scored", "unscorable", "timeout", "error")
"""What can be asked of the verdicts of a rollout: whatever, at least one, none, or one of that status."""
SPLITS = ("train", "eval")

_ROUNDS = """
    SELECT DISTINCT eval_step, eval_attempt FROM rollouts WHERE run = {run:String} AND split = 'eval'
    ORDER BY eval_step DESC, eval_attempt DESC
"""
_NEWEST = "SELECT max(number) AS newest, count() AS n FROM rollouts WHERE run = {run:String} AND split = 'train'"
_NUMBERS_OF_STEPS = """
    SELECT min(number) AS first, max(number) AS last, count() AS n FROM prompts
    WHERE run = {run:String} AND split = 'train' AND step BETWEEN {first_step:Int64} AND {last_step:Int64}
"""
_RANGE = """
    run = {run:String} AND split = {split:String} AND eval_step = {eval_step:Int64}
    AND eval_attempt = {eval_attempt:Int32} AND number BETWEEN {low:Int64} AND {high:Int64}
"""
_HITS = """
    SELECT
        r.split AS split, r.eval_step AS eval_step, r.eval_attempt AS eval_attempt, number, rollout_index,
        toUnixTimestamp64Milli(r.created) AS created_ms
    FROM (
        SELECT split, eval_step, eval_attempt, number, rollout_index, step, created FROM rollouts FINAL
        WHERE $range AND (number < {high:Int64} OR rollout_index > {after_index:Int32}) $wanted
    ) AS r
    $joins
    WHERE $filters
    ORDER BY number DESC, rollout_index $one_each LIMIT {limit:UInt32}
"""
_STATUSES = """
    LEFT JOIN (
        SELECT number, rollout_index, groupUniqArray(toString(status)) AS statuses FROM rewards
        WHERE $range GROUP BY number, rollout_index
    ) AS w USING (number, rollout_index)
"""
_TEXT_FILTER = """
    AND (positionCaseInsensitiveUTF8(text, {text:String}) > 0
         OR positionCaseInsensitiveUTF8(prompt_text, {text:String}) > 0)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for; what is empty or None does not matter."""

    split: str = ""
    source: str = ""
    status: str = ANY
    text: str = ""
    """Part of a prompt or an answer, whatever the case."""
    min_reward: float | None = None
    max_reward: float | None = None
    first_step: int | None = None
    """Of the step that trained a rollout; of the one it was dispatched for, where none has; of its evaluation."""
    last_step: int | None = None
    one_each: bool = False
    """At most one rollout of each group."""

    @property
    def needs_worths(self) -> bool:
        """Whether rewards or training steps decide."""
        bounds = (self.min_reward, self.max_reward, self.first_step, self.last_step)
        return any(bound is not None for bound in bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The last rollout of a split that was looked at, in the order of the search."""

    eval_step: int
    eval_attempt: int
    number: int
    rollout_index: int

    def __str__(self) -> str:
        return f"{self.eval_step}.{self.eval_attempt}.{self.number}.{self.rollout_index}"


_DONE = Position(eval_step=-1, eval_attempt=0, number=-1, rollout_index=0)


def parse_cursor(text: str) -> dict[str, Position]:
    """Positions by split of a cursor such as ``train=0.0.812.3,eval=40.0.7.0``.

    Raises:
        ValueError: it is none.
    """
    found = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"(train|eval)=(-?\d{1,18})\.(\d{1,9})\.(-?\d{1,19})\.(-?\d{1,10})", part)
        if not match:
            raise ValueError(text)
        eval_step, attempt, number, index = (int(value) for value in match.groups()[1:])
        found[match[1]] = Position(eval_step=eval_step, eval_attempt=attempt, number=number, rollout_index=index)
    return found


def search_rollouts(
    client: Client, run: str, search: Search, *, limit: int = 24, cursor: str = "", seconds: float = SEARCH_SECONDS
) -> dict[str, Any]:
    """A page of rollouts with all that ``read_details`` says of each.

    Returns:
        ``rollouts``; ``next``, the cursor of the next page, or empty at the end; ``hint``, which says how far the
        search came if its time was up, or is empty.
    """
    deadline = time.monotonic() + seconds
    positions = parse_cursor(cursor)
    splits = [search.split] if search.split else list(SPLITS)
    streams = [_Stream(client, run, split, search, limit, positions.get(split), deadline) for split in splits]
    keys: list[RolloutKey] = []
    while len(keys) < limit:
        heads = [(row["created_ms"], index) for index, stream in enumerate(streams) if (row := stream.head())]
        if not heads or any(stream.is_cut for stream in streams):
            break
        keys.append(streams[max(heads)[1]].take())
    is_done = all(stream.is_done for stream in streams)
    told = ",".join(f"{stream.split}={stream.position}" for stream in streams)
    is_cut = any(stream.is_cut for stream in streams)
    return {
        "rollouts": read_details(client, run, keys),
        "next": "" if is_done else told,
        "hint": _hint(streams, seconds) if is_cut else "",
    }


def _hint(streams: "list[_Stream]", seconds: float) -> str:
    where = [
        f"group {stream.position.number}"
        if stream.split == "train"
        else f"the evaluation of step {stream.position.eval_step}"
        for stream in streams
        if not stream.is_done
    ]
    return (
        f"The search was cut after {seconds:g} s; it came down to {' and '.join(where)}. Older ones were not looked at."
    )


@dataclass(slots=True)
class _Stream:
    """The hits of one split, from a position down."""

    client: Client
    run: str
    split: str
    search: Search
    limit: int
    start: Position | None
    deadline: float
    is_done: bool = False
    is_cut: bool = False
    position: Position = _DONE
    hits: deque[dict[str, Any]] = field(default_factory=deque)
    rounds: list[tuple[int, int]] = field(default_factory=list)
    window: int = FIRST_WINDOW
    lowest: int = 0
    end: Position = _DONE
    """Where the search goes on when all hits are taken."""

    def __post_init__(self) -> None:
        first = self._first_train() if self.split == "train" else self._first_eval()
        self.position = first if self.start is None else self.start
        if self.start is not None and self.split == "train":
            self.position = self.start if self.start.number <= first.number else first
        self.is_done = self.position == _DONE
        self.end = self.position

    def _first_train(self) -> Position:
        newest = select_one(self.client, _NEWEST, run=self.run)
        last = newest["newest"] if newest["n"] else -1
        if self.search.first_step is not None or self.search.last_step is not None:
            last = self._narrow(last)
        return replace(_DONE, eval_step=0, number=last, rollout_index=-1) if last >= 0 else _DONE

    def _narrow(self, last: int) -> int:
        """Numbers of the steps asked for; a step trains groups that were dispatched for it or for one before."""
        first_step, last_step = self.search.first_step, self.search.last_step
        bounds = {
            "first_step": (first_step or 0) - MAX_LATE_STEPS,
            "last_step": MAX_NUMBER if last_step is None else last_step,
        }
        found = select_one(self.client, _NUMBERS_OF_STEPS, run=self.run, **bounds)
        self.lowest = found["first"] if found["n"] else 0
        return min(last, found["last"]) if found["n"] else -1

    def _first_eval(self) -> Position:
        low, high = self.search.first_step or 0, MAX_NUMBER if self.search.last_step is None else self.search.last_step
        rows = select(self.client, _ROUNDS, run=self.run)
        self.rounds = [(row["eval_step"], row["eval_attempt"]) for row in rows if low <= row["eval_step"] <= high]
        return _start_of(self.rounds[0]) if self.rounds else _DONE

    def head(self) -> dict[str, Any] | None:
        """The next hit, or None at the end or when the time is up."""
        while not self.hits and not self.is_done:
            self.position = self.end
            if self.position == _DONE:
                self.is_done = True
            elif time.monotonic() > self.deadline:
                self.is_cut = True
                return None
            else:
                self._fetch()
        return self.hits[0] if self.hits else None

    def take(self) -> RolloutKey:
        row = self.hits.popleft()
        key = (row["split"], row["eval_step"], row["eval_attempt"], row["number"], row["rollout_index"])
        index = MAX_INDEX if self.search.one_each else row["rollout_index"]
        self.position = Position(eval_step=key[1], eval_attempt=key[2], number=key[3], rollout_index=index)
        return key

    def _fetch(self) -> None:
        at = self.position
        low = max(self.lowest, at.number - self.window + 1) if self.split == "train" else 0
        rows = self._ask(low)
        self.hits.extend(rows)
        if len(rows) == self.limit:
            last = rows[-1]
            index = MAX_INDEX if self.search.one_each else last["rollout_index"]
            self.end = replace(at, number=last["number"], rollout_index=index)
        else:
            self.end = self._below(low)
            self.window = min(LAST_WINDOW, 4 * self.window)

    def _below(self, low: int) -> Position:
        if self.split == "train":
            return replace(self.position, number=low - 1, rollout_index=-1) if low > self.lowest else _DONE
        here = (self.position.eval_step, self.position.eval_attempt)
        older = [one for one in self.rounds if one < here]
        return _start_of(older[0]) if older else _DONE

    def _ask(self, low: int) -> Rows:
        search, at = self.search, self.position
        parameters: dict[str, Any] = {
            "run": self.run, "split": self.split, "eval_step": at.eval_step, "eval_attempt": at.eval_attempt,
            "low": low, "high": at.number, "after_index": at.rollout_index, "limit": self.limit,
        }  # fmt: skip
        for name in ("source", "text", "min_reward", "max_reward", "first_step", "last_step"):
            if getattr(search, name) not in ("", None):
                parameters[name] = getattr(search, name)
        if search.status not in (ANY, JUDGED, WAITING):
            parameters["status"] = search.status
        return select(self.client, _hits_sql(search, self.split), **parameters)


def _start_of(one: tuple[int, int]) -> Position:
    return Position(eval_step=one[0], eval_attempt=one[1], number=MAX_NUMBER, rollout_index=-1)


def _hits_sql(search: Search, split: str) -> str:
    wanted = " AND source = {source:String}" if search.source else ""
    wanted += _TEXT_FILTER if search.text else ""
    joins, filters = "", ["1"]
    if search.status != ANY:
        joins += _STATUSES
        by_status = {JUDGED: "notEmpty(statuses)", WAITING: "empty(statuses)"}
        filters.append(by_status.get(search.status, "has(statuses, {status:String})"))
    if search.needs_worths:
        joins += f"LEFT JOIN ({worths_sql(_RANGE, is_training=split == 'train')}) AS o USING (number, rollout_index)"
        filters += ["o.reward >= {min_reward:Float64}"] if search.min_reward is not None else []
        filters += ["o.reward <= {max_reward:Float64}"] if search.max_reward is not None else []
    if split == "train":
        step = "if(o.at_step > 0, o.at_step, r.step)"
        filters += [f"{step} >= {{first_step:Int64}}"] if search.first_step is not None else []
        filters += [f"{step} <= {{last_step:Int64}}"] if search.last_step is not None else []
    one_each = "LIMIT 1 BY number" if search.one_each else ""
    parts = {"wanted": wanted, "joins": joins, "filters": " AND ".join(filters), "one_each": one_each}
    text = _HITS
    for name, value in parts.items():
        text = text.replace(f"${name}", value)
    return text.replace("$range", _RANGE)
