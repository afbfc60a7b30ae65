"""``tristream try``: samples and scores a few groups before one trains."""

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.runtime.errors import UserError

NOTHING_TO_LEARN_EXIT_CODE = 1
INTERRUPTED_EXIT_CODE = 130


def try_before_training(
    run_file: Annotated[Path, typer.Argument(help="Run file (TOML), such as examples/digits/run.toml.")],
    sources: Annotated[
        list[str] | None, typer.Option("--source", help="Try this source alone. Repeatable.", metavar="NAME")
    ] = None,
    num_groups: Annotated[int, typer.Option("-n", "--groups", help="Groups of each source.", min=1)] = 16,
    seed: Annotated[int | None, typer.Option(help="Seed of the mix and the sampling.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Override a key, such as --set rollout.temperature=0.8. Repeatable.", metavar="K=V"),
    ] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Try a run before it trains: would it learn, how fast, what keeps it from it?

    Answers the first training prompts of each source with the run's model, and
    scores them with its verifiers. Shows how many groups are mixed (others teach
    nothing), what each component is worth, how long answers are, two answers of
    each source, what would keep it from learning, and the steps per hour to
    expect at most. Starts no broker and writes no run folder. Ctrl-C shows what
    there is so far.

    Example: tristream try examples/digits/run.toml -n 4 --source digits_sum

    Exit codes: 0 it can learn, 1 no group is mixed, so that nothing would be
    trained, 2 bad input, 75 try again, 130 interrupted.
    """
    shortcut = [] if seed is None else [f"run.seed={seed}"]
    settings = load_run_file(run_file, [*(overrides or ()), *shortcut])
    _enter_python_of_engine(settings)
    try:
        exit_code = _try(settings, num_groups, sources or (), is_json=is_json)
    except KeyboardInterrupt:
        exit_code = INTERRUPTED_EXIT_CODE
    raise typer.Exit(exit_code)


def _enter_python_of_engine(settings: RunFile) -> None:
    """Go on in the Python that has the engine, where the run file names another one: the engine is in this process.

    Raises:
        UserError: it cannot be started.
    """
    python = getattr(settings.rollout.engine, "python", None)
    if python is None or os.path.abspath(python) == os.path.abspath(sys.executable):  # noqa: PTH100 - links tell apart
        return
    try:
        os.execv(python, [str(python), "-m", "tristream.cli", *sys.argv[1:]])
    except OSError as error:
        raise UserError(
            f"it cannot be started ({error.strerror})",
            where=f"[rollout.engine] python = {python}",
            remedy="make vllm-env, or give the python of an environment that has the engine",
        ) from None


def _try(settings: RunFile, num_groups: int, sources: Collection[str], *, is_json: bool) -> int:
    """Try it and print what was found; returns the exit code.

    Raises:
        UserError: the data, the verifiers, the model or a package that the engine needs are not there.
        TryAgainError: the processes that judge do not work.
    """
    try:
        from tristream.cli.trying_display import TryoutDisplay
        from tristream.cli.trying_report import print_json, print_report
        from tristream.local.trying.tryout import Tryout, try_run

        tryout = Tryout(settings=settings, num_groups=num_groups)
        with TryoutDisplay() as display:
            try_run(tryout, display.show, sources=sources)
    except ModuleNotFoundError as error:
        raise UserError(
            f"package '{error.name}' is not installed",
            where="tristream try",
            remedy=f"{sys.executable} -m pip install {(error.name or '').partition('.')[0].replace('_', '-')}",
        ) from None
    print_json(tryout) if is_json else print_report(tryout)
    if tryout.is_interrupted:
        return INTERRUPTED_EXIT_CODE
    return 0 if tryout.can_learn else NOTHING_TO_LEARN_EXIT_CODE
