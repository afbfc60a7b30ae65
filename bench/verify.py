"""Time the verifiers: what a rollout costs on its way from the log to its reward, and what hanging ones cost others.

The rollouts are those of ``verify_rollouts.py``: half mathematical answers, half detections. First their parts are
timed alone, in this process; then whole workers score them on a broker, one and two of them, each with one child:
as fast as they can, and at half that rate; and both again with answers that do harm. The brokers are the embedded
one, and Apache Kafka where ``KAFKA_HOME`` names it.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.hostile_verifiers import CRASH, HOG, LOOP
from bench.measuring import make_table, num_cores, say, show, write_results
from bench.verify_rollouts import GROUP_SIZE, NUM_PROMPTS, Judging, make_rollouts
from bench.verify_run import Load, Outcome, run, tree_cpu_seconds

from tristream.local.broker import Broker, make_embedded_broker, make_kafka
from tristream.verifiers.contract import Unscorable
from tristream.verifiers.pool.pool import Pool
from tristream.verifiers.pool.tasks import Task
from tristream.verifiers.pool.truths import Truths
from tristream.verifiers.registry import BUILT_INS
from tristream.verifiers.service.answers import ANSWERS
from tristream.verifiers.service.conversion import to_contract
from tristream.wire.arrays import LogProbs, Tokens
from tristream.wire.events import (
    FinishReason,
    Group,
    Progress,
    RewardSpec,
    RewardTerm,
    Rollout,
    Split,
    VersionSpan,
    given,
    sampled,
)
from tristream.wire.topics import ROLLOUTS
from tristream.wire.verifiers import versioned_name

SEED = 7
CHARACTERS_PER_TOKEN = 4
NUM_PROMPT_TOKENS = 200
HARMFUL_SHARE = 0.01
TASKS_AT_ONCE = 64
NESTED = r"\boxed{" + r"\frac{1}{" * 40 + "2" + "}" * 41
REPEATED = r"\boxed{" + "1+" * 700 + "1}"
HARM = (LOOP, NESTED, REPEATED, HOG, CRASH)
GOALS = {"function": 1.5, "own": 1.0, "whole": 2.6}
"""Most CPU milliseconds for each rollout."""
MOST_SLOWER, LEAST_KEPT, LEAST_SPEEDUP = 2.0, 0.6, 1.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """CPU milliseconds for each rollout."""

    function: float
    """The verifiers alone, truths parsed once a group."""
    pool: float
    """What the pool adds to them, in both processes."""
    decoding: float
    """From the record to what a verifier sees."""


def to_wire(judging: Judging, number: int, version: str) -> Rollout:
    """A rollout as it is on the log, with tokens."""
    rollout = judging.rollout
    num_tokens = len(rollout.text) // CHARACTERS_PER_TOKEN
    weights = {"accuracy": 0.9, "format": 0.1}
    params_json = json.dumps(judging.params)
    term = RewardTerm(
        id=judging.verifier, verifier=judging.verifier, version=version, weights=weights, params_json=params_json
    )
    return Rollout(
        group=Group(
            run="bench",
            split=Split.TRAIN,
            number=number,
            source=rollout.source,
            sample_id=rollout.sample_id,
            size=GROUP_SIZE,
        ),
        index=rollout.index,
        segments=(
            given(Tokens.of(range(NUM_PROMPT_TOKENS))),
            sampled(
                Tokens.of(range(num_tokens)),
                LogProbs.of([-0.5] * num_tokens),
                (VersionSpan(version=0, start=0, end=num_tokens),) if num_tokens else (),
            ),
        ),
        text=rollout.text,
        finish_reason=FinishReason.STOP,
        prompt_text=rollout.prompt_text,
        reward=RewardSpec(terms=(term,), ground_truth=rollout.ground_truth),
        progress=Progress(step=rollout.step, total_steps=max(1, rollout.total_steps)),
        temperature=1.0,
        queued_seconds=0.0,
        generate_seconds=0.0,
        producer="bench",
        created_ns=time.time_ns(),
    )


def measure_function(judgings: Sequence[Judging]) -> float:
    """CPU milliseconds of the bare verifiers for each rollout."""
    for judging in judgings[: 2 * GROUP_SIZE]:  # so that nothing is imported while it counts
        _judge(judging, _truths())
    truths = _truths()
    before = time.process_time()
    for judging in judgings:
        _judge(judging, truths)
    return 1000 * (time.process_time() - before) / len(judgings)


def _truths() -> dict[str, Truths]:
    return {name: Truths(definition) for name, definition in BUILT_INS.items()}


def _judge(judging: Judging, truths: Mapping[str, Truths]) -> None:
    definition, kept = BUILT_INS[judging.verifier], truths[judging.verifier]
    params_json = json.dumps(judging.params)
    try:
        keywords = kept.keywords(params_json)
        truth = kept.truth(judging.rollout.ground_truth, params_json, keywords)
        definition(replace(judging.rollout, truth=truth), **keywords)
    except Unscorable:
        return


def measure_decoding(rollouts: Sequence[Rollout]) -> float:
    """CPU milliseconds from the value of a record to what a verifier sees."""
    values = [ROLLOUTS.codec.encode(rollout) for rollout in rollouts]
    before = time.process_time()
    for value in values:
        to_contract(ANSWERS.codec.decode(value))
    return 1000 * (time.process_time() - before) / len(values)


def measure_pool(rollouts: Sequence[Rollout]) -> float:
    """CPU milliseconds that a pool adds to the verifiers, in this process and in its children."""
    names = {versioned_name(rollout.reward.terms[0].verifier, rollout.reward.terms[0].version) for rollout in rollouts}
    pool = Pool(dict.fromkeys(sorted(names), ""), num_processes=1)
    pool.start()
    try:
        tasks = [_task(rollout) for rollout in rollouts]
        for judged in pool.submit(tasks[: 2 * GROUP_SIZE]):
            judged.result()
        before = tree_cpu_seconds(os.getpid())
        function_seconds = 0.0
        for start in range(0, len(tasks), TASKS_AT_ONCE):
            verdicts = [judged.result() for judged in pool.submit(tasks[start : start + TASKS_AT_ONCE])]
            function_seconds += sum(verdict.cpu_seconds for verdict in verdicts)
        return 1000 * (tree_cpu_seconds(os.getpid()) - before - function_seconds) / len(tasks)
    finally:
        pool.stop()


def _task(rollout: Rollout) -> Task:
    term = rollout.reward.terms[0]
    seen = to_contract(ANSWERS.codec.decode(ROLLOUTS.codec.encode(rollout)))
    return Task(verifier=versioned_name(term.verifier, term.version), rollouts=(seen,), params_json=term.params_json)


def with_harm(rollouts: Sequence[Rollout]) -> tuple[list[Rollout], frozenset[int]]:
    """The rollouts with a share of them doing harm, each kind as often, and their places."""
    places = random.Random(SEED).sample(range(len(rollouts)), max(len(HARM), int(HARMFUL_SHARE * len(rollouts))))
    changed = list(rollouts)
    for number, place in enumerate(places):
        changed[place] = replace(changed[place], text=HARM[number % len(HARM)])
    return changed, frozenset(places)


def of_version(rollouts: Sequence[Rollout], version: str) -> list[Rollout]:
    """The rollouts as they ask for another version of their verifiers."""
    terms = [replace(rollout.reward.terms[0], version=version) for rollout in rollouts]
    return [
        replace(rollout, reward=replace(rollout.reward, terms=(term,)))
        for rollout, term in zip(rollouts, terms, strict=True)
    ]


def measure_broker(kind: str, broker: Broker, folder: Path, rollouts: Sequence[Rollout]) -> list[Outcome]:
    """All runs on one broker."""
    hostile = of_version(rollouts, "bench")
    harmful, places = with_harm(hostile)
    outcomes: list[Outcome] = []

    def measure(load: Load, asked: Sequence[Rollout], harm: frozenset[int] = frozenset()) -> Outcome:
        outcome = run(load, broker.bootstrap_servers, folder, asked, harm)
        say(f"{load}: {outcome.rollouts_per_second:.0f} rollouts/s, p99 {outcome.p99_ms:.0f} ms")
        outcomes.append(outcome)
        return outcome

    for number in (1, 2):
        full = Load(broker=kind, num_workers=number)
        half_rate = measure(full, rollouts).rollouts_per_second / 2
        measure(replace(full, rate=half_rate), rollouts)
        usual = measure(replace(full, is_hostile=True), hostile)
        measure(replace(full, is_hostile=True, num_harmful=len(places)), harmful, places)
        half = replace(full, is_hostile=True, rate=usual.rollouts_per_second / 2)
        measure(half, hostile)
        measure(replace(half, num_harmful=len(places)), harmful, places)
    return outcomes


def print_costs(costs: Costs, outcomes: Sequence[Outcome]) -> None:
    """The parts of a rollout's CPU time, by run."""
    rows = []
    for outcome in outcomes:
        if outcome.load.is_hostile or outcome.load.rate:
            continue
        kafka = outcome.cpu_ms - costs.function - costs.pool - costs.decoding
        parts = (costs.function, costs.pool, costs.decoding, kafka, kafka + costs.decoding, outcome.cpu_ms)
        rows.append((outcome.load.broker, str(outcome.load.num_workers), *(f"{part:.2f}" for part in parts)))
    title = (
        f"CPU milliseconds a rollout (goals: function {GOALS['function']}, own share {GOALS['own']}, "
        f"whole {GOALS['whole']})"
    )
    columns = ("broker", "workers", "bare function", "pool", "decoding", "Kafka and the rest", "own share", "whole")
    show(make_table(title, columns, rows))


