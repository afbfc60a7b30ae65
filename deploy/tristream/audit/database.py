"""Opening the database of a run for its audit, without changing it.

An embedded database is opened through a shadow of its folder: directories of their own, links to the files. The
engine writes and tidies in the shadow, and the folder stays as it is.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tristream.audit.checks.database import check_database, count_rows, skip_database
from tristream.audit.findings import Check
from tristream.audit.log_facts import LogFacts
from tristream.config.run_file import RunFile
from tristream.monitoring.store.clickhouse import open_client, open_embedded
from tristream.monitoring.store.client import Client
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder

LOCK_NAME = "status"
"""File in the folder of an embedded database that whoever has it open holds."""
SERVER_TIMEOUT_SECONDS = 5.0
MOST_CHARACTERS = 200
"""Of what a database says of an error."""


def compare_database(facts: LogFacts, settings: RunFile, folder: RunFolder) -> Check:
    """Compare the database of a run with its log, if it can be reached."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    try:
        if settings.monitoring.clickhouse_url:
            client = open_client(settings.monitoring, folder, timeout_seconds=SERVER_TIMEOUT_SECONDS)
            with closing(client):
                return compare_client(facts, client, settings.run.id)
        if not folder.clickhouse.is_dir():
            return skip_database("there is no database in the folder")
        if is_held(folder.lock) or is_held(folder.clickhouse / LOCK_NAME):
            return skip_database("the database is in use by another process")
        with open_shadow(folder.clickhouse) as client:
            return compare_client(facts, client, settings.run.id)
    except (UserError, OSError, ClickHouseError) as error:
        return skip_database(f"the database cannot be opened ({str(error).strip().splitlines()[0][:MOST_CHARACTERS]})")


def compare_client(facts: LogFacts, client: Client, run: str) -> Check:
    """Compare an open database with the log of a run."""
    from clickhouse_connect.driver.exceptions import ClickHouseError

    counts = facts.counts.by_topic()
    try:
        check = check_database(count_rows(client, run, counts), counts, facts.unwritten)
    except ClickHouseError as error:
        return skip_database(f"the database does not answer ({str(error).strip().splitlines()[0][:MOST_CHARACTERS]})")
    if check.findings and facts.num_logs > 1:
        return skip_database("the end of an earlier log was lost, so that database and archive may differ there")
    return check


def is_held(path: Path) -> bool:
    """Whether another process holds a lock on a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextmanager
def open_shadow(folder: Path) -> Iterator[Client]:
    """Open an embedded database and leave its folder as it is.

    Raises:
        UserError: it cannot be opened.
        OSError: there is no room for the shadow.
    """
    with tempfile.TemporaryDirectory(prefix="tristream-audit-") as temporary:
        shadow = Path(temporary) / folder.name
        make_shadow(folder.absolute(), shadow)
        with closing(open_embedded(shadow)) as client:
            yield client


def make_shadow(folder: Path, shadow: Path) -> None:
    """Make a folder with the same folders and links in it, and links to its files."""
    for place, folder_names, file_names in os.walk(folder):
        target = shadow / Path(place).relative_to(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name in folder_names:
            path = Path(place) / name
            if path.is_symlink():
                (target / name).symlink_to(path.readlink())
        for name in file_names:
            path = Path(place) / name
            if name == LOCK_NAME and Path(place) == folder:
                continue
            (target / name).symlink_to(path.readlink() if path.is_symlink() else path)
