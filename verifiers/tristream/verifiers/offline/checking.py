"""``tristream verifiers check``: whether a verifier keeps its contract, and what it costs."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

from tristream.verifiers.offline.describing import Description, describe
from tristream.verifiers.offline.elsewhere import judge_elsewhere
from tristream.verifiers.offline.file_scoring import to_json_line
from tristream.verifiers.offline.lines_of_file import read_lines
from tristream.verifiers.offline.odd_inputs import ODD_TRUTHS, odd_parameters, odd_texts
from tristream.verifiers.offline.plain_lines import PlainLines
from tristream.verifiers.offline.pools import running_pool
from tristream.verifiers.offline.questions import Answer
from tristream.verifiers.offline.sample_lines import lines_of_rows, plain_lines
from tristream.verifiers.offline.scoring import score_lines
from tristream.verifiers.offline.served import Served, serve_one
from tristream.verifiers.offline.touching import what_it_touches
from tristream.verifiers.pool.pool import Pool
from tristream.wire.events import Status

NUM_TOUCHING_LINES = 16
LINES_AT_ONCE = 4
MOST_TIMEOUTS = 3
FUZZ_PER_CONTEXT = 4
"""Lines of rows that each odd text is tried on."""
SAME = ("status", "components", "abstained", "metrics")
"""Fields of an answer that are the same whenever and wherever it is judged."""

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tried."""

    name: str
    num_tried: int
    problem: str = ""
    """What is wrong; empty if nothing is."""
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What judging takes, in milliseconds of CPU time."""

    p50_ms: float
    p99_ms: float
    group_ms: float
    """Of eight answers to one truth, its parsing included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that is known of a verifier."""

    description: Description
    findings: tuple[Finding, ...]
    cost: Cost | None
    """None if nothing was scored, or if it waits for others."""

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.problem for finding in self.findings)


def check_verifier(entry_point: str, data: Path | None, params: Mapping[str, Any]) -> Report:
    """Try a verifier.

    Args:
        entry_point: ``module:name``, ``file.py:name``, or the name of an installed or built-in verifier.
        data: Parquet file of rows that it is for; None for plain truths.
        params: parameters that it is tried with.

    Raises:
        UserError: it cannot be loaded, or the data cannot be read.
        TryAgainError: the processes do not work.
    """
    description = describe(entry_point)
    served = serve_one(description)
    name = description.versioned_name
    lines = lines_of_rows(data, name, params) if data else plain_lines(name, params)
    with running_pool(served, 1) as pool:
        judge = _Judge(served, pool)
        answers = judge.answer(lines)
        findings = [
            check_scoring(answers, has_data=data is not None),
            *_check_purity(description, judge, lines, answers),
            check_fuzz(judge.answer_while_in_time(_fuzz(lines))),
            check_parameters(judge.answer_while_in_time(_odd_parameters(description, lines))),
        ]
    findings.append(_check_touching(description, lines))
    return Report(description=description, findings=tuple(findings), cost=measure(answers, description))


def check_scoring(answers: Sequence[Answer], *, has_data: bool) -> Finding:
    """Whether likely answers get numbers within their ranges."""
    wrong = _first(answers, (Status.ERROR, Status.TIMEOUT))
    if wrong:
        return Finding(name="likely answers", num_tried=len(answers), problem=wrong, remedy=_remedy(wrong))
    if not any(_status(answer) is Status.SCORED for answer in answers):
        remedy = "check how it parses the truth" if has_data else "give rows that it is for as --on data.parquet"
        problem = _first(answers, (Status.UNSCORABLE,))
        return Finding(name="likely answers", num_tried=len(answers), problem=problem, remedy=remedy)
    return Finding(name="likely answers", num_tried=len(answers))


def check_same(name: str, first: Sequence[Line], second: Sequence[Line], remedy: str) -> Finding:
    """Whether two judgements of the same lines agree."""
    for one, other in zip(first, second, strict=True):
        for key in SAME:
            if one[key] != other[key]:
                problem = f"{key} of {_cut(one['text'])} is {_cut(one[key])}, and then {_cut(other[key])}"
                return Finding(name=name, num_tried=len(first), problem=problem, remedy=remedy)
    return Finding(name=name, num_tried=len(first))


def check_fuzz(answers: Sequence[Answer]) -> Finding:
    """Whether odd answers and truths are judged, and not failed on."""
    problem = _first(answers, (Status.ERROR, Status.TIMEOUT))
    return Finding(name="odd texts", num_tried=len(answers), problem=problem, remedy=_remedy(problem))


def check_parameters(answers: Sequence[Answer]) -> Finding:
    """Whether parameters that make no sense are unscorable, and not failed on."""
    problem = _first(answers, (Status.ERROR, Status.TIMEOUT), field="params")
    remedy = "annotate each parameter with what it takes, or raise Unscorable" if problem else ""
    return Finding(name="odd parameters", num_tried=len(answers), problem=problem, remedy=remedy)


def measure(answers: Sequence[Answer], description: Description) -> Cost | None:
    """What the scored answers cost."""
    scored = [answer for answer in answers if _status(answer) is Status.SCORED]
    if len(scored) < 2 or description.is_async:
        return None
    milliseconds = [1000 * answer.verdict.cpu_seconds for answer in scored if answer.verdict]
    groups: dict[Any, float] = {}
    is_of_groups = description.scope == "group"
    for answer, spent in zip(scored, milliseconds, strict=True):
        key = answer.fields["group"]
        groups[key] = spent if is_of_groups else groups.get(key, 0.0) + spent
    return Cost(
        p50_ms=statistics.median(milliseconds),
        p99_ms=statistics.quantiles(milliseconds, n=100, method="inclusive")[98],
        group_ms=statistics.fmean(groups.values()),
    )


class _Judge:
    """Judges lines of JSON objects with a running pool."""

    def __init__(self, served: Served, pool: Pool) -> None:
        self._format = PlainLines(served, lambda _spec, _components: None)
        self._pool = pool

    def answer_while_in_time(self, lines: Iterable[Line]) -> list[Answer]:
        """The answers until a few took too long: the rest would take as long again."""
        answers: list[Answer] = []
        iterator = iter(lines)
        while chunk := list(islice(iterator, LINES_AT_ONCE)):
            answers += self.answer(chunk)
            if sum(_status(answer) is Status.TIMEOUT for answer in answers) >= MOST_TIMEOUTS:
                break
        return answers

    def answer(self, lines: Iterable[Line]) -> list[Answer]:
        """The answers, in order."""
        file = BytesIO(b"".join(map(to_json_line, lines)))
        return [answer for _, answer in score_lines(read_lines(file), self._format, self._pool)]


def _check_purity(
    description: Description, judge: _Judge, lines: Sequence[Line], answers: Sequence[Answer]
) -> list[Finding]:
    if description.is_async:
        return []
    first = [answer.fields for answer in answers]
    # Groups stay together, and come in another order.
    keys = sorted({line["group"] for line in lines}, reverse=True)
    order = [place for key in keys for place, line in enumerate(lines) if line["group"] == key]
    again = {place: answer.fields for place, answer in zip(order, judge.answer(lines[p] for p in order), strict=True)}
    elsewhere = judge_elsewhere(description.entry_point, lines)
    return [
        check_same(
            "same again", first, [again[place] for place in range(len(lines))], "keep nothing from one call to the next"
        ),
        check_same(
            "same elsewhere", first, elsewhere, "use no clock, no random numbers, nothing of the process or the machine"
        ),
    ]


def _fuzz(lines: Sequence[Line]) -> Iterable[Line]:
    contexts = lines[:: max(1, len(lines) // FUZZ_PER_CONTEXT)][:FUZZ_PER_CONTEXT]
    number = 0
    for context in contexts:
        for text in odd_texts():
            number += 1
            yield {**context, "text": text, "group": f"odd {number}"}
        for truth in ODD_TRUTHS:
            number += 1
            yield {**context, "ground_truth": truth, "group": f"odd {number}"}


def _odd_parameters(description: Description, lines: Sequence[Line]) -> Iterable[Line]:
    for number, params in enumerate(odd_parameters(description.parameters)):
        for line in (lines[0], lines[1 % len(lines)]):
            yield {**line, "params": {**line["params"], **params}, "group": f"odd {number} {line['text'][:20]}"}


def _check_touching(description: Description, lines: Sequence[Line]) -> Finding:
    touched = what_it_touches(description.entry_point, lines[:NUM_TOUCHING_LINES])
    allowed = {*description.needs, *(("network",) if description.is_async else ())}
    named = [what for kind, what in touched if kind not in allowed]
    return Finding(
        name="nothing touched",
        num_tried=min(len(lines), NUM_TOUCHING_LINES),
        problem=", ".join(named),
        remedy="read files when the module is imported; declare needs=['network'] or ['processes']" if named else "",
    )


def _first(answers: Sequence[Answer], statuses: tuple[Status, ...], field: str = "text") -> str:
    """The first answer of such a status, in words, and how many more there are."""
    found = [answer for answer in answers if _status(answer) in statuses]
    if not found:
        return ""
    first = found[0]
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{_status(first)} on {field} {_cut(first.fields[field])}: {_detail(first)[:200]}{more}"


def _status(answer: Answer) -> Status:
    return answer.verdict.status if answer.verdict else Status.ERROR


def _detail(answer: Answer) -> str:
    return answer.verdict.detail if answer.verdict else str(answer.fields["error"])


def _remedy(problem: str) -> str:
    if problem.startswith(str(Status.TIMEOUT)):
        return "look at the length and the depth of a text before working on it"
    return (
        "return numbers within the declared ranges for every text; raise Unscorable where the truth is unusable"
        if problem
        else ""
    )


def _cut(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
