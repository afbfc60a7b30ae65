"""Which verifier versions judge which prompts: a pure function of the rows' own terms and of the commands so far.

A row asks for verifiers by name, and the run file pins their versions. Commands lay other terms over these, each from
a training prompt number on, and in evaluation from a policy version on. A command is checked before it holds: no
source is ever left without a term that counts.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from tristream.dispatcher.data.samples import SampleTerm
from tristream.wire.events import Command, CommandKind, RewardTerm, TermMode
from tristream.wire.verifiers import BUILT_IN_VERSIONS, pinned_versions, versioned_name

KINDS_OF_VERIFIERS = (CommandKind.ADD, CommandKind.PROMOTE, CommandKind.DEMOTE, CommandKind.RETIRE)

RowVerifiers = frozenset[str]
"""Names of the verifiers that count for a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Promoted:
    """A term that is laid over those of the rows."""

    version: str
    weights: Mapping[str, float]
    params_json: str | None
    """None keeps the parameters of the row's own term."""


Overlay = Mapping[str, _Promoted | None]
"""What holds instead of a row's terms, by verifier: another term, or None for none."""
NOTHING: Overlay = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """What holds from a training prompt number on, and in evaluation from a policy version on."""

    from_number: int = 0
    from_version: int = 0
    overlays: Mapping[str, Overlay] = field(default_factory=dict)
    """By source; a source without one keeps the terms of its rows."""


