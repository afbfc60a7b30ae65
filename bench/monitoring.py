"""Time what people ask of a long run, and how fast events become rows and closed figures.

The run is made up in an embedded engine, its figures are closed as the monitor closes them, and every query of the
page and of Grafana's dashboards is asked twice: after the engine's caches were emptied, and again. The engine computes
on one thread; what counts is the CPU time of this process meanwhile, and how far its memory rose.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.measuring import make_table, say, show, write_results
from bench.monitoring_data import RUN, SOURCES, LongRun, make_settings
from bench.monitoring_sink import measure_sink

from tristream.config.parts import MonitorSettings
from tristream.monitoring.grafana.files import build_dashboards
from tristream.monitoring.page.answer_cache import AnswerCache
from tristream.monitoring.page.routes import Routes
from tristream.monitoring.store.clickhouse import Role, open_embedded
from tristream.monitoring.store.client import Client, QueryResult

GOAL_MILLISECONDS = 200
GOAL_MEGABYTES = 2000
GOAL_REWARDS_PER_SECOND = 20_000
GOAL_ROLLOUTS_PER_SECOND = 8_000
PATHS = (
    "/api/head", "/api/status", "/api/groups", "/api/sources", "/api/verifiers", "/api/evaluation",
    "/api/curves?parts=main", "/api/curves?parts=more", "/api/curves?parts=components", "/api/curves?parts=learner",
    "/api/layers", "/api/runs", "/api/rollouts", f"/api/rollouts?source={SOURCES[0]}", "/api/rollouts?min_reward=0.9",
    f"/api/why?step=50&source={SOURCES[0]}",
)  # fmt: skip
"""What the page asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One query, or all those of one answer of the page."""

    name: str
    num_queries: int
    cold_milliseconds: float
    warm_milliseconds: float
    """CPU time of the slowest query."""
    whole_milliseconds: float
    """CPU time of the whole answer, warm."""
    peak_megabytes: float
    error: str = ""


class TimedClient:
    """A client that notes the CPU time of its slowest query."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.reset()

    def reset(self) -> None:
        """Forget what was noted."""
        self.slowest_seconds, self.num_queries = 0.0, 0

    def query(self, query: str, parameters: dict[str, Any] | None = None) -> QueryResult:
        """Ask, and note how long that took."""
        started = time.process_time()
        try:
            return self._client.query(query, parameters)
        finally:
            self.num_queries += 1
            self.slowest_seconds = max(self.slowest_seconds, time.process_time() - started)

    def command(self, cmd: str, parameters: dict[str, Any] | None = None) -> object:
        """Run a statement without rows."""
        return self._client.command(cmd, parameters)

    def insert(
        self, table: str, data: Sequence[Sequence[Any]], column_names: Sequence[str], settings: dict[str, Any]
    ) -> object:
        """Write rows."""
        return self._client.insert(table, data, column_names=column_names, settings=settings)

    def close(self) -> None:
        """Whoever opened it closes it."""


def measure(name: str, client: TimedClient, ask: Callable[[], object]) -> Measurement:
    """Ask twice, after the caches were emptied and again."""
    slowest, error, whole = [], "", 0.0
    before = _reset_peak()
    for is_cold in (True, False):
        if is_cold:
            for cache in ("MARK", "UNCOMPRESSED", "QUERY CONDITION"):
                client.command(f"SYSTEM DROP {cache} CACHE")
        client.reset()
        started = time.process_time()
        try:
            ask()
        except Exception as failure:
            error = str(failure).splitlines()[0][:90]
        whole = time.process_time() - started
        slowest.append(client.slowest_seconds)
    return Measurement(
        name=name, num_queries=client.num_queries, cold_milliseconds=1000 * slowest[0], error=error,
        warm_milliseconds=1000 * slowest[1], whole_milliseconds=1000 * whole, peak_megabytes=_peak_megabytes() - before,
    )  # fmt: skip


def measure_page(client: TimedClient, folder: Path) -> Iterator[Measurement]:
    """Each answer of the page."""
    settings = MonitorSettings.of(make_settings(folder))
    for path in PATHS:
        yield measure(path, client, partial(_answer_afresh, client, settings, path))


def _answer_afresh(client: TimedClient, settings: MonitorSettings, path: str) -> object:
    """An answer that no cache has."""
    return Routes(settings, AnswerCache(client, client, client)).respond(path)


