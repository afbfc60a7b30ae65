"""Commands that look at runs: ``top``, ``runs``, ``compare``, ``show`` and ``report``; none of them changes a run."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tristream.runtime.errors import UserError

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run, or its run file.", metavar="RUN")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key of the run file. Repeatable.", metavar="K=V"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def top(
    run: Annotated[
        Path, typer.Argument(help="Folder of a run, its run file, or a folder of runs.", metavar="[RUN|FOLDER]")
    ] = Path("runs"),
    every: Annotated[float, typer.Option("--every", help="Seconds between two looks.", min=0.5)] = 2.0,
    is_once: Annotated[bool, typer.Option("--once", help="Look once and end, as without a terminal.")] = False,
    overrides: SetOption = None,
) -> None:
    """Watch a run, or all runs below a folder, in the terminal.

    Shows progress; of each source the held-out value before and now, and the
    reward of all judged rollouts over the newest steps; of each process what it
    waits for, the records that it has not read yet (lag), cores and memory.
    Ctrl-C ends it. Runs on a cluster are watched by their run file.

    Examples: tristream top; tristream top runs/digits; tristream top run.toml

    Exit codes: 0 looked, 2 bad input, 75 try again.
    """
    from tristream.cli.top_watching import watch

    watch(run, overrides or (), every_seconds=every, is_once=is_once)


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder of runs.", metavar="[FOLDER]")] = Path("runs"),
    database: Annotated[
        str, typer.Option("--database", help="List the runs of a ClickHouse server instead.", metavar="URL")
    ] = "",
    is_json: JsonOption = False,
) -> None:
    """List the runs below a folder, or in a database: state, steps, held-out mean, start, last word.

    A run is finished once its summary is written, running while its parts speak,
    and stopped otherwise: `tristream up` resumes it. Held-out is the mean over the
    sources, before training and now; "-" without complete rounds, and for
    stopped runs of a folder, whose database is not opened for it.

    Examples: tristream runs; tristream runs --database http://reader:secret@clickhouse:8123/tristream

    Exit codes: 0 listed, 2 bad input.
    """
    from tristream.cli.run_listing import list_folder, list_server, run_table
    from tristream.cli.tables import open_console

    rows = list_server(database) if database else list_folder(folder)
    if is_json:
        typer.echo(json.dumps([row.to_json() for row in rows]))
    else:
        open_console().print(run_table(rows))


def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a run, or its run file.", metavar="A")],
    second: Annotated[Path, typer.Argument(help="Another one.", metavar="B")],
    is_json: JsonOption = False,
) -> None:
    """Lay two runs side by side: held-out values, rewards over the steps, and the settings that differ.

    Rewards are means over all judged rollouts, at ten steps that both runs have. What is
    only an address (brokers, ports, folders) does not count as a setting.

    Example: tristream compare runs/digits runs/digits-2

    Exit codes: 0 compared, 2 bad input, 75 try again.
    """
    from tristream.cli.run_comparison import compare_runs, print_comparison

    found = compare_runs(first, second)
    if is_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        print_comparison(found)


def show(
    run: RunArgument,
    rollout: Annotated[
        str, typer.Argument(help="SPLIT/EVAL_STEP/EVAL_ATTEMPT/NUMBER/INDEX, or NUMBER/INDEX.", metavar="ROLLOUT")
    ],
    is_json: JsonOption = False,
    overrides: SetOption = None,
) -> None:
    """Show one rollout: prompt, answer, truth, every verdict with its components, and what became of its group.

    ROLLOUT is what the page's permalink ends with (#rollout=...), or for a training
    rollout just the number of its prompt and its index in the group. Verdicts of
    shadows, which count for nothing, are marked.

    Example: tristream show runs/digits 417/2

    Exit codes: 0 shown, 2 bad input or no such rollout, 75 try again.
    """
    from tristream.cli.exporting import find_run
    from tristream.cli.rollout_display import parse_key, permalink, print_rollout
    from tristream.monitoring.queries.rollout_details import read_rollout
    from tristream.monitoring.store.reading import open_reader

    key = parse_key(rollout)
    settings, folder = find_run(run, overrides or ())
    with open_reader(settings.monitoring, folder) as client:
        found = read_rollout(client, settings.run.id, key)
    if found is None:
        raise UserError(
            f"there is no rollout {rollout}", where=str(run), remedy="take one from the page, or a smaller number"
        )
    address = permalink(folder, key)
    if is_json:
        typer.echo(json.dumps(found | {"permalink": address}))
    else:
        print_rollout(found, address)


def report(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write; report.html in the run's folder if not given.")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Write the HTML report of a run: one file that needs nothing else. A run that goes on has one too.

    On a cluster: --out, and a run file whose monitoring.clickhouse_url is a server;
    images come from the run's store.

    Examples: tristream report runs/digits; tristream report run.toml --out digits.html

    Exit codes: 0 written, 2 bad input, 75 try again.
    """
    from tristream.cli.exporting import find_run
    from tristream.cli.report_writing import write_run_report

    settings, folder = find_run(run, overrides or ())
    typer.echo(f"wrote {write_run_report(settings, folder, out)}")


def add_watching_commands(app: typer.Typer) -> None:
    """Add them to the command."""
    for command in (top, runs, compare, show, report):
        app.command()(command)
