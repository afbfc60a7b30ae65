"""What became of the lines, counted by verifier as they are answered."""

from collections import Counter
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from tristream.verifiers.offline.questions import Answer
from tristream.wire.events import Status


@dataclass(slots=True, kw_only=True)
class Row:
    """The lines of one verifier."""

    statuses: Counter[Status] = field(default_factory=Counter)
    num_rewards: int = 0
    reward_sum: float = 0.0
    cpu_seconds: float = 0.0
    most_cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def num_lines(self) -> int:
        """All its lines."""
        return self.statuses.total()


@dataclass(slots=True, kw_only=True)
class Tally:
    """All lines that were answered."""

    rows: dict[str, Row] = field(default_factory=dict)
    """By ``NAME@VERSION``."""
    num_bad: int = 0
    first_error: str = ""
    """Of the first bad line."""

    def count(self, answer: Answer) -> None:
        """Count one more answer."""
        verdict = answer.verdict
        if verdict is None:
            self.num_bad += 1
            self.first_error = self.first_error or str(answer.fields.get("error", ""))
            return
        row = self.rows.setdefault(answer.verifier, Row())
        row.statuses[verdict.status] += 1
        row.cpu_seconds += verdict.cpu_seconds
        row.most_cpu_seconds = max(row.most_cpu_seconds, verdict.cpu_seconds)
        row.wall_seconds += verdict.wall_seconds
        if answer.final_reward is not None:
            row.num_rewards += 1
            row.reward_sum += answer.final_reward

    def table(self) -> Table:
        """A line for each verifier; milliseconds are those of one call."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("verifier", overflow="fold")
        titles = ("lines", "mean reward", *(str(status) for status in Status), "cpu ms", "most", "wall ms")
        for title in titles:
            table.add_column(title, justify="right")
        for name, row in sorted(self.rows.items()):
            mean = f"{row.reward_sum / row.num_rewards:.4f}" if row.num_rewards else "-"
            milliseconds = (row.cpu_seconds / row.num_lines, row.most_cpu_seconds, row.wall_seconds / row.num_lines)
            table.add_row(
                name,
                str(row.num_lines),
                mean,
                *(str(row.statuses[status]) for status in Status),
                *(f"{1000 * seconds:.2f}" for seconds in milliseconds),
            )
        return table
