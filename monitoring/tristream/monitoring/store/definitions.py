"""The views that say what each number means, as text that can be narrowed to a few keys.

A view over all events of all runs is right and slow. Narrowed, each ``kept_...`` view that it stands on holds only the
rows that a closing is about, and the query is otherwise the same text, so that both come to the same numbers.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

FILE = "0002_definitions.sql"
_VIEW = re.compile(r"CREATE OR REPLACE VIEW (\w+) AS\s(.*?);\n", re.DOTALL)
_REFERENCE = re.compile(r"\b(?:FROM|JOIN) (\w+)")


@cache
def all_definitions() -> Mapping[str, str]:
    """The SELECT of each view by its name, in the order in which they build on each other."""
    text = (files("tristream.monitoring.store") / "sql" / FILE).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return dict(_VIEW.findall("\n".join(lines) + "\n"))


def narrow(view: str, conditions: Mapping[str, str], instead: Mapping[str, str] | None = None) -> str:
    """A WITH clause under which a view, and all that it stands on, is about some rows only.

    Args:
        view: name of the view that a SELECT after this clause reads.
        conditions: what rows of ``kept_...`` views must meet, by name; ``{run:String}`` may be bound in them.
            Views without a condition hold every row.
        instead: SELECTs that take the place of views, by name.

    Example:
        >>> narrow("step_ends", {"step_ends": "run = 'digits'"})
        "WITH step_ends AS (SELECT run, step, created FROM steps FINAL WHERE run = 'digits')"
    """
    definitions = {**all_definitions(), **(instead or {})}
    clauses = []
    for name in _needed(view, frozenset(instead or ())):
        condition = conditions.get(name)
        select = definitions[name].strip()
        clauses.append(f"{name} AS ({select} WHERE {condition})" if condition else f"{name} AS ({select})")
    return "WITH " + ", ".join(clauses)


@cache
def _needed(view: str, instead: frozenset[str]) -> tuple[str, ...]:
    """The view and those that it stands on, the lowest first; those that are replaced stand on nothing."""
    definitions = all_definitions()
    found, waiting = {view}, [view]
    while waiting:
        current = waiting.pop()
        for name in _REFERENCE.findall(definitions[current]) if current not in instead else ():
            if name in definitions and name not in found:
                found.add(name)
                waiting.append(name)
    return tuple(name for name in definitions if name in found)
