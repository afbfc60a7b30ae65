"""Time a step with all parts on the bus beside the same work in one process without a bus.

The sides take turns, each in fresh processes and from the same model, and do the same number of steps. The single
process has the machine to itself, so it runs on each number of threads asked for, and the fastest one counts. What
else the machine does only ever adds time, and every round does the same work: the fastest round of each side counts.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from bench.bus_run import BusTimes, measure_bus
from bench.event_sizes import TopicBytes, measure_event_sizes
from bench.measuring import (
    DEMO,
    Goal,
    in_own_process,
    load_demo,
    make_table,
    num_cores,
    percentile,
    say,
    show,
    write_results,
)
from bench.one_process import OneProcessTimes, measure_one_process

LIMIT_PERCENT = 10.0
QUIET_SHARE = 0.05
"""Share of the machine's CPU time that others may use before a result is in doubt."""
NUM_SIZED_STEPS = 2

Measured = dict[str, list[BusTimes | OneProcessTimes]]
"""By side, one of each round."""


def measure_rounds(arguments: argparse.Namespace, folder: Path) -> Measured:
    """Let the sides take turns."""
    measured: Measured = {"on the bus": []}
    measured.update({one_process_side(num_threads): [] for num_threads in arguments.threads})
    window = {"num_warmup": arguments.warmup, "num_measured": arguments.steps}
    for number in range(1, arguments.rounds + 1):
        place = f"round {number}/{arguments.rounds}"
        say(f"{place}: {arguments.warmup} + {arguments.steps} steps on the bus")
        output = folder / f"bus-{number}"
        output.mkdir()
        bus = measure_bus(arguments.run, output, overrides=arguments.set, **window)
        measured["on the bus"].append(bus)
        say(f"{place}: {fmean(bus.step_seconds):.3f} s a step; now in one process")
        for num_threads in arguments.threads:
            keys = [f"run.steps={arguments.warmup + arguments.steps}", *arguments.set]
            settings = load_demo(arguments.run, folder / f"one-{number}-{num_threads}", keys)
            one = in_own_process(measure_one_process, settings, num_threads=num_threads, **window)
            measured[one_process_side(num_threads)].append(one)
            say(f"{place}: {fmean(one.step_seconds):.3f} s a step, {one_process_side(num_threads)}")
    return measured


def one_process_side(num_threads: int) -> str:
    return f"one process, {num_threads} thread{'s' if num_threads > 1 else ''}"


def summarize(measured: Measured) -> dict[str, dict[str, float]]:
    """What each side took a step."""
    summary = {}
    for side, runs in measured.items():
        steps = [seconds for run in runs for seconds in run.step_seconds]
        tokens = sum(run.num_completion_tokens for run in runs)
        fastest = min(runs, key=lambda run: fmean(run.step_seconds))
        summary[side] = {
            "fastest_round_seconds_per_step": fmean(fastest.step_seconds),
            "fastest_round_used_by_others": share_of_others(fastest),
            "mean_seconds_per_step": fmean(steps),
            "median_seconds_per_step": median(steps),
            "p90_seconds_per_step": percentile(steps, 90),
            "rollouts_per_step": sum(run.num_rollouts for run in runs) / len(steps),
            "completion_tokens_per_step": tokens / len(steps),
            "completion_tokens_per_second": tokens / sum(steps),
            "cpu_seconds_per_step": fmean(cpu_per_step(run) for run in runs),
            "other_cpu_seconds_per_step": fmean(other_cpu_per_step(run) for run in runs),
        }
    return summary


def cpu_per_step(run: BusTimes | OneProcessTimes) -> float:
    if isinstance(run, BusTimes):
        return sum(run.cpu_seconds_per_step.values())
    return run.cpu_seconds / len(run.step_seconds)


def other_cpu_per_step(run: BusTimes | OneProcessTimes) -> float:
    if isinstance(run, BusTimes):
        return run.other_cpu_seconds_per_step
    return run.other_cpu_seconds / len(run.step_seconds)


def share_of_others(run: BusTimes | OneProcessTimes) -> float:
    """Share of the machine's CPU time that other programs used during a run."""
    return other_cpu_per_step(run) / fmean(run.step_seconds) / num_cores()


def print_steps(measured: Measured, summary: dict[str, dict[str, float]]) -> None:
    work = ("rollouts", "tokens", "tok/s", "CPU s", "others' CPU")
    columns = ("side", "s/step", "all rounds", "median", "p90", "by round", *work)
    rows = [
        (
            side,
            f"{row['fastest_round_seconds_per_step']:.3f}",
            f"{row['mean_seconds_per_step']:.3f}",
            f"{row['median_seconds_per_step']:.3f}",
            f"{row['p90_seconds_per_step']:.3f}",
            " ".join(f"{fmean(run.step_seconds):.2f}" for run in measured[side]),
            f"{row['rollouts_per_step']:.0f}",
            f"{row['completion_tokens_per_step']:.0f}",
            f"{row['completion_tokens_per_second']:.0f}",
            f"{row['cpu_seconds_per_step']:.3f}",
            f"{row['other_cpu_seconds_per_step']:.3f}",
        )
        for side, row in summary.items()
    ]
    show(
        make_table(
            "one step: mean of the fastest round, and over all rounds; its work includes dropped groups", columns, rows
        )
    )


