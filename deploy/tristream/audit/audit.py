"""``tristream audit``: every group of a run has one outcome, by its events and its newest checkpoint."""

import json
from pathlib import Path

from tristream.audit.accounting import Account, CheckpointFacts, OutcomeFact, settle_account
from tristream.config.run_file import RunFile, load_run_file
from tristream.local.run_lock import lock_run
from tristream.monitoring.queries.summary import group_facts
from tristream.monitoring.store.clickhouse import Client, open_client
from tristream.runtime.errors import UserError
from tristream.wire.events import Interval
from tristream.wire.ledger import IntervalSet

SUMMARY_NAME = "summary.json"


def audit_folder(folder: Path) -> Account:
    """Balance the run of a folder.

    Raises:
        UserError: the folder is not one of a run, or its database is in use or not reachable.
    """
    if not (folder / "run.json").is_file():
        raise UserError("not the folder of a run", where=str(folder), remedy="give one such as runs/digits")
    settings = load_run_file(folder / "run.json", environment={})
    if not settings.monitoring.clickhouse_url:
        lock_run(folder).close()  # the embedded database has room for one process
    client = open_client(settings)
    try:
        return audit_run(client, settings, is_finished=(folder / SUMMARY_NAME).exists())
    finally:
        client.close()


def audit_run(client: Client, settings: RunFile, *, is_finished: bool) -> Account:
    """Balance a run's events against the ledger of its newest checkpoint.

    Raises:
        UserError: the ledger cannot be read.
    """
    dispatched, rows = group_facts(client, settings.run.id)
    outcomes = [OutcomeFact(number=number, fate=fate, step=step, reason=reason) for number, fate, step, reason in rows]
    return settle_account(dispatched, outcomes, newest_checkpoint(settings.run.folder), is_finished=is_finished)


def newest_checkpoint(folder: Path) -> CheckpointFacts | None:
    """What the newest whole checkpoint of a run folder says of groups, or None without one.

    Raises:
        UserError: the ledger of the checkpoint cannot be read.
    """
    paths = sorted((folder / "checkpoints").glob("step-*[0-9]/ledger.json"))
    if not paths:
        return None
    try:
        ledger = json.loads(paths[-1].read_text(encoding="utf-8"))
        return CheckpointFacts(
            settled=_numbers(ledger["settled"]),
            dropped=_numbers(ledger["dropped"]),
            pending=_numbers(ledger["pending"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"not a ledger ({error})", where=str(paths[-1]), remedy="delete this checkpoint") from None


def _numbers(intervals: list[tuple[int, int]]) -> IntervalSet:
    return IntervalSet(Interval(start=start, end=end) for start, end in intervals)


def account_lines(account: Account) -> list[str]:
    """The account for people: one line of numbers, then one a violation."""
    dropped = sum(account.num_dropped_by_reason.values())
    reasons = ", ".join(f"{reason} {number}" for reason, number in account.num_dropped_by_reason.items())
    first = (
        f"{account.num_dispatched} groups dispatched = {account.num_trained} trained + {dropped} dropped"
        f"{f' ({reasons})' if reasons else ''} + {account.num_pending} pending"
    )
    return [first, *account.violations]
