"""Final rewards by the scores on the log, as the assembler makes them, one rollout after the other."""

from collections.abc import Mapping
from dataclasses import replace

from tristream.assembler.facts import JoinedScore, RewardFact
from tristream.assembler.rewards import final_reward
from tristream.audit.group_table import GroupTable, Mark, Worth
from tristream.wire.events import RewardSpec


class FinalRewards:
    """Joins the scores of each rollout; those of one rollout are near each other on the log, so that few are open."""

    def __init__(self) -> None:
        self.specs: list[RewardSpec] = [RewardSpec(terms=(), ground_truth="")]
        """Definitions without what makes them differ from row to row; a table keeps their positions."""
        self._asked: list[frozenset[tuple[str, str]]] = [frozenset()]
        self._positions: dict[str, int] = {}
        self._open: dict[tuple[int, int], dict[tuple[str, str], JoinedScore]] = {}

    def position(self, spec: RewardSpec) -> int:
        """Where a definition is in ``specs``."""
        bare = replace(
            spec, ground_truth="", columns_json="", terms=tuple(replace(term, params_json="") for term in spec.terms)
        )
        key = repr(bare)
        known = self._positions.get(key)
        if known is None:
            known = self._positions[key] = len(self.specs)
            self.specs.append(bare)
            self._asked.append(frozenset((term.id, term.version) for term in bare.terms if term.counts))
        return known

    def observe(self, fact: RewardFact, table: GroupTable) -> None:
        """A reward is on the log, of a number that has a row; the prompt of its group was read before."""
        number = fact.group.number
        if fact.index >= table.group_size or not table.has_group(fact.group):
            return
        term = (fact.term_id, fact.version)
        asked = self._asked[table.specs[number]] if table.marks[number] & Mark.PROMPT else frozenset()
        place = number * table.group_size + fact.index
        if term not in asked or table.worths[place] & Worth.SCORED:
            return
        scores: Mapping[tuple[str, str], JoinedScore] = {term: fact.score}
        if len(asked) > 1:
            open_scores = self._open.setdefault((id(table), place), {})
            open_scores.setdefault(term, fact.score)
            if len(open_scores) < len(asked):
                return
            scores = self._open.pop((id(table), place))
        components = {term_id: score.components for (term_id, _), score in scores.items()}
        table.observe_final_reward(place, final_reward(self.specs[table.specs[number]], components))

    def begin_log(self) -> None:
        """What is open belongs to the log before."""
        self._open.clear()
