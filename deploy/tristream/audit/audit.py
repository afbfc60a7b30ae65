"""``tristream audit``: reads a run's log, newest checkpoint and store, and says whether its promises held."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tristream.audit.accounting import Account, account_lines, make_account
from tristream.audit.brokers import read_brokers
from tristream.audit.checks.commands import check_pauses
from tristream.audit.checks.evaluations import check_evaluations
from tristream.audit.checks.groups import check_outcomes, check_prompts
from tristream.audit.checks.ledgers import check_ledger
from tristream.audit.checks.steps import check_reports, check_steps, trained_by_step
from tristream.audit.checks.weights import check_weights
from tristream.audit.checks.worth import check_worth
from tristream.audit.database import compare_client, compare_database
from tristream.audit.findings import Check
from tristream.audit.log_facts import LogFacts, newer
from tristream.audit.reading import open_archive, read_archive
from tristream.audit.standing import Checkpoint, Standing, newest_checkpoint
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.monitoring.store.client import Client
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder

WINDOWS = 2
"""Groups of which the end of a lost log may have held facts: so many times what may be in flight."""

__all__ = ["Audit", "account_lines", "audit_cluster", "audit_folder", "audit_run", "table_lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit found."""

    account: Account
    checks: tuple[Check, ...]
    remarks: tuple[str, ...] = ()
    """What people should know beside the checks."""

    @property
    def holds(self) -> bool:
        """Whether there was something to audit and nothing is wrong."""
        return self.account.balances


def audit_folder(folder: RunFolder, overrides: Sequence[str] = ()) -> Audit:
    """Audit the run of a folder, which may have been moved or copied; nothing in it is changed.

    Args:
        folder: where the run is.
        overrides: keys of its run file that are to be others, such as the address of the database.

    Raises:
        UserError: the folder is not one of a run, or there is neither an archive nor a broker.
        BusError: the broker does not answer.
    """
    if not folder.run_file.is_file():
        raise UserError("not the folder of a run", where=str(folder), remedy="give one such as runs/digits")
    settings = load_run_file(folder.run_file, overrides, environment={})
    is_finished = folder.summary.exists()
    return _audit(settings, folder, lambda _facts: is_finished, lambda facts: compare_database(facts, settings, folder))


def audit_cluster(settings: RunFile) -> Audit:
    """Audit a run on the brokers, the store and the database that its run file names.

    Without brokers it is a run of this machine, whose folder has an archive of the log.

    Raises:
        UserError: no broker is named, or none answers.
        BusError: a broker does not answer.
    """
    folder = settings.run.folder
    return _audit(
        settings,
        folder,
        _is_durable_to_the_end,
        lambda facts: compare_database(facts, settings, folder),
        on_brokers=bool(settings.bus.bootstrap_servers),
    )


def audit_run(client: Client, settings: RunFile, *, is_finished: bool) -> Account:
    """Audit a run whose database is open in this process.

    Raises:
        UserError: the log or the ledger cannot be read.
        BusError: the broker does not answer.
    """
    folder = settings.run.folder
    audit = _audit(
        settings, folder, lambda _facts: is_finished, lambda facts: compare_client(facts, client, settings.run.id)
    )
    return audit.account


def table_lines(audit: Audit) -> list[str]:
    """The checks for people: what was looked at, how much of it, and whether it held; then what was found."""
    width = max(len(check.name) for check in audit.checks)
    lines = [f"{check.name:<{width}}  {check.num_checked:>10,}  {_verdict(check)}" for check in audit.checks]
    findings = [f"{check.name}: {finding}" for check in audit.checks for finding in check.findings]
    return [*lines, *audit.remarks, *findings]


