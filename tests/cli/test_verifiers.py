"""``tristream verifiers``: what is asked becomes an event, and its answer words, JSON and an exit code."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tristream.cli.run_conversation import RunConversation, commands_that_hold, load_run
from tristream.cli.verifier_comparison import compare_values, read_comparison, value_of
from tristream.cli.verifier_requests import (
    add_request,
    change_request,
    describe_answer,
    parse_name,
    parse_parameters,
    parse_sources,
    parse_weights,
)
from tristream.cli.verifier_states import VerifierState, find_standings
from tristream.cli.verifier_table import comparison_to_json, standing_to_json
from tristream.local.broker import Broker, start_broker
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.verifiers.offline.describing import Description
from tristream.wire.events import (
    Command,
    CommandKind,
    Fate,
    Group,
    Outcome,
    Part,
    PartState,
    PartStatus,
    Reward,
    RolloutOutcome,
    Split,
    Status,
    VerifierLoad,
)
from tristream.wire.topics import COMMANDS, OUTCOMES, REWARDS
from tristream.wire.verifiers import BUILT_IN_VERSIONS

ADD, PROMOTE, DEMOTE, RETIRE = CommandKind.ADD, CommandKind.PROMOTE, CommandKind.DEMOTE, CommandKind.RETIRE
BRIEF = """
from tristream.verifiers import verifier


@verifier(version="1", components=["accuracy"])
def brief(rollout, *, max_chars: int = 400) -> float:
    return float(len(rollout.text) <= max_chars)
