"""The ``tristream`` command. Heavy imports happen after the arguments are parsed, so help answers at once."""

import importlib
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from tristream.cli.parts import PART_COMMANDS
from tristream.cli.run_file_keys import describe_run_file
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.runtime.errors import UserError
from tristream.wire.events import Part

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Online reinforcement learning of vision-language and language models, as streams of events.",
    epilog="Each part of a run is a command of its own; they meet on Kafka and need only the same run file.",
)

RunOption = Annotated[Path, typer.Option("--run", help="Run file (TOML), or the resolved run.json of a run.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key, such as --set learner.learning_rate=1e-5. Repeatable.", metavar="K=V"),
]


def print_version(is_asked: bool) -> None:
    """Print the version and end."""
    if is_asked:
        typer.echo(f"tristream {version('tristream')}")
        raise typer.Exit


@app.callback()
def tristream(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def up(
    run_file: Annotated[Path, typer.Argument(help="Run file (TOML), such as examples/digits/run.toml.")],
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of the run.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the mix, the sampling and the learner.")] = None,
    overrides: SetOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="If this run is finished, start it anew as ID-2, ID-3, ...")
    ] = False,
) -> None:
    """Run everything on this machine: broker, all parts, live page, report.

    Ctrl-C stops all parts in order; the same command resumes from the last checkpoint.

    Exit codes: 0 complete, 1 groups do not add up, 2 bad input, 130 interrupted.
    """
    shortcuts = {"run.steps": steps, "run.seed": seed}
    settings = load_run_file(
        run_file, [*(overrides or ()), *(f"{key}={value}" for key, value in shortcuts.items() if value is not None)]
    )
    from tristream.local.up import run_locally

    raise typer.Exit(run_locally(settings, again=again))


@app.command()
def audit(run: Annotated[Path, typer.Argument(help="Folder of a run, such as runs/digits.", metavar="RUN")]) -> None:
    """Prove that every group was trained once or dropped with a reason.

    Compares the run's events with its newest checkpoint; exits with 1 and names the groups if they disagree.
    """
    from tristream.audit.audit import account_lines, audit_folder
    from tristream.runtime.run_folder import RunFolder

    account = audit_folder(RunFolder(run))
    for line in account_lines(account):
        typer.echo(line)
    if not account.balances:
        raise typer.Exit(1)


@app.command()
def config() -> None:
    """Print every key of the run file with its default and its meaning."""
    for line in describe_run_file():
        typer.echo(line)


def run_part(part: Part, run_file: RunFile) -> None:
    """Import a part and run it with its sections of the run file.

    Raises:
        UserError: the packages of its extra are not installed, or the part says that its input is bad.
    """
    command = PART_COMMANDS[part]
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"package '{error.name}' is not installed",
            where=f"tristream {command.name}",
            remedy=f"pip install 'tristream[{part}]'",
        ) from None
    module.main(command.settings.of(run_file))


def add_part(part: Part) -> None:
    """Make a part a command."""
    command = PART_COMMANDS[part]

    @app.command(command.name, help=command.summary)
    def start_part(run: RunOption, overrides: SetOption = None) -> None:
        run_part(part, load_run_file(run, overrides or ()))


for _part in PART_COMMANDS:
    add_part(_part)


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"tristream: {error}\n")
        sys.stderr.flush()
        os._exit(2)  # a part's threads must not keep a refused run alive
