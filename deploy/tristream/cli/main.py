"""The ``tristream`` command. Heavy imports happen after the arguments are parsed, so help answers at once."""

import importlib
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tristream.config.run_file import RunFile, SourceSection, load_run_file
from tristream.runtime.errors import UserError

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

PARTS = {
    "dispatch": ("tristream.dispatcher.main", "producer"),
    "produce": ("tristream.producer.main", "producer"),
    "verify": ("tristream.verifiers.main", "verifier"),
    "assemble": ("tristream.assembler.main", "learner"),
    "learn": ("tristream.learner.main", "learner"),
    "monitor": ("tristream.monitoring.main", "monitor"),
}
"""Module and extra of each part's command."""


def run_part(command: str, settings: RunFile) -> None:
    """Import a part and run it.

    Raises:
        UserError: the packages of its extra are not installed, or the part says that its input is bad.
    """
    module, extra = PARTS[command]
    try:
        part = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"package '{error.name}' is not installed",
            where=f"tristream {command}",
            remedy=f"pip install 'tristream[{extra}]'",
        ) from None
    part.main(settings)


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

    account = audit_folder(run)
    for line in account_lines(account):
        typer.echo(line)
    if not account.balances:
        raise typer.Exit(1)


@app.command()
def dispatch(run: RunOption, overrides: SetOption = None) -> None:
    """Mix the sources, stamp the reward terms, admit prompts by staleness."""
    run_part("dispatch", load_run_file(run, overrides or ()))


@app.command()
def produce(run: RunOption, overrides: SetOption = None) -> None:
    """Answer prompts with rollouts of the newest policy."""
    run_part("produce", load_run_file(run, overrides or ()))


@app.command()
def verify(run: RunOption, overrides: SetOption = None) -> None:
    """Score rollouts in killable child processes."""
    run_part("verify", load_run_file(run, overrides or ()))


@app.command()
def assemble(run: RunOption, overrides: SetOption = None) -> None:
    """Join rollouts and rewards into groups and serve batches over gRPC."""
    run_part("assemble", load_run_file(run, overrides or ()))


@app.command()
def learn(run: RunOption, overrides: SetOption = None) -> None:
    """Train: take batches, make GRPO updates, publish weights and checkpoints."""
    run_part("learn", load_run_file(run, overrides or ()))


@app.command()
def monitor(run: RunOption, overrides: SetOption = None) -> None:
    """Write all events to ClickHouse and serve the live page."""
    run_part("monitor", load_run_file(run, overrides or ()))


@app.command()
def config() -> None:
    """Print every key of the run file with its default and its meaning."""
    for name, section in RunFile.model_fields.items():
        kind = SourceSection if name == "sources" else section.annotation
        typer.echo("[[sources]]" if name == "sources" else f"[{name}]")
        for key, field in getattr(kind, "model_fields", {}).items():
            default = "" if field.is_required() else f" = {field.get_default(call_default_factory=True)!r}"
            typer.echo(f"  {key}{default}\n      {field.description}")


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"tristream: {error}\n")
        sys.stderr.flush()
        os._exit(2)  # a part's threads must not keep a refused run alive
