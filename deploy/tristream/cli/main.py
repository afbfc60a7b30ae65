"""The ``tristream`` command. Heavy imports happen after the arguments are parsed, so help answers at once."""

import gc
import importlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from tristream.cli.algorithm_list import describe_presets, parameter_table
from tristream.cli.grafana import grafana_app
from tristream.cli.parts import PART_COMMANDS
from tristream.cli.run_file_keys import describe_run_file
from tristream.cli.run_watching import add_watching_commands
from tristream.cli.scoring import add_scoring_commands
from tristream.cli.tables import open_console
from tristream.cli.trying import try_before_training
from tristream.cli.verifiers import verifiers_app
from tristream.cli.why import why
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.runtime.bus.protocol import BusError
from tristream.runtime.errors import (
    TRY_AGAIN_EXIT_CODE,
    USER_ERROR_EXIT_CODE,
    StoppedError,
    TryAgainError,
    UserError,
)
from tristream.wire.events import Part

PART_EXIT_CODES = (
    f"Exit codes: 0 done or told to stop, {USER_ERROR_EXIT_CODE} bad input, or a second process of a part of which a "
    f"run has one, {TRY_AGAIN_EXIT_CODE} try again: what it needs does not work for now."
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Online reinforcement learning of vision-language and language models, as streams of events.",
    epilog="Each part of a run is a command of its own; they meet on Kafka and need only the same run file.",
)

app.add_typer(verifiers_app, name="verifiers")
app.add_typer(grafana_app, name="grafana")
add_scoring_commands(app, verifiers_app)

RunOption = Annotated[Path, typer.Option("--run", help="Run file (TOML), or the resolved run.json of a run.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key, such as --set learner.learning_rate=1e-5. Repeatable.", metavar="K=V"),
]

VerifierOption = Annotated[
    str,
    typer.Option(
        "--verifier",
        help="Serve just this one, which was added while the run goes on; it ends when that is retired.",
        metavar="NAME@VERSION",
    ),
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

    A finished run goes on when it is given more --steps.

    Exit codes: 0 complete, 1 it does not add up, 2 bad input, 75 try again (the same command resumes the run),
    130 interrupted.
    """
    shortcuts = {"run.steps": steps, "run.seed": seed}
    settings = load_run_file(
        run_file, [*(overrides or ()), *(f"{key}={value}" for key, value in shortcuts.items() if value is not None)]
    )
    from tristream.local.up import run_locally

    raise typer.Exit(run_locally(settings, again=again))


app.command("try")(try_before_training)
app.command("why")(why)
add_watching_commands(app)


@app.command()
def audit(
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder of a run, such as runs/digits, wherever it is.", metavar="[FOLDER]"),
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="Run file (TOML) of a run on brokers, store and database it names.")
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Prove that a run kept its promises, by its log.

    Each group was trained once or dropped with a reason, steps are whole, rollouts young enough, rewards those of the
    verifiers; ledger, reports, weights, evaluations and database agree. Nothing is changed.

    Exit codes: 0 all of it holds, 1 something does not, or there is nothing to audit, 2 bad input, 75 the broker does
    not answer.
    """
    if (folder is None) == (run is None):
        raise UserError(
            "give the folder of a run, or --run with a run file", where="tristream audit", remedy="see --help"
        )
    from tristream.audit.audit import account_lines, audit_cluster, audit_folder, table_lines
    from tristream.runtime.run_folder import RunFolder

    if folder is not None:
        found = audit_folder(RunFolder(folder), overrides or ())
    else:
        assert run is not None, "one of the two is given"
        found = audit_cluster(load_run_file(run, overrides or ()))
    for line in (*table_lines(found), account_lines(found.account)[0]):
        typer.echo(line)
    if not found.holds:
        raise typer.Exit(1)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run file (TOML), or the folder of a run.", metavar="RUN")],
    folder: Annotated[Path, typer.Argument(help="Folder to write, which is new.", metavar="DIR")],
    step: Annotated[int | None, typer.Option(help="Step whose policy is written; without, the newest.", min=0)] = None,
    best: Annotated[bool, typer.Option("--best", help="The step with the best held-out mean of all sources.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in DIR.")] = False,
    overrides: SetOption = None,
) -> None:
    """Write the policy of a step as a folder that transformers and vLLM load.

    Weights of the newest steps and of all evaluated ones are kept, so that the best one is always there.

    Exit codes: 0 written, 2 bad input, 75 the store does not answer.
    """
    if best and step is not None:
        raise UserError("give --step or --best, not both", where="tristream export", remedy="see --help")
    from tristream.cli.exporting import MAX_SHARD_BYTES, Wish, export_run, find_run

    settings, run_folder = find_run(run, overrides or ())
    wish = Wish(step=step, is_best=best)
    done = export_run(settings, run_folder, folder, wish, overwrites=overwrite, max_shard_bytes=MAX_SHARD_BYTES)
    mean = "" if done.held_out_mean is None else f", held-out mean {done.held_out_mean:.3f}"
    typer.echo(f"step {done.step} of {settings.run.id}{mean}: {len(done.files)} files in {folder}")


