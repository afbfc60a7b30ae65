"""``tristream grafana``: dashboards, alerts and data source in a Grafana, as this version has them."""

import os
from typing import Annotated, Any

import typer

grafana_app = typer.Typer(
    no_args_is_help=True,
    help="Dashboards, alert rules and the data source in a Grafana: bring it up to date, compare, check.",
    epilog="Example: GRAFANA_TOKEN=... tristream grafana push --url https://grafana.example.org"
    " --clickhouse http://reader:password@clickhouse:8123/tristream.  "
    "Exit codes: 0 done, 1 something differs or does not work, 2 bad input or refused, 75 try again: no answer.",
)

UrlOption = Annotated[str, typer.Option("--url", help="Grafana; else GRAFANA_URL.", metavar="URL")]
TokenOption = Annotated[
    str, typer.Option("--token", help="Of a service account; better GRAFANA_TOKEN, which no process list shows.")
]
ClickHouseOption = Annotated[
    str,
    typer.Option(
        "--clickhouse",
        help="The database as Grafana reaches it, with a user that can only read; else CLICKHOUSE_URL. Without either,"
        " the data source that is there stays as it is.",
        metavar="http://USER:PASSWORD@HOST:8123/DATABASE",
    ),
]
DocsOption = Annotated[
    str,
    typer.Option("--docs", help="Where alerts link to their runbook alerts.md; else TRISTREAM_DOCS.", metavar="URL"),
]
DEFAULT_DOCS = "docs"


@grafana_app.command()
def push(
    url: UrlOption = "",
    token: TokenOption = "",
    clickhouse: ClickHouseOption = "",
    docs: DocsOption = "",
    password: Annotated[
        bool, typer.Option("--password", help="Write the database's password again, since Grafana tells no passwords.")
    ] = False,
) -> None:
    """Write what differs: folder, data source, dashboards, alert rules. A second push changes nothing."""
    from tristream.monitoring.grafana.checking import check_health
    from tristream.monitoring.grafana.pushing import push as push_all

    api = _connect(url, token)
    num_written = 0
    for change in push_all(api, _wanted(clickhouse, docs), writes_password=password):
        num_written += change.is_needed
        done = "made" if change.is_new else "changed" if change.is_needed else "is as it should be"
        typer.echo(f"{change.name}: {done}")
    typer.echo(f"{num_written} of all written" if num_written else "nothing to change")
    health = check_health(api)
    typer.echo(f"data source tristream {health.words}")
    if not health.works:
        raise typer.Exit(1)


@grafana_app.command()
def diff(
    url: UrlOption = "", token: TokenOption = "", clickhouse: ClickHouseOption = "", docs: DocsOption = ""
) -> None:
    """Print what a push would change, and end with 1 if it would change anything."""
    from tristream.monitoring.grafana.pushing import plan

    is_different = False
    for change in plan(_connect(url, token), _wanted(clickhouse, docs)):
        is_different |= change.is_needed
        if change.is_new:
            typer.echo(f"+ {change.name}")
        elif change.is_needed:
            typer.echo(f"~ {change.name}")
        for line in change.differences:
            typer.echo(f"    {line}")
    if is_different:
        raise typer.Exit(1)
    typer.echo("nothing to change")


@grafana_app.command()
def check(url: UrlOption = "", token: TokenOption = "") -> None:
    """Say whether the data source works, and which runs Grafana finds; ends with 1 if it does not work."""
    from tristream.monitoring.grafana.checking import check_health, find_runs

    api = _connect(url, token)
    health = check_health(api)
    typer.echo(f"data source tristream {health.words}")
    if not health.works:
        raise typer.Exit(1)
    runs = find_runs(api)
    for run in runs:
        since = "no step yet" if run.seconds_since is None else f"newest step {run.seconds_since} s ago"
        typer.echo(f"run {run.run}: step {run.step} of {run.total_steps}, {since}")
    if not runs:
        typer.echo("no run yet: monitors with this database in monitoring.clickhouse_url write some")


def _connect(url: str, token: str) -> Any:  # noqa: ANN401 - grafana-client's GrafanaApi
    from tristream.monitoring.grafana.connection import connect

    return connect(url or os.environ.get("GRAFANA_URL", ""), token or os.environ.get("GRAFANA_TOKEN", ""))


def _wanted(clickhouse: str, docs: str) -> Any:  # noqa: ANN401 - imported late
    from tristream.monitoring.grafana.wanted import build_wanted

    return build_wanted(
        clickhouse or os.environ.get("CLICKHOUSE_URL", ""), docs or os.environ.get("TRISTREAM_DOCS", DEFAULT_DOCS)
    )
