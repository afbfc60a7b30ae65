"""What a metric is: one number with its unit, its meaning, and the SQL that gives it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

Dashboard = Literal["run", "source", "pipeline"]


class Unit(StrEnum):
    """What a number counts."""

    SHARE = "share"
    """Between 0 and 1, shown in percent."""
    SCORE = "score"
    """What a verifier says, or what is made of it."""
    TOKENS = "tokens"
    NATS = "nats"
    SECONDS = "seconds"
    BYTES = "bytes"
    VERSIONS = "policy versions"
    ROLLOUTS = "rollouts"
    GROUPS = "groups"
    REWARDS = "rewards"
    RECORDS = "records"
    WORDS = "occurrences"
    CORES = "CPU cores"
    PER_SECOND = "per second"
    NUMBER = "number"
    """Without a unit, such as a loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number of a run, as a column of a view with a row for each moment and each value of ``per``."""

    name: str
    """Unique in the registry; for metrics of the page it is the column."""
    title: str
    unit: Unit
    meaning: str
    """What is counted, over which population, and what to look for: sentences."""
    view: str
    column: str = ""
    """A column or an expression of the view; empty means the name."""
    per: tuple[str, ...] = ("source",)
    """Columns that tell rows of one moment apart, besides the run."""
    time: str = "created"
    """The column that says when."""
    table: str = ""
    """What follows FROM, if it is more than the view, such as an array join or a subquery of it."""
    where: str = ""
    """Which rows of the view are meant; empty means all."""
    note: str = ""
    """Unit or population in a few words, for the heading of a small chart."""
    page: Literal["main", "more", ""] = ""
    """Where the live page and the report draw it as a curve of each source: first, among more, or not as such."""
    dashboards: tuple[Dashboard, ...] = ()
    """Grafana dashboards with a panel of it."""

    @property
    def is_share(self) -> bool:
        """Whether it is between 0 and 1 and shown in percent."""
        return self.unit is Unit.SHARE

    @property
    def expression(self) -> str:
        """The SQL expression of the value."""
        return self.column or self.name

    def select(self, condition: str = "") -> str:
        """A query with ``time``, the columns of ``per`` and ``value``, in the order of time; NULL where there is none.

        Args:
            condition: SQL that rows have to meet, such as ``run = {run:String}``; empty means all runs.
        """
        columns = ", ".join((f"{self.time} AS time", *self.per, f"{self.expression} AS value"))
        conditions = " AND ".join(part for part in (condition, self.where) if part)
        where = f" WHERE {conditions}" if conditions else ""
        return f"SELECT {columns}\nFROM {self.table or self.view}{where} ORDER BY time"

    def to_panel(self) -> dict[str, Any]:
        """What the page needs to draw it, as JSON values."""
        return {
            "key": self.name,
            "title": self.title,
            "note": self.note,
            "percent": self.is_share,
            "meaning": self.meaning,
        }