class VerifierPlan:
    """The reward terms of a run; fed with the answers of its dispatcher, in the order of the log.

    Args:
        row_verifiers: for each source, which verifiers count for its rows, each combination once.
        plug_ins: entry point by ``NAME@VERSION``, as the run file has them; the last version of a name is pinned.
        shadows: ``NAME@VERSION`` of the plug-ins that score beside what counts.
    """

    def __init__(
        self,
        row_verifiers: Mapping[str, Collection[RowVerifiers]],
        plug_ins: Mapping[str, str] = MappingProxyType({}),
        shadows: Sequence[str] = (),
    ) -> None:
        self._row_verifiers = row_verifiers
        self._entry_points = {versioned_name(*item): "" for item in BUILT_IN_VERSIONS.items()} | dict(plug_ins)
        self.pinned = pinned_versions(plug_ins)
        """Version by verifier name, for the terms of rows."""
        self._shadows = [_shadow(*name.split("@", 1)) for name in shadows]
        self._added: dict[str, Command] = {}
        """The newest ADD of each version."""
        self._retired: set[str] = set()
        self._stages = [_Stage()]

    # What prompts ask for ------------------------------------------------------------------------

    def pin(self, terms: Sequence[SampleTerm]) -> tuple[RewardTerm, ...]:
        """The terms of a row with the versions of the run file.

        A term is called like its verifier; further terms of the same verifier are ``NAME-2``, ``NAME-3`` ...

        Raises:
            KeyError: a verifier does not exist.
        """
        num_seen: Counter[str] = Counter()
        pinned: list[RewardTerm] = []
        for term in terms:
            num_seen[term.verifier] += 1
            number = num_seen[term.verifier]
            pinned.append(
                RewardTerm(
                    id=_free_id(term.verifier if number == 1 else f"{term.verifier}-{number}", pinned),
                    verifier=term.verifier,
                    version=self.pinned[term.verifier],
                    weights=term.weights,
                    params_json=term.params_json,
                )
            )
        return tuple(pinned)

    def terms_for(self, number: int, source: str, terms: Sequence[RewardTerm]) -> tuple[RewardTerm, ...]:
        """The terms of a training prompt, by those of its row."""
        stage = self._stages[bisect_right(self._stages, number, key=lambda stage: stage.from_number) - 1]
        return self._with_shadows(_lay_over(stage.overlays.get(source, NOTHING), terms))

    def evaluation_terms(self, version: int, source: str, terms: Sequence[RewardTerm]) -> tuple[RewardTerm, ...]:
        """The terms of a prompt that is answered by a policy version, by those of its row."""
        stage = self._stages[bisect_right(self._stages, version, key=lambda stage: stage.from_version) - 1]
        return self._with_shadows(_lay_over(stage.overlays.get(source, NOTHING), terms))

    def _with_shadows(self, terms: tuple[RewardTerm, ...]) -> tuple[RewardTerm, ...]:
        """The terms, and after them the shadows whose verifier is not asked anyway."""
        asked = {term.verifier for term in terms}
        beside = [shadow for shadow in self._shadows if shadow.verifier not in asked]
        return (*terms, *(replace(shadow, id=_free_id(shadow.id, terms)) for shadow in beside))

    def needed(self, source: str) -> frozenset[str]:
        """``NAME@VERSION`` of all verifiers that count in the newest prompts of a source."""
        overlay = self._newest_overlay(source)
        names = {name for verifiers in self._row_verifiers[source] for name in verifiers if name not in overlay}
        promoted = {name: term.version for name, term in overlay.items() if term is not None}
        return frozenset(versioned_name(*item) for item in {**{n: self.pinned[n] for n in names}, **promoted}.items())

    # What commands change ------------------------------------------------------------------------

    def find_refusal(self, request: Command) -> str:
        """Why a request about a verifier is not followed, and what to do about it; empty if it is."""
        unknown = [source for source in request.sources if source not in self._row_verifiers]
        if unknown:
            return f"it has no source '{unknown[0]}'; its sources are {', '.join(self._row_verifiers)}"
        if request.kind is CommandKind.ADD:
            return self._refuse_add(request)
        name = versioned_name(request.verifier, request.version)
        if name not in self._added and name not in self._entry_points:
            return f"it has no {name}; add it first, or use one of {', '.join(self._known_versions(request.verifier))}"
        if request.kind is CommandKind.RETIRE and request.sources:
            return f"{name} is retired in all sources or in none; demote it where it is to count no more"
        if request.kind is CommandKind.PROMOTE and (refusal := self._refuse_weights(request, name)):
            return refusal
        overlays = self._changed_overlays(request)
        if request.kind is CommandKind.DEMOTE and not overlays:
            where = f"in {', '.join(request.sources)}" if request.sources else "in any source"
            return (
                f"{name} does not count {where}, so it cannot be demoted; `tristream verifiers list` says what counts"
            )
        for source, overlay in overlays.items():
            if not all(_is_judged(verifiers, overlay) for verifiers in self._row_verifiers[source]):
                return f"source {source} would have nothing left that counts; promote another verifier there first"
        return ""

    def observe(self, answer: Command) -> None:
        """A command holds; numbers and versions from which commands hold never fall."""
        name = versioned_name(answer.verifier, answer.version)
        if answer.kind is CommandKind.ADD:
            self._added[name] = answer
            self._retired.discard(name)
            return
        overlays = self._changed_overlays(answer)
        if answer.kind is CommandKind.RETIRE:
            self._retired.add(name)
        if overlays:
            newest = self._stages[-1]
            stage = _Stage(
                from_number=max(answer.from_number, newest.from_number),
                from_version=max(answer.from_version, newest.from_version),
                overlays={**newest.overlays, **overlays},
            )
            self._stages.append(stage)

    def _newest_overlay(self, source: str) -> Overlay:
        return self._stages[-1].overlays.get(source, NOTHING)

    def _changed_overlays(self, command: Command) -> dict[str, Overlay]:
        """The overlays of the sources for which a command changes something."""
        changed: dict[str, Overlay] = {}
        for source in command.sources or self._row_verifiers:
            overlay = self._newest_overlay(source)
            if command.kind is CommandKind.PROMOTE:
                changed[source] = {**overlay, command.verifier: self._promoted(command)}
            elif source in self._row_verifiers and self._version_in(source, command.verifier) == command.version:
                changed[source] = {**overlay, command.verifier: None}
        return changed

    def _promoted(self, command: Command) -> _Promoted:
        added = self._added.get(versioned_name(command.verifier, command.version))
        params_json = None if added is None else added.params_json
        return _Promoted(version=command.version, weights=command.weights, params_json=params_json)

    def _version_in(self, source: str, verifier: str) -> str | None:
        """Version of a verifier that counts in the newest prompts of a source; None if none does."""
        overlay = self._newest_overlay(source)
        if verifier in overlay:
            promoted = overlay[verifier]
            return None if promoted is None else promoted.version
        is_asked = any(verifier in verifiers for verifiers in self._row_verifiers[source])
        return self.pinned[verifier] if is_asked else None

    def _refuse_add(self, request: Command) -> str:
        name = versioned_name(request.verifier, request.version)
        if name in self._entry_points:
            if request.entry_point != self._entry_points[name]:
                return f"{name} is in the run already, and other code; give yours another name or version"
        elif not request.entry_point:
            return f"{name} is not built in, and no entry point says where it is; add MODULE:NAME or FILE.py:NAME"
        before = self._added.get(name)
        if before is None:
            return ""
        if before.code_sha256 != request.code_sha256:
            return f"{name} was added before, and its code was another; raise its version"
        if name not in self._retired and _asked(before) != _asked(request):
            return f"{name} is added already, with other sources or parameters; retire it first, or raise its version"
        return ""

    def _refuse_weights(self, request: Command, name: str) -> str:
        if not any(request.weights.values()):
            return f"{name} would count for nothing; give it a weight that is not 0"
        added = self._added.get(name)
        unknown = sorted(set(request.weights) - set(added.components)) if added is not None else []
        if added is not None and unknown:
            return f"{name} has no component '{unknown[0]}'; its components are {', '.join(added.components)}"
        if name in self._retired and name not in self._entry_points:
            return f"{name} is retired; add it again first"
        return ""

    def _known_versions(self, verifier: str) -> list[str]:
        known = sorted({*self._added, *self._entry_points} - self._retired)
        return [name for name in known if name.partition("@")[0] == verifier] or known


