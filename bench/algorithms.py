"""What becomes of the demo under each preset of ``[learner.algorithm]``: ``make algorithms``.

Every preset trains the digits from the same model, with the same seed and rate, for the same few steps. That shows that
it runs and where it goes, and ranks nothing: 20 steps are few, and the rate suits the default.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.measuring import DEMO, in_own_process, load_demo, make_table, say, show, write_results

from tristream.config.presets import PRESETS
from tristream.config.run_file import RunFile

COLUMNS = (
    "preset", "held-out before", "after", "loss", "grad norm", "clipped", "KL to sampled", "KL to reference", "skipped",
    "warnings", "seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a run under one preset came to."""

    preset: str
    held_out_before: float
    """Mean over the sources."""
    held_out_after: float
    metrics: Mapping[str, float]
    """Mean of each metric over the steps."""
    num_skipped_updates: int
    warnings: tuple[str, ...]
    """Lines of the learner's log."""
    seconds: float


def train_with(preset: str, output: Path, *, num_steps: int, overrides: Sequence[str]) -> Trial:
    """Run the demo to its end in processes of its own.

    Raises:
        subprocess.CalledProcessError: the run did not end as it should.
    """
    keys = [f"run.steps={num_steps}", f"run.id={preset.replace('_', '-')}", f"learner.algorithm.type={preset}"]
    keys += [f"evaluation.every={num_steps}", *overrides]
    settings = load_demo(DEMO, output, keys)
    command = [sys.executable, "-m", "tristream.cli", "up", str(DEMO)]
    for key in (f"run.output={output}", *keys):
        command += ["--set", key]
    started = time.monotonic()
    with (output / f"{preset}.log").open("wb") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    seconds = time.monotonic() - started
    sources = json.loads(settings.run.folder.summary.read_text(encoding="utf-8"))["sources"].values()
    steps = in_own_process(_read_metrics, settings)
    learner_log = settings.run.folder.log("learner").read_text(encoding="utf-8").splitlines()
    return Trial(
        preset=preset,
        held_out_before=fmean(source["eval_before"] for source in sources),
        held_out_after=fmean(source["eval_after"] for source in sources),
        metrics={name: fmean(step[name] for step in steps) for name in sorted(set.intersection(*map(set, steps)))},
        num_skipped_updates=round(sum(step["skipped_updates"] for step in steps)),
        warnings=tuple(line for line in learner_log if " WARNING " in line or " ERROR " in line),
        seconds=seconds,
    )


def _read_metrics(settings: RunFile) -> list[dict[str, float]]:
    """The metrics of each step, from the finished run's database; its engine allows one folder a process."""
    from tristream.monitoring.store.clickhouse import open_client

    client = open_client(settings.monitoring, settings.run.folder)
    try:
        rows = client.query("SELECT metrics FROM steps FINAL ORDER BY step").result_rows
    finally:
        client.close()
    return [dict(row[0]) for row in rows]


def row_of(trial: Trial) -> list[str]:
    """A line of the table."""
    metrics: Mapping[str, Any] = trial.metrics
    return [
        trial.preset,
        f"{trial.held_out_before:.3f}",
        f"{trial.held_out_after:.3f}",
        *(f"{metrics[name]:.3g}" for name in ("loss", "grad_norm", "clip_fraction", "kl_k3", "kl_reference")),
        str(trial.num_skipped_updates),
        str(len(trial.warnings)),
        f"{trial.seconds:.0f}",
    ]


def main() -> None:
    """Train with each preset, print the table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list(PRESETS), help="which ones (all)")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps of each run")
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="a key of the run file, for all runs")
    arguments = parser.parse_args()
    trials = []
    with tempfile.TemporaryDirectory(prefix="tristream-algorithms-") as folder:
        for preset in arguments.presets:
            say(f"training the demo with {preset}")
            trial = train_with(preset, Path(folder), num_steps=arguments.steps, overrides=arguments.set)
            for line in trial.warnings:
                say(line)
            trials.append(trial)
    title = f"{arguments.steps} steps of the demo; means over steps, clipped as a share of tokens, KL in nats per token"
    show(make_table(title, COLUMNS, [row_of(trial) for trial in trials]))
    say(f"wrote {write_results('algorithms', {'trials': [asdict(trial) for trial in trials]})}")
    if any(trial.warnings for trial in trials):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
