"""Scoring without a broker: ``score``, ``serve-verifiers``, ``rescore`` and ``verifiers check``."""

import glob
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tristream.cli.verifier_requests import parse_object
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder

if TYPE_CHECKING:
    from tristream.verifiers.offline.questions import LineFormat
    from tristream.verifiers.offline.served import Served

BAD_LINES_EXIT_CODE = 1
NOT_OK_EXIT_CODE = 1


class Format(StrEnum):
    """How lines and requests ask."""

    TRISTREAM = "tristream"
    VTRIUNE = "vtriune"


WorkersOption = Annotated[
    int, typer.Option("--workers", help="Processes that judge; 0 for one a core.", min=0, metavar="N")
]
PlugInOption = Annotated[
    list[str] | None,
    typer.Option("--plug-in", help="A verifier of your own: file.py:name or module:name. Repeatable.", metavar="ENTRY"),
]
ThresholdOption = Annotated[
    str,
    typer.Option(
        envvar="DET_IOU_THRESHOLD",
        help="IoU threshold of detection under --format vtriune: dynamic, average, or one of V-Triune's eleven.",
    ),
]
ParamsOption = Annotated[str, typer.Option("--params", help="Parameters of the verifier.", metavar="JSON")]


def score(
    lines: Annotated[str, typer.Argument(help="File of JSON lines; - for standard input.", metavar="IN.jsonl")],
    out: Annotated[str, typer.Option("--out", help="File to write; - for standard output.", metavar="OUT.jsonl")] = "-",
    workers: WorkersOption = 0,
    format: Annotated[Format, typer.Option("--format", help="How the lines ask.")] = Format.TRISTREAM,  # noqa: A002
    plug_in: PlugInOption = None,
    iou_threshold: ThresholdOption = "dynamic",
) -> None:
    """Score a file: one JSON line in, one out, in the same order.

    A line has text, verifier, ground_truth, params, weights ... and comes back with its reward.

    With --format vtriune it is a request to V-Triune's /judge, and its rewards come back.

    A line that asks nothing comes back with its error.

    Exit codes: 0 each line is answered, 1 a line asks nothing, 2 bad input, 75 try again.
    """
    from tristream.cli.tables import open_console
    from tristream.verifiers.offline.file_scoring import score_file
    from tristream.verifiers.offline.served import serve

    served = serve(plug_in or ())
    console = open_console(stderr=True)
    tally = score_file(
        lines, out, _line_format(format, served, iou_threshold), served, num_workers=workers, console=console
    )
    if tally.num_bad:
        typer.echo(f"{tally.num_bad} lines ask nothing; {tally.first_error}", err=True)
        raise typer.Exit(BAD_LINES_EXIT_CODE)


def serve_verifiers(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for a free one.", min=0, max=65535)] = 8192,
    workers: WorkersOption = 0,
    format: Annotated[Format, typer.Option("--format", help="How requests ask.")] = Format.VTRIUNE,  # noqa: A002
    plug_in: PlugInOption = None,
    iou_threshold: ThresholdOption = "dynamic",
    address_folder: Annotated[
        Path | None, typer.Option(help="Keep an empty file DIR/JOB_ID/IP:PORT while it answers.", metavar="DIR")
    ] = None,
    job_id: Annotated[str, typer.Option(help="Name of the folder in DIR; a new one by default.", metavar="ID")] = "",
) -> None:
    """Judge over HTTP as V-Triune's reward server does, so that its trainer uses this one unchanged.

    GET / says who it is, POST /judge takes one sample.

    There is no authentication: serve trusted networks only.

    Exit codes: 0 told to stop, 2 bad input, 75 try again.
    """
    from tristream.verifiers.offline.served import serve
    from tristream.verifiers.offline.serving_command import serve_until_told

    served = serve(plug_in or ())
    serve_until_told(
        _line_format(format, served, iou_threshold),
        served,
        host=host,
        port=port,
        num_workers=workers,
        address_folder=address_folder,
        job_id=job_id,
        say=lambda line: print(line, flush=True),
    )


