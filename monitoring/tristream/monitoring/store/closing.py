"""Closing: the figures of steps, rounds, minutes and blocks of groups, each computed once from the events of its keys.

    rows are written --> now and then: what they touched is closed anew --> the sink commits

Whatever order rows come in, what was touched is computed again from all rows of its keys, by the same SQL as the views
that say what it means. So a row that comes twice or late changes nothing or what it should, and a sink that is killed
anywhere reads its records again and closes again. The rows of a step count from the moment when its closing is written.

Of a step, figures hang on its report, on the groups that it trained, on those that were dropped before it, and on where
neighbours end. A step that a learner trains anew moves in time, so its old and its new neighbour are closed too.
"""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tristream.monitoring.store.clickhouse import describe_error
from tristream.monitoring.store.closing_keys import ClosingKeys, StepKeys
from tristream.monitoring.store.definitions import narrow
from tristream.monitoring.store.touched import GROUPS_PER_BLOCK, MINUTE_NS, Touched
from tristream.monitoring.store.writer import Writer
from tristream.runtime.errors import TryAgainError

LOG = logging.getLogger("tristream.monitor")

STEP_ROWS = ("judged_groups", "trained_rollouts")
"""Tables ``closed_...`` with the groups and rollouts of a step, from the view ``raw_...``."""
STEP_FIGURES = ("source_groups", "source_steps", "source_components", "reflection_words", "verifier_steps")
"""Those with figures of a step: of the groups and rollouts that were just written, which are not computed twice."""
GROUPS_AT_ONCE = 4_000
"""Steps of about so many groups are closed together."""
LAST_NS = 2**63 - 1

_COLUMNS: dict[str, str] = {}
"""Of each view, as its text in this process says."""