def print_rates(outcomes: Sequence[Outcome]) -> None:
    """Rates and delays, by run."""
    rows = [
        (
            outcome.load.broker,
            str(outcome.load.num_workers),
            f"{outcome.load.rate:.0f}/s" if outcome.load.rate else "all at once",
            f"{outcome.load.num_harmful} of {outcome.num_rollouts}",
            f"{outcome.rollouts_per_second:.0f}",
            f"{outcome.p50_ms:.0f}" if outcome.load.rate else "",
            f"{outcome.p99_ms:.0f}" if outcome.load.rate else "",
            f"{outcome.cpu_ms:.2f}",
            f"{outcome.busy_share:.0%}",
            ", ".join(f"{number} {status}" for status, number in outcome.num_by_status.items()),
        )
        for outcome in outcomes
    ]
    columns = (
        "broker",
        "workers",
        "published",
        "harmful",
        "others/s",
        "p50 ms",
        "p99 ms",
        "CPU ms",
        "cores busy",
        "rewards",
    )
    show(make_table("rates and delays of the rollouts that do no harm", columns, rows))


def print_goals(outcomes: Sequence[Outcome]) -> None:
    """How the others fare beside harmful answers, and what a second worker gives."""
    found = {outcome.load: outcome for outcome in outcomes}
    for outcome in outcomes:
        load = outcome.load
        usual = found.get(replace(load, num_harmful=0))
        if load.num_harmful and usual is not None:
            kept = outcome.rollouts_per_second / usual.rollouts_per_second
            slower = outcome.p99_ms / usual.p99_ms
            goal = (
                f"p99 x {slower:.2f} (at most {MOST_SLOWER})"
                if load.rate
                else f"rate x {kept:.2f} (at least {LEAST_KEPT})"
            )
            print(f"{load.broker}, {load.num_workers} workers, with harmful answers: {goal}")
        one = found.get(replace(load, num_workers=1))
        if load.num_workers > 1 and one is not None and not load.rate and not load.num_harmful:
            speedup = outcome.rollouts_per_second / one.rollouts_per_second
            print(
                f"{load.broker}, {load.num_workers} workers: x {speedup:.2f} of one (at least {LEAST_SPEEDUP} on free "
                f"cores); {1000 / one.cpu_ms:.0f} and {1000 / outcome.cpu_ms:.0f} rollouts a CPU second, with "
                f"{one.busy_share:.0%} and {outcome.busy_share:.0%} of {num_cores()} cores busy"
            )


