"""``tristream verifiers``: the verifiers of a run, and how they change while it goes on."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tristream.cli.verifier_requests import (
    add_request,
    change_request,
    describe_answer,
    parse_name,
    parse_parameters,
    parse_sources,
    parse_weights,
)
from tristream.runtime.errors import TryAgainError, UserError
from tristream.wire.events import Command, CommandKind

verifiers_app = typer.Typer(
    no_args_is_help=True,
    help="The verifiers of a run: see them, and add, promote, demote and retire them while it goes on.",
    epilog="Exit codes: 0 done, 2 bad input or refused by the run, 75 try again: broker or dispatcher do not answer.",
)

RunOption = Annotated[Path, typer.Option("--run", help="Run file (TOML), or the folder of a run, such as runs/digits.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key of the run file. Repeatable.", metavar="K=V")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
SourcesOption = Annotated[str, typer.Option("--sources", help="Sources, such as sums,counts; all if not given.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Without a version, the newest one.")]


@verifiers_app.command("list")
def list_verifiers(run: RunOption, as_json: JsonOption = False, overrides: SetOption = None) -> None:
    """Show each verifier version: what it is for, in which sources, since which prompt, and who serves it."""
    from tristream.cli.run_conversation import load_run, talk_to
    from tristream.cli.verifier_states import find_standings
    from tristream.cli.verifier_table import standing_to_json, verifier_table

    settings = load_run(run, overrides or ())
    names = [source.name for source in settings.sources]
    with talk_to(settings) as conversation:
        standings = find_standings(conversation.commands, conversation.statuses(), names)
    if as_json:
        typer.echo(json.dumps({"run": settings.run.id, "verifiers": [standing_to_json(s) for s in standings]}))
        return
    from tristream.cli.tables import open_console

    open_console().print(verifier_table(settings.run.id, standings, names))


@verifiers_app.command()
def add(
    entry_point: Annotated[
        str, typer.Argument(metavar="FILE.py:NAME", help="Or module:name, or the name of one that is installed.")
    ],
    run: RunOption,
    sources: SourcesOption = "",
    since: Annotated[str, typer.Option("--from", help="now, or earliest: also what is on the log already.")] = "now",
    params: Annotated[str, typer.Option(help="Its parameters, such as '{\"max_chars\": 400}'.", metavar="JSON")] = "{}",
    as_json: JsonOption = False,
    overrides: SetOption = None,
) -> None:
    """Let a verifier score as a shadow: its scores are kept and count for nothing until it is promoted.

    A run of `tristream up` starts a worker for it. Elsewhere start one: tristream verify --verifier NAME@VERSION.
    """
    if since not in ("now", "earliest"):
        raise UserError(f"'{since}' is no time", where="--from", remedy="write now or earliest")
    wanted, parameters = parse_sources(sources), parse_parameters(params)
    from tristream.verifiers.offline.describing import describe

    description = describe(entry_point)
    _ask(
        run,
        overrides or (),
        lambda settings_run, _commands: add_request(
            settings_run, description, sources=wanted, params=parameters, is_from_earliest=since == "earliest"
        ),
        as_json=as_json,
    )


@verifiers_app.command()
def promote(
    name: NameArgument,
    run: RunOption,
    weight: Annotated[
        list[str],
        typer.Option("--weight", help="W for each of its components, or COMPONENT=W. Repeatable.", metavar="W"),
    ],
    sources: SourcesOption = "",
    as_json: JsonOption = False,
    overrides: SetOption = None,
) -> None:
    """Let its scores count in prompts dispatched from now on, in place of another version of it if there is one."""
    wanted, given = parse_sources(sources), parse_weights(weight)
    _ask(
        run,
        overrides or (),
        lambda settings_run, commands: change_request(
            settings_run, CommandKind.PROMOTE, parse_name(name, commands), commands, sources=wanted, weights=given
        ),
        as_json=as_json,
    )


@verifiers_app.command()
def demote(
    name: NameArgument, run: RunOption, sources: SourcesOption = "", as_json: JsonOption = False,
    overrides: SetOption = None,
) -> None:  # fmt: skip
    """Let its scores count no more in prompts dispatched from now on; one that was added goes on as a shadow."""
    wanted = parse_sources(sources)
    _ask(
        run,
        overrides or (),
        lambda settings_run, commands: change_request(
            settings_run, CommandKind.DEMOTE, parse_name(name, commands), commands, sources=wanted
        ),
        as_json=as_json,
    )


@verifiers_app.command()
def retire(name: NameArgument, run: RunOption, as_json: JsonOption = False, overrides: SetOption = None) -> None:
    """Take it out: its worker ends once what was dispatched before has its rewards."""
    _ask(
        run,
        overrides or (),
        lambda settings_run, commands: change_request(
            settings_run, CommandKind.RETIRE, parse_name(name, commands), commands
        ),
        as_json=as_json,
    )


@verifiers_app.command()
def compare(
    name: NameArgument,
    run: RunOption,
    other: Annotated[
        str, typer.Option("--with", help="Another version; without it, the final reward.", metavar="NAME@VERSION")
    ] = "",
    as_json: JsonOption = False,
    overrides: SetOption = None,
) -> None:
    """Compare what it says of the rollouts so far with another verifier, or with the final reward, by source."""
    from tristream.cli.run_conversation import load_run, talk_to
    from tristream.cli.verifier_comparison import read_comparison
    from tristream.cli.verifier_table import comparison_table, comparison_to_json

    settings = load_run(run, overrides or ())
    with talk_to(settings) as conversation:
        first = "@".join(parse_name(name, conversation.commands))
        second = "@".join(parse_name(other, conversation.commands)) if other else ""
        found = read_comparison(conversation.bus, conversation.commands, first, second)
    if as_json:
        typer.echo(json.dumps(comparison_to_json(settings.run.id, first, second, found)))
        return
    from tristream.cli.tables import open_console

    open_console().print(comparison_table(first, second, found))


def _ask(
    place: Path, overrides: Sequence[str], make: Callable[[str, Sequence[Command]], Command], *, as_json: bool
) -> None:
    """Ask a run for something, and print what it answers."""
    from tristream.cli.run_conversation import ANSWER_SECONDS, load_run, talk_to

    settings = load_run(place, overrides)
    with talk_to(settings) as conversation:
        request = make(settings.run.id, conversation.commands)
        answer = conversation.ask(request)
    if as_json:
        told: dict[str, Any] = describe_answer(request, answer)
        typer.echo(json.dumps({"run": settings.run.id, **told}))
    if answer is None:
        raise TryAgainError(
            f"the dispatcher of run {settings.run.id} has not answered within {ANSWER_SECONDS:.0f} s; the request is "
            "on the log, and is answered once a dispatcher works: `tristream verifiers list` tells"
        )
    if answer.refusal:
        what, _, remedy = answer.refusal.partition("; ")
        raise UserError(what, where=f"run {settings.run.id}", remedy=remedy or "see `tristream verifiers list`")
    if not as_json:
        typer.echo(_in_words(settings.run.id, answer))


def _in_words(run: str, answer: Command) -> str:
    name = f"{answer.verifier}@{answer.version}"
    where = ", ".join(answer.sources) or "all sources"
    if answer.kind is CommandKind.ADD:
        return f"run {run}: {name} scores {where} as a shadow; it counts for nothing until it is promoted"
    what = {
        CommandKind.PROMOTE: f"{name} counts in {where}",
        CommandKind.DEMOTE: f"{name} counts no more in {where}",
        CommandKind.RETIRE: f"{name} is taken out",
    }[answer.kind]
    return (
        f"run {run}: {what}; in force from prompt {answer.from_number} on, "
        f"in evaluation from policy version {answer.from_version} on"
    )
