"""Evaluation rounds are complete: each due version, with the weights that it was announced with last."""

from tristream.audit.checks.worth import check_scored_alike
from tristream.audit.findings import Check, Findings
from tristream.audit.group_table import Mark
from tristream.audit.log_facts import LogFacts, Round
from tristream.wire.ledger import IntervalSet


def check_evaluations(facts: LogFacts, *, is_finished: bool, is_expected: bool) -> Check:
    """Each prompt has one outcome; once the run is finished, no due version lacks answers.

    Args:
        facts: what the log says.
        is_finished: whether every round must be complete.
        is_expected: whether the run has held-out rows.
    """
    lines: list[str] = []
    for (step, attempt), round_ in sorted(facts.rounds.items()):
        findings = Findings(f"evaluation of step {step}{f', attempt {attempt}' if attempt else ''}: prompt")
        _check_round(round_, findings, is_finished=is_finished and round_.log == facts.log)
        if len(round_.sha256s) > 1:
            findings.add(0, "prompts of the round name two sets of weights")
        lines += findings.lines()
    num_prompts = max((round_.table.num_rows for round_ in facts.rounds.values()), default=0)
    num_due = 0
    for version, announced in sorted(facts.announced.items()):
        if announced.is_due and is_expected:
            num_due += 1
            if is_finished and announced.log == facts.log:
                lines += _check_due(facts, version, announced.weights.sha256, num_prompts)
    return Check(name="evaluation rounds complete", num_checked=num_due, findings=tuple(lines))


def _check_round(round_: Round, findings: Findings, *, is_finished: bool) -> None:
    table = round_.table
    for number in range(table.num_rows):
        is_answered = table.fates[number] or number in round_.answered_before
        if is_finished and not is_answered:
            findings.add(number, "there is no answer")
        if table.fates[number] and not table.marks[number] & Mark.PROMPT and number not in round_.answered_before:
            findings.add(number, "there is an outcome and no prompt")
        if table.marks[number] & Mark.CONFLICT:
            findings.add(number, "there are prompts of two digests")
    for number, texts in sorted(table.contradictions.items()):
        findings.add(number, f"there are outcomes that differ: {', '.join(sorted(texts))}")
    check_scored_alike(table, findings)


def _check_due(facts: LogFacts, version: int, sha256: str, num_prompts: int) -> tuple[str, ...]:
    round_ = facts.round_of(version, sha256)
    if round_ is None:
        return (f"evaluation of step {version}: the weights announced last were not evaluated",)
    known = range(round_.table.num_rows)
    asked = IntervalSet((*round_.answered_before.intervals, *IntervalSet.of(known).intervals))
    findings = Findings(f"evaluation of step {version}: prompt")
    findings.add_all((n for n in range(num_prompts) if n not in asked), "it was not asked")
    return findings.lines()
