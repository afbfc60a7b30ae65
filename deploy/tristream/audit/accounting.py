"""The account of a run: what became of all groups, in one line."""

from collections import Counter
from dataclasses import dataclass, field

from tristream.audit.checks.groups import num_prompts
from tristream.audit.checks.steps import num_lost_groups
from tristream.audit.group_table import FATES, GroupTable, Mark
from tristream.wire.events import DropReason, Fate


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of all training groups, and what is wrong with the run."""

    num_dispatched: int
    num_trained: int
    num_pending: int
    num_lost: int = 0
    """Groups that only a ledger knows: the end of the log that said what became of them was lost."""
    num_dropped_by_reason: dict[DropReason, int] = field(default_factory=dict)
    violations: tuple[str, ...] = ()

    @property
    def balances(self) -> bool:
        """Whether every promise of the run was kept."""
        return not self.violations


def make_account(table: GroupTable, violations: tuple[str, ...]) -> Account:
    """Count groups by what became of them."""
    reasons: Counter[DropReason] = Counter()
    num_trained = num_pending = 0
    for number in range(table.num_rows):
        fate, reason = FATES[table.fates[number]], table.reason(number)
        if fate is Fate.TRAINED:
            num_trained += 1
        elif reason is not None:
            reasons[reason] += 1
        elif fate is None and table.marks[number] & Mark.PROMPT and not table.marks[number] & Mark.EXCUSED:
            num_pending += 1
    return Account(
        num_dispatched=num_prompts(table),
        num_trained=num_trained,
        num_pending=num_pending,
        num_lost=num_lost_groups(table),
        num_dropped_by_reason=dict(sorted(reasons.items())),
        violations=violations,
    )


def account_lines(account: Account) -> list[str]:
    """The account for people: one line of numbers, then one a violation."""
    dropped = sum(account.num_dropped_by_reason.values())
    reasons = ", ".join(f"{reason} {number}" for reason, number in account.num_dropped_by_reason.items())
    first = (
        f"{account.num_dispatched} groups dispatched = {account.num_trained} trained + {dropped} dropped"
        f"{f' ({reasons})' if reasons else ''} + {account.num_pending} pending"
        f"{f' + {account.num_lost} known to the ledger alone' if account.num_lost else ''}"
    )
    return [first, *account.violations]