def parse_arguments() -> argparse.Namespace:
    """What is asked on the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.verify", description="Time the verifiers.")
    parser.add_argument("--small", action="store_true", help="a tenth of the rollouts, to try it")
    parser.add_argument("--parts", action="store_true", help="time the parts alone, without a broker")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write ``bench/results/verify.json``."""
    arguments = parse_arguments()
    judgings = make_rollouts(SEED, NUM_PROMPTS // 10 if arguments.small else NUM_PROMPTS)
    rollouts = [
        to_wire(judging, place // GROUP_SIZE, BUILT_INS[judging.verifier].version)
        for place, judging in enumerate(judgings)
    ]
    costs = Costs(function=measure_function(judgings), pool=measure_pool(rollouts), decoding=measure_decoding(rollouts))
    say(f"function {costs.function:.2f} ms, pool {costs.pool:.2f} ms, decoding {costs.decoding:.2f} ms")
    if arguments.parts:
        return
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        brokers = {"embedded": make_embedded_broker(folder)}
        if "KAFKA_HOME" in os.environ:
            brokers["kafka"] = make_kafka(Path(os.environ["KAFKA_HOME"]), folder)
        for kind, broker in brokers.items():
            broker.start()
            try:
                outcomes += measure_broker(kind, broker, folder, rollouts)
            finally:
                broker.stop()
    print_costs(costs, outcomes)
    print_rates(outcomes)
    print_goals(outcomes)
    results = {"goals_ms": GOALS, "costs_ms": asdict(costs), "outcomes": [asdict(outcome) for outcome in outcomes]}
    print(f"written to {write_results('verify', results)}")


if __name__ == "__main__":
    main()
