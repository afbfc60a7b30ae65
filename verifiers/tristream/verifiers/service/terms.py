"""Which terms of a rollout a worker scores: those of the verifier versions that it serves, and shadows of one."""

from collections.abc import Mapping
from dataclasses import dataclass

from tristream.verifiers.pool.tasks import VerifierFacts
from tristream.wire.events import Group, RewardTerm, Rollout, Split, TermMode
from tristream.wire.topics import SOURCE_HEADER, VERIFIERS_HEADER
from tristream.wire.verifiers import versioned_name


@dataclass(slots=True, kw_only=True)
class Shadow:
    """A verifier that was added while the run goes on: it scores rollouts that do not ask for it, too."""

    verifier: str
    version: str
    sources: frozenset[str]
    """Those that it scores; empty means all."""
    params_json: str
    from_ns: int = 0
    """What the broker took before is left out."""
    retired_from_number: int | None = None
    """Training prompt number from which on it scores only what asks for it; None as long as it is not retired."""
    retired_from_version: int = 0
    """Policy version from whose evaluation on it does so, if it is retired."""

    def covers(self, group: Group) -> bool:
        """Whether it scores a rollout of the group that does not ask for it."""
        if self.sources and group.source not in self.sources:
            return False
        if self.retired_from_number is None:
            return True
        if group.split is Split.TRAIN:
            return group.number < self.retired_from_number
        return group.eval_step < self.retired_from_version

    @property
    def term(self) -> RewardTerm:
        """What it is asked where nothing else asks."""
        return RewardTerm(
            id=self.verifier,
            verifier=self.verifier,
            version=self.version,
            weights={},
            params_json=self.params_json,
            mode=TermMode.SHADOW,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a worker serves."""

    facts: Mapping[str, VerifierFacts]
    """By ``NAME@VERSION``."""
    shadow: Shadow | None = None

    def may_want(self, headers: Mapping[str, bytes], timestamp_ns: int) -> bool:
        """Whether a record may need one of ours, without decoding it."""
        if self.shadow is not None and timestamp_ns < self.shadow.from_ns:
            return False
        header = headers.get(VERIFIERS_HEADER)
        if header is None or not self.facts.keys().isdisjoint(header.decode(errors="replace").split(",")):
            return True
        if self.shadow is None:
            return False
        source = headers.get(SOURCE_HEADER)
        return not self.shadow.sources or source is None or source.decode(errors="replace") in self.shadow.sources

    def terms(self, rollout: Rollout) -> list[RewardTerm]:
        """The terms of a rollout that are ours; what counts comes first, as groups wait for it."""
        terms = [term for term in rollout.reward.terms if versioned_name(term.verifier, term.version) in self.facts]
        if not terms and self.shadow is not None and self.shadow.covers(rollout.group):
            return [self.shadow.term]
        return sorted(terms, key=lambda term: term.mode is TermMode.SHADOW) if len(terms) > 1 else terms