def mean_by_key(tables: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over the rounds, largest first."""
    means = {name: fmean(table.get(name, 0.0) for table in tables) for table in tables for name in table}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def where_time_goes(measured: Measured) -> dict[str, dict[str, float]]:
    """Mean seconds a step: CPU of each process on the bus, and phases of the learner and of the single process."""
    bus = [run for run in measured["on the bus"] if isinstance(run, BusTimes)]
    parts = {
        "CPU on the bus": mean_by_key([run.cpu_seconds_per_step for run in bus]),
        "learner on the bus": mean_by_key([run.phase_seconds for run in bus]),
    }
    for side, runs in measured.items():
        alone = [run.phase_seconds for run in runs if isinstance(run, OneProcessTimes)]
        if alone:
            parts[side] = mean_by_key(alone)
    return parts


def summarize_latency(measured: Measured) -> dict[str, float]:
    runs = [run for run in measured["on the bus"] if isinstance(run, BusTimes)]
    seconds = [value for run in runs for value in run.scored_after_seconds]
    return {"rollouts": len(seconds)} | {
        f"p{percent}_seconds": percentile(seconds, percent) for percent in (50, 90, 99)
    }


def print_bus(parts: dict[str, dict[str, float]], latency: dict[str, float], sizes: Sequence[TopicBytes]) -> None:
    rows = [(group, name, f"{1000 * seconds:.0f}") for group, of in parts.items() for name, seconds in of.items()]
    show(make_table("where a step goes", ("of", "part", "ms/step"), rows))
    quantiles = [f"{1000 * latency[f'p{percent}_seconds']:.0f}" for percent in (50, 90, 99)]
    columns = ("from published to scored", "p50 ms", "p90 ms", "p99 ms")
    show(make_table("latency", columns, [(f"{latency['rollouts']:.0f} rollouts", *quantiles)]))
    topics = [
        (size.topic, f"{size.num_events}", f"{size.bytes_per_event:,.0f}", f"{size.bytes_per_rollout:,.0f}")
        for size in sizes
    ]
    topics.append(("rollout and its rewards", "", "", f"{bytes_per_rollout(sizes):,.0f}"))
    topics.append(("all", "", "", f"{sum(size.bytes_per_rollout for size in sizes):,.0f}"))
    show(make_table("bytes on the bus", ("topic", "events", "bytes/event", "bytes/rollout"), topics))


def bytes_per_rollout(sizes: Sequence[TopicBytes]) -> float:
    return sum(size.bytes_per_rollout for size in sizes if size.topic in ("rollouts", "rewards"))


def extra_percent(summary: dict[str, dict[str, float]], key: str) -> float:
    """By how much a step on the bus takes longer than one of the fastest single process."""
    fastest = min(row[key] for side, row in summary.items() if side != "on the bus")
    return 100 * (summary["on the bus"][key] / fastest - 1)


def make_goal(summary: dict[str, dict[str, float]]) -> Goal:
    return Goal(
        name="the bus adds to the step time of the fastest single process",
        measured_percent=extra_percent(summary, "fastest_round_seconds_per_step"),
        limit_percent=LIMIT_PERCENT,
        is_upper_limit=True,
    )


def is_quiet(summary: dict[str, dict[str, float]]) -> bool:
    """Whether other programs left the fastest rounds alone, so that they can be compared."""
    return max(row["fastest_round_used_by_others"] for row in summary.values()) <= QUIET_SHARE


def print_verdict(summary: dict[str, dict[str, float]], goal: Goal) -> None:
    print(f"over all rounds the bus adds {extra_percent(summary, 'mean_seconds_per_step'):.1f} %")
    print(goal)
    if not is_quiet(summary):
        shares = ", ".join(f"{side} {row['fastest_round_used_by_others']:.0%}" for side, row in summary.items())
        print(f"IN DOUBT: other programs used too much of the machine in the fastest rounds ({shares}); measure again")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.bus",
        description="Time a step with all parts on the bus beside the same work in one process without a bus.",
    )
    parser.add_argument("--run", type=Path, default=DEMO, help="run file (default: the digits)")
    parser.add_argument("--steps", type=int, default=16, help="measured steps of each run (default: 16)")
    parser.add_argument("--warmup", type=int, default=4, help="steps before them, 1 or more (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side has its turn (default: 3)")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="torch threads of the single process (default: 1 2)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="K=V", help="override a key of the run file")
    arguments = parser.parse_args()
    if min(arguments.steps, arguments.warmup, arguments.rounds, *arguments.threads) < 1:
        parser.error("numbers are 1 or more")
    return arguments


def main() -> None:
    """Measure, print, write ``bench/results/bus.json``."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = measure_rounds(arguments, folder)
        say("encoding the events of a few steps")
        settings = load_demo(arguments.run, folder / "sizes", arguments.set)
        sizes = in_own_process(measure_event_sizes, settings, num_steps=NUM_SIZED_STEPS)
    summary, parts, latency = summarize(measured), where_time_goes(measured), summarize_latency(measured)
    goal = make_goal(summary)
    print_steps(measured, summary)
    print_bus(parts, latency, sizes)
    print_verdict(summary, goal)
    results: dict[str, Any] = {
        "steps": {"warmup": arguments.warmup, "measured": arguments.steps, "rounds": arguments.rounds},
        "overrides": arguments.set,
        "summary": summary,
        "seconds_per_step_by_part": parts,
        "publish_to_scored": latency,
        "bytes_per_rollout": bytes_per_rollout(sizes),
        "bytes_by_topic": [asdict(size) for size in sizes],
        "step_seconds": {side: [run.step_seconds for run in runs] for side, runs in measured.items()},
        "goal": {
            "extra_percent": goal.measured_percent,
            "at_most": goal.limit_percent,
            "met": goal.is_met,
            "in_doubt": not is_quiet(summary),
        },
    }
    print(f"written to {write_results('bus', results)}")


if __name__ == "__main__":
    main()
