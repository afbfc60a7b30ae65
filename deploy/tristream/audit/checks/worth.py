"""Ages are within the bound, rewards are those of the scores on the log, and fates follow from both."""

from dataclasses import dataclass

from tristream.assembler.judge import age_in_versions
from tristream.assembler.rewards import has_zero_variance
from tristream.audit.findings import Check, Findings
from tristream.audit.group_table import NO_ROLLOUT, GroupTable, Mark, Worth
from tristream.audit.standing import Standing
from tristream.wire.events import DropReason, Fate, OnUnscored, RewardSpec

JUDGED = (DropReason.ZERO_VARIANCE, DropReason.STALE, DropReason.TOO_FEW_VALID, DropReason.UNSCORED)
"""Reasons for which a group is dropped once all its rollouts are scored."""
TOLERANCE = 1e-9
"""Two rewards so near each other are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """What the groups of a table are held against."""

    table: GroupTable
    specs: list[RewardSpec]
    standing: Standing
    newest_version: int


def check_worth(
    table: GroupTable, specs: list[RewardSpec], standing: Standing, newest_version: int
) -> tuple[Check, Check, Check]:
    """Check ages, rewards and fates of all training groups that were judged.

    Args:
        table: the training groups.
        specs: definitions of reward that the table refers to.
        standing: the bounds of the run.
        newest_version: the largest version that was announced.
    """
    rules = _Rules(table=table, specs=specs, standing=standing, newest_version=newest_version)
    ages, rewards, fates = Findings("group"), Findings("group"), Findings("group")
    num_trained = num_judged = 0
    for number in range(table.num_rows):
        fate = table.fate(number)
        if fate is Fate.TRAINED:
            num_trained += 1
            _check_ages(rules, number, ages)
        elif fate is not Fate.DROPPED or table.reason(number) not in JUDGED:
            continue
        num_judged += 1
        _check_rewards(rules, number, rewards)
        what = _fate_finding(rules, number)
        if what:
            fates.add(number, what)
    return (
        Check(name="ages within the bound", num_checked=num_trained, findings=ages.lines()),
        Check(name="rewards as scored", num_checked=num_judged, findings=rewards.lines()),
        Check(name="fates as judged", num_checked=num_judged, findings=fates.lines()),
    )


def check_scored_alike(table: GroupTable, findings: Findings) -> None:
    """Where an outcome of an evaluation has a reward, it is that of the scores on the log."""
    for place in range(table.num_rows * table.group_size):
        worth = table.worths[place]
        if worth & Worth.VALID and worth & Worth.SCORED and not _is_scored_alike(table, place):
            findings.add(place // table.group_size, "the reward is not that of the scores on the log")


def _check_ages(rules: _Rules, number: int, findings: Findings) -> None:
    table, bound = rules.table, rules.standing.max_staleness
    step, is_excused = table.steps[number], table.marks[number] & Mark.EXCUSED
    versions = []
    for place in range(number * table.group_size, (number + 1) * table.group_size):
        worth, version = table.worths[place], table.versions[place]
        if version == NO_ROLLOUT:
            if not is_excused:
                findings.add(number, "a rollout is not on the log")
            continue
        versions.append(version)
        age = age_in_versions(step, version) if worth & Worth.VALID else 0
        if age != table.ages[place]:
            findings.add(number, f"trained at step {step} with ages that are not those of its rollouts")
        if worth & Worth.VALID and max(age, table.ages[place]) > bound:
            findings.add(number, f"a rollout is {max(age, table.ages[place])} versions old, and {bound} is the bound")
    oldest = min((version for version in versions if version >= 0), default=-1)
    if len(versions) == table.group_size and oldest != table.oldest_versions[number]:
        findings.add(number, f"the outcome says version {table.oldest_versions[number]}, the rollouts say {oldest}")


def _check_rewards(rules: _Rules, number: int, findings: Findings) -> None:
    table, is_excused = rules.table, rules.table.marks[number] & Mark.EXCUSED
    places = range(number * table.group_size, (number + 1) * table.group_size)
    num_named = sum(1 for place in places if table.worths[place] & Worth.IN_OUTCOME)
    if num_named != table.group_size:
        findings.add(number, f"the outcome names {num_named} of {table.group_size} rollouts")
    for place in places:
        worth = table.worths[place]
        is_there = table.versions[place] != NO_ROLLOUT
        if is_there and (worth & Worth.SCORED or not worth & Worth.ANSWERED):
            if not _is_scored_alike(table, place):
                findings.add(number, "a reward is not that of the scores on the log")
        elif not is_excused:
            findings.add(number, "scores are not on the log")


def _is_scored_alike(table: GroupTable, place: int) -> bool:
    worth = table.worths[place]
    if not (worth & Worth.ANSWERED and worth & Worth.COMPLETE):
        return not worth & Worth.VALID
    reward, scored = table.rewards[place], table.final_rewards[place]
    return bool(worth & Worth.VALID) and abs(reward - scored) <= TOLERANCE * max(1.0, abs(scored))


def _fate_finding(rules: _Rules, number: int) -> str:
    """What is wrong with a fate, by what the outcome itself says of its rollouts."""
    table = rules.table
    places = range(number * table.group_size, (number + 1) * table.group_size)
    rewards = [table.rewards[place] for place in places if table.worths[place] & Worth.VALID]
    is_flat = has_zero_variance(rewards)
    wants_all = rules.specs[table.specs[number]].on_unscored is OnUnscored.DROP_GROUP
    lacks_scores = wants_all and len(rewards) < table.group_size
    if is_flat != bool(table.marks[number] & Mark.ZERO_VARIANCE):
        return "the outcome is wrong about its variance"
    if table.fate(number) is Fate.TRAINED:
        return _trained_finding(rules, len(rewards), is_flat=is_flat, lacks_scores=lacks_scores)
    oldest, bound = table.oldest_versions[number], rules.standing.max_staleness
    is_true = {
        DropReason.ZERO_VARIANCE: is_flat,
        DropReason.TOO_FEW_VALID: len(rewards) < 2,
        DropReason.UNSCORED: lacks_scores or bool(table.marks[number] & Mark.EXCUSED),
        DropReason.STALE: oldest + bound < rules.newest_version,
    }
    reason = table.reason(number)
    return f"dropped as {reason}, which it is not" if reason in is_true and not is_true[reason] else ""


def _trained_finding(rules: _Rules, num_valid: int, *, is_flat: bool, lacks_scores: bool) -> str:
    if num_valid < 2:
        return "trained with fewer than two rewards"
    if lacks_scores:
        return "trained though scores are missing"
    return "trained though its rewards are all equal" if is_flat and rules.standing.drops_zero_variance else ""