def measure_dashboards(client: TimedClient) -> Iterator[Measurement]:
    """Each query of each panel, with the first values of its variables."""
    for name, dashboard in build_dashboards().items():
        for title, sql in _queries_of(dashboard):
            yield measure(f"{Path(name).stem}: {title}", client, partial(client.query, _expand(sql)))


def _queries_of(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in dashboard["panels"]:
        for part in (panel, *panel.get("panels", ())):
            for target in part.get("targets", ()):
                if target.get("rawSql"):
                    yield part.get("title", ""), target["rawSql"]
    for annotation in dashboard.get("annotations", {}).get("list", ()):
        target = annotation.get("target", {})
        if target.get("rawSql"):
            yield f"annotation {annotation['name']}", target["rawSql"]


def _expand(sql: str) -> str:
    """A query with all sources and verifiers chosen, over all time."""
    values = {"run": [RUN], "source": list(SOURCES), "verifier": ["math", "strict"], "version": ["1"]}

    def quote(match: re.Match[str]) -> str:
        return ", ".join(f"'{value}'" for value in values.get(match[1], ["1"]))

    sql = re.sub(r"\$\{(\w+):sqlstring\}", quote, sql)
    sql = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 >= toDateTime(1) AND \1 <= toDateTime(4000000000)", sql)
    sql = re.sub(r"\$__timeInterval\((\w+)\)", r"toStartOfInterval(toDateTime(\1), INTERVAL 10 second)", sql)
    return re.sub(r"\$\{?\w+\}?", "1", sql.replace("$__interval_s", "10"))


def _reset_peak() -> float:
    """Forget the highest memory of this process; returns what it holds now, in megabytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak_megabytes()


def _peak_megabytes() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def _rows(measured: list[Measurement]) -> list[list[str]]:
    def mark(one: Measurement) -> str:
        is_met = (
            max(one.cold_milliseconds, one.warm_milliseconds) < GOAL_MILLISECONDS
            and one.peak_megabytes < GOAL_MEGABYTES
        )
        return one.error or ("" if is_met else "MISSED")

    return [
        [one.name, str(one.num_queries), f"{one.cold_milliseconds:.0f}", f"{one.warm_milliseconds:.0f}",
         f"{one.whole_milliseconds:.0f}", f"{one.peak_megabytes:.0f}", mark(one)]
        for one in measured
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rewards of the run (default: 10,000,000)")
    parser.add_argument(
        "--sink-groups", type=int, default=2_500, help="groups of 8 that the sink writes (default: 2,500)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-monitoring-") as name:
        folder = Path(name)
        sink = measure_sink(folder / "clickhouse", arguments.sink_groups)
        say(f"the sink: {json.dumps({key: round(value) for key, value in sink.items()})} of a core")
        client = open_embedded(folder / "clickhouse", role=Role.WRITES)
        run = LongRun(num_rewards=arguments.rows)
        say(f"fill the database with {arguments.rows} rewards, {run.num_steps} steps")
        run.fill(client)
        started = time.process_time()
        run.close(client, make_settings(folder))
        closing_milliseconds = 1000 * (time.process_time() - started) / run.num_steps
        say(f"closed: {closing_milliseconds:.1f} ms of CPU a step")
        page: Any = open_embedded(folder / "clickhouse", role=Role.ANSWERS)
        page.set_client_setting("max_execution_time", 60)  # what counts is CPU time, on a machine that may be busy
        reader = TimedClient(page)
        measured = [*measure_page(reader, folder), *measure_dashboards(reader)]
        client.close()
    columns = ("answer or panel", "queries", "cold ms", "warm ms", "all, ms", "peak MB", "")
    title = f"CPU of the slowest query, {arguments.rows} rewards; goal {GOAL_MILLISECONDS} ms, {GOAL_MEGABYTES} MB"
    show(make_table(title, columns, _rows(measured)))
    for name, goal in (("rewards", GOAL_REWARDS_PER_SECOND), ("rollouts", GOAL_ROLLOUTS_PER_SECOND)):
        for kind, where in (("", "from memory"), ("kafka_", "from a broker")):
            rate = sink[f"{kind}{name}_per_second"]
            verdict = "met" if rate >= goal else "MISSED"
            say(f"goal: at least {goal} {name} a second on one core, {where}: {rate:.0f}, {verdict}")
    facts = {"rows": arguments.rows, "sink": sink, "closing_milliseconds_per_step": closing_milliseconds}
    say(f"written to {write_results('monitoring', facts | {'queries': [asdict(one) for one in measured]})}")


if __name__ == "__main__":
    main()