@app.command()
def resume(
    words: Annotated[
        list[str], typer.Argument(help="Folder of a run and a source, or with --run a source.", metavar="[RUN] SOURCE")
    ],
    run: Annotated[Path | None, typer.Option("--run", help="Run file (TOML) of a run on brokers it names.")] = None,
    overrides: SetOption = None,
) -> None:
    """Dispatch prompts of a paused source again.

    A source is paused when its newest groups were all dropped for one reason. It is tried again by itself after a
    while; this does it now, such as when what was wrong is mended.

    Exit codes: 0 the request is on the log, 2 bad input, 75 the broker does not answer.
    """
    from tristream.cli.source_resuming import find_run, resume_source

    settings, source = find_run(words, run, overrides or ())
    resume_source(settings, source)
    typer.echo(f"asked run {settings.run.id} to resume {source}")


@app.command()
def config() -> None:
    """Print every key of the run file with its default and its meaning."""
    for line in describe_run_file():
        typer.echo(line)


@app.command()
def algorithms() -> None:
    """List what [learner.algorithm] can be: presets with formula and source, and all of their parameters."""
    for line in describe_presets():
        typer.echo(line)
    open_console().print(parameter_table())


def run_part(part: Part, run_file: RunFile, **options: str) -> None:
    """Import a part and run it with its sections of the run file, and options of its own.

    Raises:
        UserError: the packages of its extra are not installed, or the part says that its input is bad.
    """
    command = PART_COMMANDS[part]
    gc.disable()  # half a million objects, none of them garbage: to look through them is a fifth of the import
    try:
        module = importlib.import_module(command.module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"package '{error.name}' is not installed",
            where=f"tristream {command.name}",
            remedy=f"pip install 'tristream[{part}]'",
        ) from None
    finally:
        gc.freeze()
        gc.enable()
    module.main(command.settings.of(run_file), **options)


def add_part(part: Part) -> None:
    """Make a part a command."""
    command = PART_COMMANDS[part]

    @app.command(command.name, help=command.summary, epilog=PART_EXIT_CODES)
    def start_part(run: RunOption, overrides: SetOption = None) -> None:
        run_part(part, load_run_file(run, overrides or ()))


def add_verifier() -> None:
    """Make the verifier a command: the only part with an option of its own."""
    command = PART_COMMANDS[Part.VERIFIER]

    @app.command(command.name, help=command.summary, epilog=PART_EXIT_CODES)
    def start_verifier(run: RunOption, overrides: SetOption = None, verifier: VerifierOption = "") -> None:
        run_part(Part.VERIFIER, load_run_file(run, overrides or ()), verifier=verifier)


for _part in PART_COMMANDS:
    if _part is Part.VERIFIER:
        add_verifier()
    else:
        add_part(_part)


def main() -> None:
    """Run the command."""
    end_in_one_line(app)


def end_in_one_line(command: Callable[[], object]) -> None:
    """Run something: bad input is one line and exit code 2, what may pass by itself one line and exit code 75."""
    try:
        command()
    except UserError as error:
        _end(USER_ERROR_EXIT_CODE, str(error))
    except (TryAgainError, BusError) as error:
        _end(TRY_AGAIN_EXIT_CODE, f"{error}; try again")
    except StoppedError:
        _end(0)


def _end(exit_code: int, last_words: str = "") -> None:
    """End the process at once: a part's threads must not keep alive what is over."""
    if last_words:
        sys.stderr.write(f"tristream: {' '.join(last_words.split())}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