def _audit(
    settings: RunFile,
    folder: RunFolder,
    is_finished: Callable[[LogFacts], bool],
    compare: Callable[[LogFacts], Check],
    *,
    on_brokers: bool = False,
) -> Audit:
    rollout = settings.rollout
    facts = LogFacts(
        settings.run.id,
        group_size=rollout.group_size,
        groups_per_step=rollout.groups_per_step,
        window=WINDOWS * (rollout.max_staleness + 2) * rollout.groups_per_step,
        is_due=settings.evaluation.is_due,
    )
    before = newest_checkpoint(folder)
    gaps = _read(settings, folder, facts, on_brokers=on_brokers)
    standing = _stand(settings, facts, before, newest_checkpoint(folder), is_finished=is_finished(facts))
    if gaps is not None and not standing.is_finished:
        facts.end_in_flight(standing.ledger)
    checks = (*([gaps] if gaps else []), *_checks(settings, folder, facts, standing), compare(facts))
    violations = tuple(finding for check in checks for finding in check.findings)
    return Audit(
        account=make_account(facts.training, violations), checks=checks, remarks=tuple(_remarks(facts, standing))
    )


def _read(settings: RunFile, folder: RunFolder, facts: LogFacts, *, on_brokers: bool) -> Check | None:
    """Read the log; returns whether it is whole, if it is an archive."""
    archive = open_archive(folder, settings.run.id, facts)
    if archive is not None and not on_brokers:
        return read_archive(archive, facts)
    read_brokers(settings, facts)
    return None


def _checks(settings: RunFile, folder: RunFolder, facts: LogFacts, standing: Standing) -> list[Check]:
    table = facts.training
    steps = trained_by_step(table, standing)
    written = settings.store.address(settings.run.folder)

    def locate(uri: str) -> str:
        return settings.store.address(folder) + uri.removeprefix(written) if uri.startswith(f"{written}/") else uri

    return [
        check_prompts(table),
        check_outcomes(table, standing),
        check_steps(table, steps, facts.reports, standing),
        check_reports(table, steps, facts.reports, standing, facts.excused_reports),
        *check_worth(table, facts.final_rewards.specs, standing, facts.newest_version),
        check_ledger(table, standing, facts.ledger_findings, facts.newest_ledger),
        check_evaluations(
            facts,
            is_finished=standing.is_finished,
            is_expected=any(source.eval is not None for source in settings.sources),
        ),
        check_pauses(table, facts.source_names, facts.commands),
        check_weights(facts, locate, num_versions=standing.max_staleness + 3),
    ]


def _stand(
    settings: RunFile, facts: LogFacts, before: Checkpoint | None, after: Checkpoint | None, *, is_finished: bool
) -> Standing:
    ledger = newer(facts.newest_ledger, before.commit.ledger if before else None)
    pending = dict(before.pending) if before else {}
    for step, report in facts.reports.items():
        if ledger is not None and step <= ledger.step:
            pending |= dict.fromkeys(report.numbers, step)
    return Standing(
        groups_per_step=settings.rollout.groups_per_step,
        max_staleness=settings.rollout.max_staleness,
        drops_zero_variance=settings.assembly.drop_zero_variance,
        is_finished=is_finished,
        total_steps=facts.total_steps or settings.run.steps,
        ledger=ledger,
        later_ledger=newer(ledger, after.commit.ledger if after else None),
        checkpoint_step=after.step if after else None,
        pending=pending,
    )


def _is_durable_to_the_end(facts: LogFacts) -> bool:
    """Whether the last step is durable, and every evaluation that was asked for has its answer."""
    ledger, total_steps = facts.newest_ledger, facts.total_steps
    if ledger is None or total_steps is None or ledger.step < total_steps:
        return False
    tables = [round_.table for round_ in facts.rounds.values()]
    return total_steps in facts.announced and all(all(table.fates[: table.num_rows]) for table in tables)


def _remarks(facts: LogFacts, standing: Standing) -> list[str]:
    remarks = [] if standing.is_finished else ["the run is not finished: groups may be pending"]
    if facts.num_logs > 1:
        remarks.append(f"{facts.num_logs} logs, one after the other: the broker kept none of them over its end")
    for counter, what in (
        (facts.num_void, "void records, not of the epoch that held their topic"),
        (facts.num_malformed, "records that cannot be decoded"),
        (facts.dead_letters, "records given up as dead letters"),
    ):
        if counter:
            topics = ", ".join(f"{topic} {number}" for topic, number in sorted(counter.items()))
            remarks.append(f"{what}: {topics}")
    return remarks


def _verdict(check: Check) -> str:
    if check.findings:
        return f"{len(check.findings)} violation{'s' if len(check.findings) > 1 else ''}"
    if check.is_skipped:
        return f"skipped: {check.note}"
    return "ok"