class Closing:
    """Closes what was touched; used by the thread of the sink.

    Args:
        writer: writes into the database.
        run: the run, of which this process alone writes.
    """

    def __init__(self, writer: Writer, run: str) -> None:
        self._writer = writer
        self._run = run
        self._keys = ClosingKeys(writer, run)
        self._closing = self._keys.read_newest_closing()
        self._order = self._keys.read_order()

    def add_outdated(self, touched: Touched) -> None:
        """Add what was closed before the run file said something else of its sources."""
        touched.steps |= self._keys.read_outdated_steps()
        touched.rounds |= self._keys.read_outdated_rounds()

    def close_steps(self, touched: Touched) -> None:
        """Close the steps that were touched, by the keys of all rows that were written since the last call.

        Raises:
            TryAgainError: the database took nothing for a while after the part was told to stop.
        """
        self._begin()
        numbers, times_ns, known = set(touched.numbers), dict[int, int](), dict[int, set[int]]()
        for step, time_ns, reported in self._keys.read_reports(touched.steps):
            times_ns[step], known[step] = time_ns, reported
            numbers |= reported
        numbers |= self._keys.read_numbers(touched.steps)
        order = self._order.updated(times_ns)
        steps = set(times_ns) | self._keys.read_steps_of(numbers)
        for time_ns in touched.drop_times_ns:
            steps.update(order.at(time_ns))
        for step, time_ns in times_ns.items():
            steps.update(self._order.at(time_ns))
            if step in self._order.times_ns:
                steps.update(order.at(self._order.times_ns[step]))
        for keys in self._keys.read_groups(order, steps & order.times_ns.keys(), known, GROUPS_AT_ONCE):
            self._close_some_steps(keys)
        self._order = order
        touched.forget_steps()

    def close_others(self, touched: Touched) -> None:
        """Close the rounds, blocks of groups and minutes that were touched since the last call.

        Raises:
            TryAgainError: the database took nothing for a while after the part was told to stop.
        """
        self._begin()
        for rounds in _batches(sorted(touched.rounds), 20):
            self._close_rounds(rounds)
        for block in sorted(touched.blocks):
            self._close_block(block)
        self._close_minutes(touched.minutes)
        touched.forget_others()

    def _begin(self) -> None:
        self._closing = max(time.time_ns(), self._closing + 1)

    def _close_some_steps(self, keys: Sequence[StepKeys]) -> None:
        """Close steps; if the database refuses to, find by halves the one that it is."""
        numbers = sorted({number for step in keys for number in step.numbers})
        of_groups = f"run = {{run:String}} AND split = 'train' AND number IN ({_list(numbers)})"
        conditions = dict.fromkeys(("kept_prompts", "kept_rollouts", "kept_rewards", "kept_outcomes"), of_groups)
        conditions |= dict.fromkeys(("step_ends", "kept_sources"), "run = {run:String}")
        conditions["kept_steps"] = (
            f"run = {{run:String}} AND notEmpty(numbers) AND arrayMin(numbers) <= {max(numbers, default=0)}"
            f" AND arrayMax(numbers) >= {min(numbers, default=0)}"
        )
        among = f"step IN ({_list(step.step for step in keys)})"
        try:
            for name in STEP_ROWS if numbers else ():
                self._insert(name, conditions, among)
            written = {
                f"raw_{name}": f"SELECT * FROM closed_{name}"
                f" WHERE run = {{run:String}} AND {among} AND closing = {self._closing}"
                for name in STEP_ROWS
            }
            for name in STEP_FIGURES if numbers else ():
                self._insert(name, conditions, among, written)
        except ClosingError as error:
            if len(keys) == 1:
                LOG.error("the figures of step %d are left out: %s", keys[0].step, error)
                return
            middle = len(keys) // 2
            self._close_some_steps(keys[:middle])
            self._close_some_steps(keys[middle:])
            return
        self._keys.write_steps(keys, self._closing)

    def _close_rounds(self, rounds: Sequence[tuple[int, int]]) -> None:
        of_rounds = f"run = {{run:String}} AND split = 'eval' AND (eval_step, eval_attempt) IN ({_list(rounds)})"
        conditions = dict.fromkeys(("kept_prompts", "kept_rollouts", "kept_rewards", "kept_outcomes"), of_rounds)
        conditions |= {"kept_sources": "run = {run:String}", "kept_steps": "0"}
        self._insert_or_say("rounds", conditions)

    def _close_block(self, block: int) -> None:
        first = block * GROUPS_PER_BLOCK
        of_block = (
            f"run = {{run:String}} AND split = 'train' AND number BETWEEN {first} AND {first + GROUPS_PER_BLOCK - 1}"
        )
        if self._insert_or_say("settled_blocks", {"kept_prompts": of_block, "kept_outcomes": of_block}):
            self._keys.write_block(block, self._closing)

    def _close_minutes(self, minutes: set[int]) -> None:
        for first, last in _ranges(sorted(minutes)):
            first_ns, last_ns = first * MINUTE_NS, min((last + 1) * MINUTE_NS - 1, LAST_NS)
            of_minutes = (
                f"run = {{run:String}} AND created BETWEEN fromUnixTimestamp64Nano({first_ns}, 'UTC')"
                f" AND fromUnixTimestamp64Nano({last_ns}, 'UTC')"
            )
            for name, kept in (("verifier_minutes", "kept_rewards"), ("throughput", "kept_rollouts")):
                self._insert_or_say(name, {kept: of_minutes})

    def _insert_or_say(self, name: str, conditions: dict[str, str]) -> bool:
        try:
            self._insert(name, conditions)
        except ClosingError as error:
            LOG.error("some figures of %s are left out: %s", name, error)
            return False
        return True

    def _insert(
        self, name: str, conditions: dict[str, str], among: str = "1", instead: dict[str, str] | None = None
    ) -> None:
        """Write the rows of a view, narrowed to some keys, into its table.

        Raises:
            ClosingError: the database refuses to, although it takes rows.
        """
        columns = _COLUMNS.get(name) or self._read_columns(name)
        statement = (
            f"INSERT INTO closed_{name} ({columns}, closing) {narrow(f'raw_{name}', conditions, instead)}"
            f" SELECT {columns}, {self._closing} FROM raw_{name} WHERE {among}"
        )
        self._insist(lambda client: client.command(statement, {"run": self._run}))

    def _read_columns(self, name: str) -> str:
        """The columns that this version computes: the table may have more."""
        query = f"DESCRIBE ({narrow(f'raw_{name}', {})} SELECT * FROM raw_{name})"
        rows = self._insist(lambda client: client.query(query)).result_rows
        _COLUMNS[name] = ", ".join(row[0] for row in rows)
        return _COLUMNS[name]

    def _insist(self, ask: Any) -> Any:  # noqa: ANN401 - whatever the database says
        try:
            return self._writer.insist(ask)
        except TryAgainError:
            raise
        except Exception as error:
            raise ClosingError(describe_error(error)) from error


class ClosingError(Exception):
    """The database refuses to compute some figures."""


def _list(values: Iterable[object]) -> str:
    """Values as SQL has them; none is no list, so that it is NULL, which nothing equals."""
    return ", ".join(map(str, values)) or "NULL"


def _ranges(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Sorted values as ranges of neighbours, first and last."""
    first = last = None
    for value in values:
        if last is not None and first is not None and value > last + 1:
            yield first, last
            first = value
        first, last = value if first is None else first, value
    if first is not None and last is not None:
        yield first, last


def _batches(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
