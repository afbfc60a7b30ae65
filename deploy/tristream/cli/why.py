"""``tristream why``: what changed around a step of a run, and what of it explains the change of the reward."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tristream.runtime.errors import UserError

FEWEST_STEPS = 2


def why(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its run file.", metavar="RUN")],
    step: Annotated[int, typer.Argument(help="The first step that is otherwise.", min=1, metavar="STEP")],
    source: Annotated[str, typer.Option("--source", help="This source alone; all of them if not given.")] = "",
    num_steps: Annotated[
        int, typer.Option("--steps", help="Steps on each side that are compared.", min=FEWEST_STEPS, metavar="N")
    ] = 10,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the run file. Repeatable.", metavar="K=V")
    ] = None,
) -> None:
    """Tell why the reward changed at a step: each cause with what it explains, the largest first.

    Compares the mean reward of all judged rollouts in the steps before STEP with
    that from it on. Rewards are computed anew where the rule changed (IoU
    threshold, verifier version, weights), so that this is told apart from data,
    truncation, lengths, stale rollouts, outages, producers, the mix of sources,
    the learner, and what is left for the policy itself. A star marks what stands
    out from noise. Below it, the same samples before and after, and commands
    that show more. Works while the run goes on. Nothing is changed.

    Example: tristream why runs/digits 40 --source digits_find

    Exit codes: 0 told, also if nothing stands out, 2 bad input, 75 try again.
    """
    from tristream.cli.exporting import find_run
    from tristream.cli.why_report import print_explanation
    from tristream.monitoring.queries.why.explaining import explain
    from tristream.monitoring.store.reading import open_reader

    settings, folder = find_run(run, overrides or ())
    names = [item.name for item in settings.sources]
    if source and source not in names:
        raise UserError(f"there is no source '{source}'", where="--source", remedy=f"use {', '.join(names)}")
    with open_reader(settings.monitoring, folder) as client:
        found = explain(client, settings.run.id, step, source, num_steps=num_steps, place=str(run))
    if is_json:
        typer.echo(json.dumps(found.to_json()))
        return
    print_explanation(found)
