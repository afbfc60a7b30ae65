"""``tristream audit``: every group of a run has one outcome, by its events and its newest checkpoint."""

from tristream.audit.accounting import Account, CheckpointFacts, OutcomeFact, settle_account
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.monitoring.queries.summary import group_facts
from tristream.monitoring.store.clickhouse import open_client
from tristream.monitoring.store.client import Client
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder, ledger_file
from tristream.runtime.run_lock import lock_run
from tristream.wire.codecs.batches import commit_from_json
from tristream.wire.events import DropReason, Fate
from tristream.wire.ledger import IntervalSet


def audit_folder(folder: RunFolder) -> Account:
    """Balance the run of a folder.

    Raises:
        UserError: the folder is not one of a run, or its database is in use or not reachable.
    """
    if not folder.run_file.is_file():
        raise UserError("not the folder of a run", where=str(folder), remedy="give one such as runs/digits")
    run_file = load_run_file(folder.run_file, environment={})
    if not run_file.monitoring.clickhouse_url:
        lock_run(folder).close()  # the embedded database has room for one process
    client = open_client(run_file.monitoring, run_file.run.folder)
    try:
        return audit_run(client, run_file, is_finished=folder.summary.exists())
    finally:
        client.close()


def audit_run(client: Client, run_file: RunFile, *, is_finished: bool) -> Account:
    """Balance a run's events against the ledger of its newest checkpoint.

    Raises:
        UserError: the ledger cannot be read.
    """
    dispatched, rows = group_facts(client, run_file.run.id)
    outcomes = [
        OutcomeFact(number=number, fate=Fate(fate), step=step, reason=DropReason(reason) if reason else None)
        for number, fate, step, reason in rows
    ]
    return settle_account(dispatched, outcomes, newest_checkpoint(run_file.run.folder), is_finished=is_finished)


def newest_checkpoint(folder: RunFolder) -> CheckpointFacts | None:
    """What the newest whole checkpoint of a run says of groups, or None without one.

    Raises:
        UserError: the ledger of the checkpoint cannot be read.
    """
    checkpoints = folder.find_checkpoints()
    if not checkpoints:
        return None
    path = ledger_file(checkpoints[-1])
    try:
        commit = commit_from_json(path.read_text(encoding="utf-8"))
        settled, dropped = IntervalSet(commit.ledger.settled), IntervalSet(commit.ledger.dropped)
    except (OSError, ValueError) as error:
        raise UserError(f"not a ledger ({error})", where=str(path), remedy="delete this checkpoint") from None
    pending = IntervalSet.of(outcome.group.number for step in commit.steps for outcome in step.outcomes)
    return CheckpointFacts(settled=settled, dropped=dropped, pending=pending)


def account_lines(account: Account) -> list[str]:
    """The account for people: one line of numbers, then one a violation."""
    dropped = sum(account.num_dropped_by_reason.values())
    reasons = ", ".join(f"{reason} {number}" for reason, number in account.num_dropped_by_reason.items())
    first = (
        f"{account.num_dispatched} groups dispatched = {account.num_trained} trained + {dropped} dropped"
        f"{f' ({reasons})' if reasons else ''} + {account.num_pending} pending"
    )
    return [first, *account.violations]
