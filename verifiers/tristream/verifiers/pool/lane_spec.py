"""Which verifiers share their processes, and what these are let to do."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tristream.verifiers.definition import Limits, Need


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpec:
    """Verifiers that are served by the same children."""

    entry_points: Mapping[str, str]
    """By ``NAME@VERSION``."""
    needs: frozenset[Need] = frozenset()
    is_async: bool = False
    cpu_seconds: float | None = None
    """Instead of the verifiers' own limit, like the next two."""
    wall_seconds: float | None = None
    memory_mib: int | None = None

    def limits_of(self, declared: Limits) -> Limits:
        """The limits of a verifier here."""
        return Limits(
            cpu_seconds=declared.cpu_seconds if self.cpu_seconds is None else self.cpu_seconds,
            wall_seconds=declared.wall_seconds if self.wall_seconds is None else self.wall_seconds,
            memory_mib=declared.memory_mib if self.memory_mib is None else self.memory_mib,
        )

    @property
    def may_use_network(self) -> bool:
        """Whether its verifiers reach the network."""
        return self.is_async or Need.NETWORK in self.needs

    @property
    def may_start_processes(self) -> bool:
        """Whether its verifiers may start processes and threads; looking up addresses takes threads."""
        return self.is_async or Need.PROCESSES in self.needs

    def to_json(self) -> str:
        """As JSON, for the fork server."""
        return json.dumps(
            {
                "entry_points": dict(self.entry_points),
                "needs": sorted(self.needs),
                "is_async": self.is_async,
                "cpu_seconds": self.cpu_seconds,
                "wall_seconds": self.wall_seconds,
                "memory_mib": self.memory_mib,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "LaneSpec":
        """The spec that ``to_json`` wrote."""
        values: dict[str, Any] = json.loads(text)
        return cls(**{**values, "needs": frozenset(Need(need) for need in values["needs"])})
