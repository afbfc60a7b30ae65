"""What was rescored so far: one JSON line a group, appended, so that rescoring goes on where it was ended."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tristream.runtime.errors import UserError
from tristream.verifiers.offline.comparison import Comparison, Judged, SourceOpinions
from tristream.verifiers.offline.logged_groups import Choice

FOLDER = "rescored"
MAX_TEXT_CHARACTERS = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What rollouts are rescored by; each has a folder of its own."""

    verifier: str
    """``NAME@VERSION``."""
    entry_point: str
    code_sha256: str
    """Of its file, in hex; empty if it is in none."""
    params: Mapping[str, Any]
    weights: Mapping[str, float]

    def folder(self, run_folder: Path) -> Path:
        """Where its results are."""
        content = json.dumps([self.verifier, self.code_sha256, self.params, self.weights], sort_keys=True)
        return run_folder / FOLDER / f"{self.verifier}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RescoredRollout:
    """What became of one rollout."""

    index: int
    old: float
    new: float | None
    status: str
    detail: str
    components: Mapping[str, float | None]
    text: str


class RescoredFile:
    """``scores.jsonl``, and ``about.json`` beside it.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, run_folder: Path, definition: Definition) -> None:
        self.path = definition.folder(run_folder) / "scores.jsonl"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.with_name("about.json").write_text(json.dumps(asdict(definition), indent=2), encoding="utf-8")
            self._file = self.path.open("ab+")
        except OSError as error:
            raise UserError(
                f"cannot be written ({error.strerror})", where=str(self.path.parent), remedy="free the folder"
            ) from None
        self._cut_torn_line()
        self.known = {line["group"] for line in self.lines()}
        """Numbers of the groups in it."""

    def append(self, number: int, source: str, step: int, rollouts: Sequence[RescoredRollout]) -> None:
        """Keep a group."""
        line = {"group": number, "source": source, "step": step, "rollouts": [asdict(rollout) for rollout in rollouts]}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        self.known.add(number)

    def lines(self) -> Iterator[dict[str, Any]]:
        """The groups, in the order in which they were rescored."""
        with self.path.open("rb") as file:
            for line in file:
                yield json.loads(line)

    def compare(self, choice: Choice) -> list[Comparison]:
        """How old and new differ, by source."""
        opinions: dict[str, SourceOpinions] = {}
        for line in self.lines():
            if not choice.has_source(line["source"]) or not choice.has_step(line["step"]):
                continue
            source = opinions.setdefault(line["source"], SourceOpinions(line["source"]))
            source.num_unscored += sum(rollout["new"] is None for rollout in line["rollouts"])
            source.add([_judged(line, rollout) for rollout in line["rollouts"] if rollout["new"] is not None])
        return [opinions[name].compare() for name in sorted(opinions)]

    def close(self) -> None:
        """Write no more."""
        self._file.close()

    def _cut_torn_line(self) -> None:
        """Whoever was killed while writing left half a line."""
        end = self._file.seek(0, 2)
        while end > 0:
            start = max(0, end - 2**16)
            self._file.seek(start)
            found = self._file.read(end - start).rfind(b"\n")
            if found >= 0:
                self._file.truncate(start + found + 1)
                return
            end = start
        self._file.truncate(0)


def cut(text: str) -> str:
    """The beginning and the end of a text that is long."""
    if len(text) <= MAX_TEXT_CHARACTERS:
        return text
    half = MAX_TEXT_CHARACTERS // 2
    return f"{text[:half]} ... {text[-half:]}"


def _judged(line: Mapping[str, Any], rollout: Mapping[str, Any]) -> Judged:
    return Judged(
        number=line["group"],
        index=rollout["index"],
        step=line["step"],
        old=rollout["old"],
        new=rollout["new"],
        text=rollout["text"],
        detail=rollout["detail"],
    )