def _asked(command: Command) -> tuple[object, ...]:
    return command.sources, command.params_json, command.components


def _is_judged(verifiers: RowVerifiers, overlay: Overlay) -> bool:
    """Whether a row has a term that counts."""
    promotes = any(term is not None for term in overlay.values())
    return promotes or any(verifier not in overlay for verifier in verifiers)


def _shadow(verifier: str, version: str) -> RewardTerm:
    return RewardTerm(id=verifier, verifier=verifier, version=version, weights={}, mode=TermMode.SHADOW)


def _lay_over(overlay: Overlay, terms: Sequence[RewardTerm]) -> tuple[RewardTerm, ...]:
    """The terms of a row with others in their place, or after them; of one verifier there is then one term."""
    if not overlay:
        return tuple(terms)
    laid: list[RewardTerm] = []
    open_names = {name: promoted for name, promoted in overlay.items() if promoted is not None}
    for term in terms:
        if term.verifier not in overlay:
            laid.append(term)
        elif (promoted := open_names.pop(term.verifier, None)) is not None:
            params_json = term.params_json if promoted.params_json is None else promoted.params_json
            laid.append(replace(term, version=promoted.version, weights=promoted.weights, params_json=params_json))
    for name, promoted in open_names.items():
        laid.append(
            RewardTerm(
                id=_free_id(name, laid),
                verifier=name,
                version=promoted.version,
                weights=promoted.weights,
                params_json=promoted.params_json or "{}",
            )
        )
    return tuple(laid)


def _free_id(wanted: str, terms: Sequence[RewardTerm]) -> str:
    """An id that no term has: the wanted one, unless a verifier of another name is called so."""
    used = {term.id for term in terms}
    while wanted in used:
        wanted += "+"
    return wanted