def rescore(
    run: Annotated[Path, typer.Argument(help="Folder of a run, or its run file.", metavar="RUN")],
    verifier: Annotated[
        str, typer.Option("--verifier", help="NAME, NAME@VERSION, file.py:name or module:name.", metavar="VERIFIER")
    ],
    steps: Annotated[str, typer.Option(help="Training steps, such as 10..20, 10.. or ..20.", metavar="A..B")] = "",
    sources: Annotated[str, typer.Option(help="Sources, separated by commas.", metavar="A,B")] = "",
    params: ParamsOption = "{}",
    weights: Annotated[
        str, typer.Option(help="Compare these components alone, whatever the rows ask for.", metavar="JSON")
    ] = "{}",
    workers: WorkersOption = 1,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score what a run has generated with another verifier, and compare.

    Reads the archive of the run, or its brokers without joining a group, also while it is live.

    Results are below RUN/rescored/; the same command goes on where it was ended.

    Exit codes: 0 done, 2 bad input, 75 try again.
    """
    from tristream.assembler.rewards import final_reward
    from tristream.cli.rescore_report import print_report
    from tristream.verifiers.offline.logged_groups import Choice
    from tristream.verifiers.offline.rescoring import Wish
    from tristream.verifiers.offline.rescoring import rescore as rescore_run

    settings, folder = _find_run(run)
    wanted = frozenset(filter(None, sources.split(",")))
    unknown = wanted - {source.name for source in settings.sources}
    if unknown:
        names = ", ".join(source.name for source in settings.sources)
        raise UserError(f"there is no source '{min(unknown)}'", where="--sources", remedy=f"use {names}")
    wish = Wish(
        entry_point=_find_entry_point(verifier, settings, folder),
        choice=Choice(steps=_parse_steps(steps), sources=wanted),
        params=parse_object(params, "--params"),
        weights=parse_object(weights, "--weights"),
    )
    print_report(rescore_run(settings, folder, wish, final_reward, num_workers=workers), is_json=is_json)


def check(
    entry: Annotated[
        str, typer.Argument(help="file.py:name, module:name, or the name of a verifier.", metavar="ENTRY")
    ],
    on: Annotated[Path | None, typer.Option("--on", help="Rows that it is for.", metavar="DATA.parquet")] = None,
    params: ParamsOption = "{}",
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try a verifier: is it pure, is all that it says in range, what does one reward cost?

    Exit codes: 0 it keeps the contract, 1 it does not, 2 it cannot be loaded, 75 try again.
    """
    from tristream.cli.check_report import print_report
    from tristream.verifiers.offline.checking import check_verifier

    report = check_verifier(entry, on, parse_object(params, "--params"))
    print_report(report, is_json=is_json)
    if not report.holds:
        raise typer.Exit(NOT_OK_EXIT_CODE)


def add_scoring_commands(app: typer.Typer, verifiers_app: typer.Typer) -> None:
    """Make these functions commands, ``check`` one of ``tristream verifiers``."""
    app.command("score")(score)
    app.command("serve-verifiers")(serve_verifiers)
    app.command("rescore")(rescore)
    verifiers_app.command("check")(check)


def _line_format(name: Format, served: "Served", iou_threshold: str) -> "LineFormat":
    from tristream.assembler.rewards import final_reward
    from tristream.verifiers.offline.plain_lines import PlainLines
    from tristream.verifiers.offline.vtriune_lines import VTriuneLines
    from tristream.verifiers.offline.vtriune_request import THRESHOLDS, parse_threshold

    if name is Format.TRISTREAM:
        return PlainLines(served, final_reward)
    try:
        return VTriuneLines(parse_threshold(iou_threshold))
    except ValueError:
        known = ", ".join(str(threshold) for threshold in THRESHOLDS)
        raise UserError(
            f"'{iou_threshold}' is no threshold",
            where="--iou-threshold or DET_IOU_THRESHOLD",
            remedy=f"use dynamic, average or one of {known}",
        ) from None


def _find_run(path: Path) -> tuple[RunFile, RunFolder]:
    if not path.is_dir():
        settings = load_run_file(path)
        return settings, settings.run.folder
    folder = RunFolder(path)
    if not folder.run_file.is_file():
        raise UserError("not the folder of a run", where=str(folder), remedy="give one such as runs/digits")
    return load_run_file(folder.run_file, environment={}), folder


def _find_entry_point(word: str, settings: RunFile, folder: RunFolder) -> str:
    """The entry point of a verifier of the run by its name, with its version or without; another word as it is."""
    if ":" in word:
        return word
    plug_ins = settings.verification.plug_ins
    named = [entry_point for name, entry_point in plug_ins.items() if word in (name, name.partition("@")[0])]
    added = [
        *folder.path.glob(f"verifiers/{glob.escape(word)}.py"),
        *folder.path.glob(f"verifiers/{glob.escape(word)}@*.py"),
    ]
    files = [f"{path}:{path.name.partition('@')[0]}" for path in sorted(added, key=lambda path: path.stat().st_mtime)]
    return [word, *named, *files][-1]


def _parse_steps(text: str) -> range | None:
    if not text:
        return None
    first, dots, last = text.partition("..")
    try:
        return range(int(first or 0), (int(last) + 1 if last else sys.maxsize) if dots else int(first) + 1)
    except ValueError:
        raise UserError(
            f"'{text}' is no range of steps", where="--steps", remedy="write 10..20, 10.. or ..20"
        ) from None
