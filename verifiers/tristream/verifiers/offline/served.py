"""Which verifiers are at hand without a run: the built-in ones, and plug-ins that were named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tristream.runtime.errors import UserError
from tristream.verifiers.offline.describing import Description, absolute_entry_point, describe
from tristream.verifiers.offline.questions import LineError
from tristream.wire.verifiers import BUILT_IN_VERSIONS, canonical_name, versioned_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Verifiers by what they are called."""

    entry_points: Mapping[str, str]
    """By ``NAME@VERSION``, as a pool takes them; empty for built-in ones."""
    by_word: Mapping[str, str]
    """``NAME@VERSION`` by each word that means it."""

    def find(self, word: str) -> str:
        """``NAME@VERSION`` of a name, a versioned name or the entry point of a plug-in.

        Raises:
            LineError: there is no such verifier here. Code that a line alone names is never run.
        """
        name, at, version = word.partition("@")
        found = self.by_word.get(f"{canonical_name(name)}{at}{version}")
        found = found or (self.by_word.get(absolute_entry_point(word)) if ":" in word else None)
        if found is None:
            hint = f"give --plug-in {word}" if ":" in word else f"there are {', '.join(sorted(self.entry_points))}"
            raise LineError(f"there is no verifier '{word}'; {hint}")
        return found


def serve(plug_ins: Sequence[str] = ()) -> Served:
    """All built-in verifiers and the plug-ins; of two of one name the plug-in is meant.

    Raises:
        UserError: a plug-in cannot be loaded, or two call themselves alike.
    """
    entry_points = {versioned_name(name, version): "" for name, version in BUILT_IN_VERSIONS.items()}
    by_word = {name: versioned_name(name, version) for name, version in BUILT_IN_VERSIONS.items()}
    for entry_point in plug_ins:
        one = serve_one(describe(entry_point))
        for key, place in one.entry_points.items():
            if entry_points.setdefault(key, place) != place:
                raise UserError(f"there is another {key}", where=entry_point, remedy="give it a version of its own")
        by_word |= one.by_word
    return Served(entry_points=entry_points, by_word=by_word | {key: key for key in entry_points})


def serve_one(described: Description) -> Served:
    """One verifier alone."""
    key, entry_point = described.versioned_name, described.entry_point
    place = entry_point if ":" in entry_point else ""
    return Served(entry_points={key: place}, by_word={key: key, described.name: key, entry_point: key})