"""
RUN_FILE = """
[run]
id = "x"
steps = 1
output = "OUTPUT"
[model]
path = "."
[[sources]]
name = "sums"
train = "t"
[[sources]]
name = "counts"
train = "t"
"""


def command(kind: CommandKind, name: str, number: int = 0, **changes: Any) -> Command:
    verifier, _, version = name.partition("@")
    values: dict[str, Any] = {"components": ("accuracy", "style"), "entry_point": "/x/b.py:b"} if kind is ADD else {}
    values |= {"weights": {"accuracy": 0.5}} if kind is PROMOTE else {}
    return Command(
        run="x", id=f"{kind}-{name}/from/{number}", kind=kind, verifier=verifier, version=version,
        from_number=number, created_ns=1, **{**values, **changes},
    )  # fmt: skip


def status(
    part: Part, name: str, *, state: PartState = PartState.READY, created_ns: int = 10**11, **changes: Any
) -> PartStatus:
    return PartStatus(
        run="x", part=part, instance=name, state=state, since_ns=1, started_ns=1, created_ns=created_ns, **changes
    )


# Words to values ---------------------------------------------------------------------------------


def test_sources_weights_and_parameters_are_read_from_words() -> None:
    assert parse_sources("") == ()
    assert parse_sources("sums, counts") == ("sums", "counts")
    assert parse_weights(["0.5", "style=-1"]) == {"": 0.5, "style": -1.0}
    assert parse_parameters('{"b": 1, "a": null}') == '{"a": null, "b": 1}'


@pytest.mark.parametrize(
    ("read", "words", "reason"),
    [
        (parse_sources, "a,,b", "has an empty name"),
        (parse_weights, ["much"], "is no weight"),
        (parse_weights, ["a=inf"], "is no weight"),
        (parse_weights, ["a=1", "a=2"], "is given twice"),
        (parse_parameters, "[1]", "not a JSON object"),
        (parse_parameters, "{", "not JSON"),
    ],
)
def test_words_that_mean_nothing_are_refused_with_a_remedy(read: Callable[..., Any], words: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read(words)


def test_a_name_without_a_version_is_the_one_that_was_added_last_or_the_built_in_one() -> None:
    commands = [command(ADD, "brief@1"), command(ADD, "brief@2"), command(RETIRE, "brief@2")]
    assert parse_name("brief", commands) == ("brief", "2")
    assert parse_name("brief@1", commands) == ("brief", "1")
    assert parse_name("mathverify", commands) == ("math", BUILT_IN_VERSIONS["math"])
    for word in ("tone", "@1", "brief@", ""):
        with pytest.raises(UserError, match="no version of"):
            parse_name(word, commands)


def test_a_weight_without_a_component_is_one_for_each() -> None:
    commands = [command(ADD, "brief@1")]
    given = parse_weights(["0.5", "style=-1"])
    request = change_request("x", PROMOTE, ("brief", "1"), commands, weights=given, sources=("sums",))
    assert (request.weights, request.sources) == ({"accuracy": 0.5, "style": -1.0}, ("sums",))
    built_in = change_request("x", PROMOTE, ("ocr", BUILT_IN_VERSIONS["ocr"]), [], weights={"": 1.0})
    assert built_in.weights == {"accuracy": 1.0, "format": 1.0}
    with pytest.raises(UserError, match="the components of tone@1 are not known"):
        change_request("x", PROMOTE, ("tone", "1"), [], weights={"": 1.0})


def test_an_added_file_is_named_by_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "brief.py"
    path.write_text(BRIEF)
    description = Description(
        name="brief", version="1", entry_point=f"{path}:brief", components={"accuracy": (0.0, 1.0)}
    )
    request = add_request("x", description, sources=("sums",), params="{}", is_from_earliest=True)
    assert request.code_sha256 == hashlib.sha256(BRIEF.encode()).hexdigest()
    assert (request.entry_point, request.components, request.from_earliest) == (f"{path}:brief", ("accuracy",), True)
    math = Description(name="math", version=BUILT_IN_VERSIONS["math"], entry_point="mathverify")
    assert add_request("x", math, sources=(), params="{}", is_from_earliest=False).entry_point == ""


# What there is -----------------------------------------------------------------------------------


def test_the_state_of_each_version_follows_from_the_commands() -> None:
    names = ["sums", "counts"]
    commands = [command(ADD, "brief@1", 1, sources=("sums",)), command(PROMOTE, "brief@1", 4)]
    (first,) = find_standings(commands, [], names)
    assert (first.state, {name: role.from_number for name, role in first.roles.items()}) == (
        VerifierState.ACTIVE,
        {"sums": 4, "counts": 4},
    )
    commands += [command(ADD, "brief@2", 5), command(PROMOTE, "brief@2", 8)]
    old, new = find_standings(commands, [], names)
    assert (old.state, list(old.roles), new.state) == (VerifierState.SHADOW, ["sums"], VerifierState.ACTIVE)
    commands += [command(DEMOTE, "brief@2", 9, sources=("sums",))]
    assert {k: str(role.mode) for k, role in find_standings(commands, [], names)[1].roles.items()} == {
        "sums": "shadow",
        "counts": "active",
    }
    commands += [command(RETIRE, "brief@1", 10)]
    worker = status(Part.VERIFIER, "w", verifiers=(VerifierLoad(verifier="brief", version="1", num_scored=7),))
    (retiring, _) = find_standings(commands, [worker], names)
    assert (retiring.state, retiring.num_workers, retiring.num_scored) == (VerifierState.RETIRING, 1, 7)
    (retired, _) = find_standings(commands, [replace(worker, state=PartState.DONE)], names)
    assert (retired.state, retired.num_workers) == (VerifierState.RETIRED, 0)
    assert standing_to_json(retired)["retired_from"] == 10


def test_what_rows_ask_for_is_told_by_the_dispatcher_and_silent_workers_do_not_count() -> None:
    load = (VerifierLoad(verifier="math", version="2", num_scored=3),)
    told = [
        status(Part.DISPATCHER, "d", measures={"needs/sums/math@2": 1.0, "needs/counts/math@2": 0.0}),
        status(Part.VERIFIER, "w", verifiers=load),
        status(Part.VERIFIER, "silent", verifiers=load, created_ns=10**10),
    ]
    (standing,) = find_standings([], told, ["sums", "counts"])
    assert (standing.state, list(standing.roles)) == (VerifierState.ACTIVE, ["sums"])
    assert standing.roles["sums"].weights is None
    assert (standing.num_workers, standing.num_scored) == (1, 6)


# Comparing ---------------------------------------------------------------------------------------


def group_of(number: int, source: str = "sums") -> Group:
    return Group(run="x", split=Split.TRAIN, number=number, source=source, sample_id="s", size=3)


def reward_of(number: int, index: int, name: str, **components: float) -> Reward:
    verifier, _, version = name.partition("@")
    return Reward(
        group=group_of(number), index=index, term_id=verifier, verifier=verifier, version=version,
        status=Status.SCORED if components else Status.ERROR, components=components,
        queued_seconds=0.0, score_seconds=0.0, created_ns=1,
    )  # fmt: skip


def test_a_verifier_is_compared_with_another_and_with_the_final_reward() -> None:
    bus = MemoryBus("x")
    commands = [command(PROMOTE, "brief@2", weights={"accuracy": 1.0, "style": -1.0})]
    for index, (old, new) in enumerate([(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]):
        bus.publish(REWARDS, reward_of(0, index, "brief@1", accuracy=old))
        bus.publish(REWARDS, reward_of(0, index, "brief@2", accuracy=new, style=0.0))
    bus.publish(REWARDS, reward_of(1, 0, "brief@1", accuracy=1.0))
    bus.publish(REWARDS, reward_of(1, 0, "brief@2"))
    worth = tuple(RolloutOutcome(index=index, valid=index != 2, reward=1.0) for index in range(3))
    bus.publish(OUTCOMES, Outcome(group=group_of(0), fate=Fate.TRAINED, rollouts=worth, created_ns=1))
    (row,) = read_comparison(bus, commands, "brief@2", "brief@1")
    assert (row.source, row.num_rollouts, row.num_unscored) == ("sums", 3, 1)
    assert (row.old_mean, row.new_mean, row.num_sign_changes) == (0.5, 0.25, 2)
    assert row.rank_correlation == pytest.approx(-1.0)
    (final,) = read_comparison(bus, commands, "brief@2", "")
    assert (final.num_rollouts, final.old_mean) == (2, 1.0)
    told = comparison_to_json("x", "brief@2", "", [final])
    assert (told["with"], told["sources"]["sums"]["num_rollouts"]) == ("final reward", 2)
    assert compare_values({}, {}) == []


def test_components_weigh_as_they_were_promoted_and_abstained_ones_not_at_all() -> None:
    assert value_of(reward_of(0, 0, "b@1", accuracy=1.0, style=0.0), {"accuracy": 3.0, "style": -1.0}) == 0.75
    assert value_of(reward_of(0, 0, "b@1", accuracy=1.0), {"accuracy": 3.0, "style": -1.0}) == 1.0
    assert value_of(reward_of(0, 0, "b@1", accuracy=1.0, style=0.0), {}) == 0.5
    assert value_of(reward_of(0, 0, "b@1"), {}) is None


# The conversation --------------------------------------------------------------------------------


def answer_next(bus: MemoryBus, **changes: Any) -> threading.Thread:
    """Answer the next request, as a dispatcher does."""
    as_dispatcher, reader = bus.as_part("dispatcher"), bus.reader([COMMANDS])
    as_dispatcher.take_over([COMMANDS], 1)
    list(reader.read_to_end())

    def answer() -> None:
        while not (records := reader.poll(5.0)):
            pass
        request = records[0].event
        as_dispatcher.publish(COMMANDS, replace(request, id=f"{request.id}/from/7", from_number=7, **changes))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    return thread


def test_a_request_gets_its_own_answer_and_nobody_elses() -> None:
    bus = MemoryBus("x")
    conversation = RunConversation(bus, bus.reader([COMMANDS]), [])
    bus.publish(COMMANDS, replace(command(ADD, "other@1"), id="other"))
    thread = answer_next(bus, refusal="it has no brief@1; add it first")
    request = change_request("x", RETIRE, ("brief", "1"), [])
    answer = conversation.ask(request, answer_seconds=5.0)
    thread.join()
    assert answer is not None
    told = describe_answer(request, answer)
    assert (told["state"], told["from_number"], told["refusal"]) == ("refused", None, "it has no brief@1; add it first")
    assert conversation.ask(change_request("x", RETIRE, ("brief", "1"), []), answer_seconds=0.3) is None
    assert describe_answer(request, None)["state"] == "unanswered"
    assert commands_that_hold(list(bus.reader([COMMANDS]).read_to_end())) == []


def test_a_run_is_meant_by_its_folder_or_its_run_file(tmp_path: Path) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text(RUN_FILE.replace("OUTPUT", str(tmp_path)))
    with pytest.raises(UserError, match="the run x is on no broker yet; start it with `tristream up`"):
        load_run(run_file)
    settings = load_run(run_file, ["bus.bootstrap_servers=kafka:9092"])
    settings.run.folder.path.mkdir()
    settings.run.folder.run_file.write_text(settings.model_dump_json())
    assert load_run(run_file).bus.bootstrap_servers == "kafka:9092"
    assert load_run(settings.run.folder.path).run.id == "x"


# The command -------------------------------------------------------------------------------------


def run_cli(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tristream.cli", "verifiers", *words], check=False, capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


@pytest.mark.parametrize("name", ["list", "add", "promote", "demote", "retire", "compare"])
def test_every_command_explains_itself(name: str) -> None:
    result = run_cli(name, "--help")
    assert result.returncode == 0
    assert "--run" in result.stdout
    assert "--json" in result.stdout


def test_what_is_wrong_is_one_line_with_place_and_remedy(tmp_path: Path) -> None:
    result = run_cli("promote", "brief", "--weight", "much", "--run", str(tmp_path))
    assert (result.returncode, result.stderr) == (
        2,
        "tristream: --weight: 'much' is no weight; write 0.5, or accuracy=0.5\n",
    )
    absent = run_cli("list", "--run", str(tmp_path / "absent.toml"))
    assert absent.returncode == 2
    assert "absent.toml: no such file" in absent.stderr


@pytest.fixture
def broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    monkeypatch.delenv("KAFKA_HOME", raising=False)
    started = start_broker(tmp_path)
    yield started
    started.stop()


@pytest.mark.integration
@pytest.mark.slow
def test_on_a_broker_a_request_is_answered_refused_or_waited_for(tmp_path: Path, broker: Broker) -> None:
    run_file, code = tmp_path / "run.toml", tmp_path / "brief.py"
    run_file.write_text(
        RUN_FILE.replace("OUTPUT", str(tmp_path)) + f'[bus]\nbootstrap_servers = "{broker.bootstrap_servers}"\n'
    )
    code.write_text(BRIEF)
    settings = load_run(run_file)
    bus = KafkaBus("x", settings.bus, "dispatcher")
    bus.create_topics()
    bus.take_over([COMMANDS], 1)
    stop = threading.Event()

    def dispatch() -> None:
        reader = bus.reader([COMMANDS])
        while not stop.is_set():
            for record in reader.poll(0.1):
                request: Command = record.event
                if "/from/" in request.id or request.kind is RETIRE:
                    continue
                refusal = (
                    "it has no source 'nowhere'; its sources are sums, counts" if "nowhere" in request.sources else ""
                )
                bus.publish(COMMANDS, replace(request, id=f"{request.id}/from/9", from_number=9, refusal=refusal))
        reader.close()

    thread = threading.Thread(target=dispatch, daemon=True)
    thread.start()
    where = ("--run", str(run_file))
    try:
        added = run_cli("add", f"{code}:brief", "--sources", "sums", *where)
        assert (added.returncode, added.stderr) == (0, "")
        assert added.stdout.startswith("run x: brief@1 scores sums as a shadow")
        promoted = run_cli("promote", "brief", "--weight", "0.5", *where)
        assert promoted.returncode == 0, promoted.stderr
        assert "brief@1 counts in all sources; in force from prompt 9 on" in promoted.stdout
        refused = run_cli("promote", "brief", "--weight", "0.5", "--sources", "nowhere", "--json", *where)
        assert (refused.returncode, json.loads(refused.stdout)["state"]) == (2, "refused")
        assert refused.stderr == "tristream: run x: it has no source 'nowhere'; its sources are sums, counts\n"
        listed = run_cli("list", *where)
        assert listed.returncode == 0, listed.stderr
        assert "brief@1" in listed.stdout
        (row,) = json.loads(run_cli("list", "--json", *where).stdout)["verifiers"]
        assert (row["state"], row["sources"]["sums"]["weights"]) == ("active", {"accuracy": 0.5})
        compared = run_cli("compare", "brief", "--json", *where)
        assert json.loads(compared.stdout) == {"run": "x", "verifier": "brief@1", "with": "final reward", "sources": {}}
        waited = run_cli("retire", "brief", *where)
        assert waited.returncode == 75
        assert "the dispatcher of run x has not answered within 10 s" in waited.stderr
    finally:
        stop.set()
        thread.join()
        bus.close()
