"""What a closing must know before it computes: which steps a group counts for, which groups a step, what is closed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from tristream.monitoring.store.step_order import StepOrder
from tristream.monitoring.store.writer import Writer

_NEWEST_CLOSING = "SELECT max(closing) FROM closings WHERE run = {run:String}"
_ORDER = """
    SELECT key, toUnixTimestamp64Nano(argMax(created, closing)) FROM closings
    WHERE run = {run:String} AND kind = 'step' GROUP BY key
"""
_OUTDATED_STEPS = """
    SELECT key FROM closings WHERE run = {run:String} AND kind = 'step' GROUP BY key
    HAVING max(closing) < (SELECT toUnixTimestamp64Nano(max(created)) FROM sources WHERE run = {run:String})
"""
_OUTDATED_ROUNDS = """
    SELECT eval_step, eval_attempt FROM closed_rounds WHERE run = {run:String} GROUP BY eval_step, eval_attempt
    HAVING max(closing) < (SELECT toUnixTimestamp64Nano(max(created)) FROM sources WHERE run = {run:String})
"""
_REPORTS = """
    SELECT step, toUnixTimestamp64Nano(created), arrayDistinct(numbers) FROM steps FINAL
    WHERE run = {run:String} AND step IN {steps:Array(Int64)}
"""
_NUMBERS = """
    SELECT DISTINCT number FROM counted_groups WHERE run = {run:String} AND step IN {steps:Array(Int64)}
"""
_STEPS_OF = "SELECT DISTINCT step FROM counted_groups WHERE run = {{run:String}} AND number IN ({numbers})"
_DROPS = """
    SELECT DISTINCT number, toUnixTimestamp64Nano(created) FROM outcomes
    WHERE run = {{run:String}} AND split = 'train' AND fate = 'dropped' AND ({spans})
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepKeys:
    """A step that is to be closed."""

    step: int
    time_ns: int
    """When it was reported."""
    numbers: frozenset[int]
    """Groups that may count for it, trained or dropped."""


class ClosingKeys:
    """Looks keys up, and writes those of what is closed; waits for a database that is away."""

    def __init__(self, writer: Writer, run: str) -> None:
        self._writer = writer
        self._run = run

    def read_newest_closing(self) -> int:
        """The newest closing of the run, 0 if there is none."""
        return int(self._ask(_NEWEST_CLOSING)[0][0])

    def read_order(self) -> StepOrder:
        """The steps as they were when each was closed."""
        return StepOrder({int(row[0]): int(row[1]) for row in self._ask(_ORDER)})

    def read_outdated_steps(self) -> set[int]:
        """Steps that were closed before what the run file says of its sources changed."""
        return {row[0] for row in self._ask(_OUTDATED_STEPS)}

    def read_outdated_rounds(self) -> set[tuple[int, int]]:
        """Rounds that were."""
        return {(row[0], row[1]) for row in self._ask(_OUTDATED_ROUNDS)}

    def read_reports(self, steps: Iterable[int]) -> Iterator[tuple[int, int, set[int]]]:
        """Time and groups of each step that was reported."""
        wanted = sorted(steps)
        for step, time_ns, numbers in self._ask(_REPORTS, steps=wanted) if wanted else ():
            yield step, time_ns, set(numbers)

    def read_numbers(self, steps: Iterable[int]) -> set[int]:
        """Groups that counted for steps at any time."""
        wanted = sorted(steps)
        return {row[0] for row in self._ask(_NUMBERS, steps=wanted)} if wanted else set()

    def read_steps_of(self, numbers: Iterable[int]) -> set[int]:
        """Steps for which some of the groups may count."""
        wanted = ", ".join(map(str, sorted(numbers)))
        return {row[0] for row in self._ask(_STEPS_OF.format(numbers=wanted))} if wanted else set()

    def read_groups(
        self, order: StepOrder, steps: Iterable[int], known: Mapping[int, AbstractSet[int]], at_once: int
    ) -> Iterator[Sequence[StepKeys]]:
        """The keys of steps, in batches of about so many groups; of some it is known which were reported."""
        wanted = sorted(steps, key=lambda step: order.times_ns[step])
        for start in range(0, len(wanted), 50):
            some = wanted[start : start + 50]
            numbers: dict[int, set[int]] = defaultdict(set, {step: set(known[step]) for step in some if step in known})
            for step, _, reported in self.read_reports(step for step in some if step not in known):
                numbers[step] |= reported
            spans = " OR ".join(_between(*order.span(step)) for step in some)
            for number, time_ns in self._ask(_DROPS.format(spans=spans)):
                for step in order.at(time_ns):
                    numbers[step].add(number)
            batch: list[StepKeys] = []
            for step in some:
                keys = StepKeys(step=step, time_ns=order.times_ns[step], numbers=frozenset(numbers[step]))
                if batch and sum(len(one.numbers) for one in (*batch, keys)) > at_once:
                    yield batch
                    batch = []
                batch.append(keys)
            yield batch

    def write_steps(self, keys: Sequence[StepKeys], closing: int) -> None:
        """Make the rows of a closing of steps count."""
        counted = [(number, step.step) for step in keys for number in step.numbers]
        if counted:
            self._insert("counted_groups (run, number, step)", "pair.1, pair.2", counted)
        times = [(step.step, step.time_ns) for step in keys]
        made = "fromUnixTimestamp64Nano(pair.2, 'UTC')"
        self._insert("closings (run, kind, key, closing, created)", f"'step', pair.1, {closing}, {made}", times)

    def write_block(self, block: int, closing: int) -> None:
        """Make the rows of a closing of a block count."""
        self._insert("closings (run, kind, key, closing)", f"'block', pair.1, {closing}", [(block, 0)])

    def _insert(self, columns: str, values: str, pairs: Sequence[tuple[int, int]]) -> None:
        """Write a row for each pair; a statement alone is cheaper than a file of rows."""
        rows = f"SELECT arrayJoin(CAST({pairs}, 'Array(Tuple(Int64, Int64))')) AS pair"
        statement = f"INSERT INTO {columns} SELECT {{run:String}}, {values} FROM ({rows})"
        self._writer.insist(lambda client: client.command(statement, {"run": self._run}))

    def _ask(self, query: str, **parameters: object) -> Sequence[Sequence[Any]]:
        return self._writer.insist(lambda client: client.query(query, {"run": self._run, **parameters})).result_rows


def _between(first_ns: int, last_ns: int) -> str:
    return f"created BETWEEN fromUnixTimestamp64Nano({first_ns}, 'UTC') AND fromUnixTimestamp64Nano({last_ns}, 'UTC')"
