"""Numbered SQL files that make and change the tables; each is applied once and never edited after.

The files are package data in ``sql/``. What was applied is kept with its checksum in the table
``schema_migrations``. Statements are idempotent, so a run that died half way applies them again.

Monitors of several versions may share a server. A migration that only adds, so that older monitors can go on as if it
was not there, is named ``NUMBER_NAME.additive.sql``: one that is unknown does not stop them. Any other difference does.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

from tristream.monitoring.store.client import Client
from tristream.runtime.errors import UserError

ADDITIVE = ".additive.sql"
"""Ends the names of migrations that older monitors need not know."""

_CREATED = re.compile(r"^(CREATE TABLE IF NOT EXISTS|CREATE OR REPLACE VIEW|ALTER TABLE) (\w+)")
_ENGINE = re.compile(r"\bENGINE = ReplacingMergeTree\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One SQL file."""

    number: int
    name: str
    """File name, such as ``0001_events.sql``."""
    text: str

    @property
    def checksum(self) -> str:
        """Hex sha256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def statements(self) -> Iterator[str]:
        """The statements without comments; each ends with a semicolon at the end of a line."""
        lines = [line for line in self.text.splitlines() if not line.lstrip().startswith("--")]
        for statement in ("\n".join(lines) + "\n").split(";\n"):
            if statement.strip():
                yield statement.strip()


def all_migrations() -> Sequence[Migration]:
    """The migrations in the package, in order; their numbers are 1, 2, 3 ..."""
    paths = sorted(
        (path for path in (files("tristream.monitoring.store") / "sql").iterdir() if path.name.endswith(".sql")),
        key=lambda path: path.name,
    )
    migrations = [
        Migration(number=int(path.name[:4]), name=path.name, text=path.read_text(encoding="utf-8")) for path in paths
    ]
    assert [migration.number for migration in migrations] == list(range(1, len(migrations) + 1))
    return migrations


def on_cluster(statement: str, cluster: str) -> str:
    """A statement of the migrations as a cluster needs it: on every replica, each table replicated.

    Where replicas keep a table is the server's ``default_replica_path``. Without a cluster the statement stays.
    """
    if not cluster:
        return statement
    return _ENGINE.sub("ENGINE = ReplicatedReplacingMergeTree", _CREATED.sub(rf"\1 \2 ON CLUSTER {cluster}", statement))


def migrate(client: Client, *, where: str = "ClickHouse", cluster: str = "") -> Sequence[str]:
    """Apply what is not applied yet.

    Args:
        client: the open database.
        where: what it is called in an error.
        cluster: on whose replicas the tables are; empty: on one server.

    Returns:
        The names of the migrations that this call applied.

    Raises:
        UserError: the database was made by another version of these files.
    """
    table = (
        "CREATE TABLE IF NOT EXISTS schema_migrations (number UInt32, name String, checksum String,"
        " applied DateTime DEFAULT now()) ENGINE = ReplacingMergeTree ORDER BY number"
    )
    client.command(on_cluster(table, cluster))
    migrations = all_migrations()
    applied = _check_applied(client, migrations, where)
    names = []
    for migration in migrations:
        if migration.name not in applied:
            _apply(client, migration, cluster)
            names.append(migration.name)
    return names


def _check_applied(client: Client, migrations: Sequence[Migration], where: str) -> set[str]:
    """Names of the migrations that the database has; each must be one of ours, unchanged, or add to them."""
    rows = client.query("SELECT name, checksum FROM schema_migrations FINAL").result_rows
    applied = {str(name): str(checksum) for name, checksum in rows}
    known = {migration.name: migration.checksum for migration in migrations}
    for name, checksum in sorted(applied.items()):
        is_addition = name not in known and name.endswith(ADDITIVE) and name > max(known)
        if known.get(name) != checksum and not is_addition:
            what = "differs" if name in known else "is unknown"
            raise UserError(
                f"its tables were made by another version of tristream ({name} {what} here)",
                where=where,
                remedy="use the version that made them, or another database or run.id",
            )
    return set(applied)


def _apply(client: Client, migration: Migration, cluster: str) -> None:
    for statement in migration.statements:
        client.command(on_cluster(statement, cluster))
    client.insert(
        "schema_migrations",
        [[migration.number, migration.name, migration.checksum]],
        column_names=["number", "name", "checksum"],
        settings={"async_insert": 0},
    )
