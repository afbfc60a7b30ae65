"""Closed figures against the views that say what they must be; and a client that is killed at a chosen statement."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tristream.monitoring.store.client import Client, QueryResult
from tristream.monitoring.store.definitions import narrow

KEPT = ("kept_prompts", "kept_rollouts", "kept_rewards", "kept_outcomes", "kept_steps", "kept_sources", "step_ends")
CLOSED: Mapping[str, str] = {
    "judged_groups": "notEmpty(rewards)", "trained_rollouts": "1", "source_groups": "1", "source_steps": "1",
    "source_components": "1", "reflection_words": "1", "verifier_steps": "1", "throughput": "1",
    "verifier_minutes": "1",
}  # fmt: skip
"""Views over closed tables with the rows of their definition that are shown."""


def read_differences(client: Client, run: str) -> list[str]:
    """What closed tables of a run say otherwise than their definitions over all raw rows; empty if nothing."""
    found = []
    conditions = dict.fromkeys(KEPT, "run = {run:String}")
    for name, shown in CLOSED.items():
        columns = [row[0] for row in client.query(f"DESCRIBE TABLE {name}").result_rows]
        wanted = f"{narrow(f'raw_{name}', conditions)} SELECT {', '.join(columns)} FROM raw_{name} WHERE {shown}"
        found += _compare(
            client, run, name, f"SELECT {', '.join(columns)} FROM {name} WHERE run = {{run:String}}", wanted
        )
    rounds = [row[0] for row in client.query("DESCRIBE TABLE evaluation").result_rows]
    found += _compare(
        client, run, "rounds",
        f"SELECT {', '.join(rounds)} FROM closed_rounds FINAL WHERE run = {{run:String}}",
        f"{narrow('raw_rounds', conditions)} SELECT {', '.join(rounds)} FROM raw_rounds",
    )  # fmt: skip
    found += _compare(
        client, run, "settled_groups",
        "SELECT run, source, fate, reason, num_groups, last_created FROM settled_groups WHERE run = {run:String}",
        f"{narrow('group_outcomes', conditions)} SELECT run, source, fate, reason, uniqExact(number), max(created)"
        " FROM group_outcomes GROUP BY run, source, fate, reason",
    )  # fmt: skip
    return found


def _compare(client: Client, run: str, name: str, query: str, wanted: str) -> list[str]:
    found = _rows(client, query, run)
    expected = _rows(client, wanted, run)
    if found == expected:
        return []
    differing = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]]
    return [f"{name}: {len(found)} rows, {len(expected)} expected, the first that differs: {differing[:1]}"]


def _rows(client: Client, query: str, run: str) -> list[str]:
    return sorted(repr(_rounded(row)) for row in client.query(query, {"run": run}).result_rows)


def _rounded(value: Any) -> Any:
    """Sums of floats differ in their last digits by the order in which they are made."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return sorted((key, _rounded(item)) for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_rounded(item) for item in value]
    return value


class Killed(BaseException):
    """The process is gone."""


class MortalClient:
    """A client that is killed before or after its n-th statement that writes."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.statements_left = math.inf
        self.dies_after = False
        """Whether the last statement is still carried out."""
        self.num_statements = 0

    def insert(
        self, table: str, data: Sequence[Sequence[Any]], column_names: Sequence[str], settings: dict[str, Any]
    ) -> object:
        self._live()
        result = self._client.insert(table, data, column_names=column_names, settings=settings)
        self._die()
        return result

    def command(self, cmd: str, parameters: dict[str, Any] | None = None) -> object:
        self._live()
        result = self._client.command(cmd, parameters)
        self._die()
        return result

    def query(self, query: str, parameters: dict[str, Any] | None = None) -> QueryResult:
        return self._client.query(query, parameters)

    def close(self) -> None:
        """The session closes its client."""

    def _live(self) -> None:
        self.num_statements += 1
        self.statements_left -= 1
        if self.statements_left <= 0 and not self.dies_after:
            raise Killed

    def _die(self) -> None:
        if self.statements_left <= 0:
            raise Killed
