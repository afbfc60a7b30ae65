"""`tristream rescore` judges what a run has generated with another verifier, and leaves the run alone."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import KafkaAdminClient
from typer.testing import CliRunner

from brokers import running_broker
from played_runs import honest_run
from recorded_runs import RecordedRun, publish_log
from tristream.assembler.rewards import final_reward
from tristream.cli.main import app
from tristream.runtime.bus.protocol import Record
from tristream.runtime.errors import UserError
from tristream.verifiers.offline.comparison import Comparison
from tristream.verifiers.offline.logged_groups import Choice, GroupReader
from tristream.verifiers.offline.rescoring import Rescored, Wish, rescore
from tristream.verifiers.service.answers import ANSWERS
from tristream.wire.events import Outcome
from tristream.wire.topics import OUTCOMES, REWARDS, ROLLOUTS

VERIFIERS = """
from tristream.verifiers import verifier

@verifier(version="2b", components=["accuracy"])
def math(rollout, *, right: str = "even") -> float:
    return float(right == "all" or (right == "even" and rollout.index % 2 == 0))

@verifier(version="1", components=["quality", "length"])
def other(rollout) -> dict:
    return {"quality": 0.25, "length": 0.75}

@verifier(version="1", components=["accuracy"], scope="group")
def relative(rollouts) -> list:
    return [rollout.index / 10 for rollout in rollouts]

@verifier(version="1", components=["accuracy"])
def failing(rollout) -> float:
    raise RuntimeError("never")
"""


@pytest.fixture
def verifiers(tmp_path: Path) -> Path:
    path = tmp_path / "verifiers.py"
    path.write_text(VERIFIERS)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedRun:
    monkeypatch.setattr("os.nice", lambda _by: 0)
    return honest_run(tmp_path)


def judge(run: RecordedRun, entry_point: str, choice: Choice = Choice(), **wish: Any) -> Rescored:
    asked = Wish(entry_point=entry_point, choice=choice, params=wish.get("params", {}), weights=wish.get("weights", {}))
    return rescore(run.settings, run.folder, asked, final_reward, num_workers=1)


def by_source(rescored: Rescored) -> dict[str, Comparison]:
    return {comparison.source: comparison for comparison in rescored.sources}


def outcomes_of(run: RecordedRun, source: str) -> list[Outcome]:
    found = [entry.event for entry in run.find(OUTCOMES, lambda outcome: outcome.group.source == source)]
    return [outcome for outcome in found if outcome.group.split == "train"]


def expected_mean(run: RecordedRun, source: str, worth: Callable[[int], float]) -> tuple[float, float]:
    old = [(w.index, w.reward) for outcome in outcomes_of(run, source) for w in outcome.rollouts if w.valid]
    return sum(reward for _, reward in old) / len(old), sum(worth(index) for index, _ in old) / len(old)


def test_a_new_version_takes_the_place_of_its_term(run: RecordedRun, verifiers: Path) -> None:
    run.write()
    rescored = judge(run, f"{verifiers}:math")
    assert (rescored.verifier, rescored.num_known, rescored.num_unsettled) == ("math@2b", 0, 0)
    assert rescored.num_groups == 20
    for source in ("words", "sums"):
        found = by_source(rescored)[source]
        # The rows weigh accuracy by 3 and the format, which is always 1, by 1.
        old, new = expected_mean(run, source, lambda index: (3.0 * (index % 2 == 0) + 1.0) / 4)
        assert found.old_mean == pytest.approx(old)
        assert found.new_mean == pytest.approx(new)
        assert found.num_unscored == 0
        assert found.disagreements[0].text == "four"
    assert sum(found.num_rollouts for found in rescored.sources) == sum(
        worth.valid
        for source in ("words", "sums")
        for outcome in outcomes_of(run, source)
        for worth in outcome.rollouts
    )


def test_another_verifier_is_compared_alone(run: RecordedRun, verifiers: Path) -> None:
    run.write()
    assert by_source(judge(run, f"{verifiers}:other"))["words"].new_mean == pytest.approx(0.5)
    weighted = judge(run, f"{verifiers}:other", weights={"quality": 1.0})
    assert by_source(weighted)["words"].new_mean == pytest.approx(0.25)
    assert by_source(weighted)["words"].rank_correlation is None


def test_the_opinion_that_a_run_had_itself_agrees_with_it(run: RecordedRun, verifiers: Path) -> None:
    said = {
        (entry.event.group, entry.event.index): entry.event.components["accuracy"]
        for entry in run.find(REWARDS, lambda reward: reward.term_id == "math" and reward.components)
    }
    for entry in run.find(ROLLOUTS):
        entry.event = replace(entry.event, text=str(said.get((entry.event.group, entry.event.index), 0.0)))
    run.write()
    verifiers.write_text(
        "from tristream.verifiers import verifier\n\n"
        '@verifier(version="3", components=["accuracy"])\n'
        "def math(rollout) -> float:\n    return float(rollout.text)\n"
    )
    for found in judge(run, f"{verifiers}:math").sources:
        assert (found.agreement, found.num_sign_changes, found.disagreements) == (1.0, 0, ())
        assert found.rank_correlation == pytest.approx(1.0)


def test_a_verifier_of_groups_sees_the_whole_group(run: RecordedRun, verifiers: Path) -> None:
    run.write()
    found = by_source(judge(run, f"{verifiers}:relative"))["sums"]
    assert found.new_mean == pytest.approx(expected_mean(run, "sums", lambda index: index / 10)[1])


def test_only_the_steps_and_sources_that_are_asked_for_are_rescored(run: RecordedRun, verifiers: Path) -> None:
    run.write()
    entry_point = f"{verifiers}:math"
    some = judge(run, entry_point, Choice(sources=frozenset(["sums"]), steps=range(2)))
    assert [found.source for found in some.sources] == ["sums"]
    everything = judge(run, entry_point)
    assert everything.num_known == some.num_groups > 0
    assert everything.num_groups + everything.num_known == 20
    again = judge(run, entry_point, Choice(sources=frozenset(["sums"]), steps=range(2)))
    assert (again.num_groups, again.sources) == (0, some.sources)


def test_it_goes_on_where_it_was_ended_and_other_parameters_have_results_of_their_own(
    run: RecordedRun, verifiers: Path
) -> None:
    run.write()
    whole = judge(run, f"{verifiers}:math")
    path = Path(whole.path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:40])
    rest = judge(run, f"{verifiers}:math")
    assert (rest.num_known, rest.num_groups, rest.sources) == (7, 13, whole.sources)
    lenient = judge(run, f"{verifiers}:math", params={"right": "all"})
    assert lenient.path != whole.path
    assert lenient.num_groups == 20
    verifiers.write_text(VERIFIERS.replace("% 2 == 0", "% 2 == 1"))
    assert judge(run, f"{verifiers}:math").num_groups == 20, "other code is another verifier"


def test_what_cannot_be_scored_is_counted_and_not_zero(run: RecordedRun, verifiers: Path) -> None:
    run.write()
    found = by_source(judge(run, f"{verifiers}:failing"))["words"]
    assert (found.num_rollouts, found.new_mean) == (0, 0.0)
    assert found.num_unscored > 0


def test_groups_without_an_outcome_are_left_for_later(run: RecordedRun, verifiers: Path) -> None:
    last = run.find(OUTCOMES, lambda outcome: outcome.group.split == "train")[-1]
    run.logs[0].remove(last)
    run.write()
    rescored = judge(run, f"{verifiers}:math")
    assert (rescored.num_groups, rescored.num_unsettled) == (19, 1)


def test_the_order_of_the_topics_does_not_matter(run: RecordedRun) -> None:
    records = [entry for entry in run.logs[0] if entry.topic in (ROLLOUTS, REWARDS, OUTCOMES) and not entry.is_fence]
    wholes = []
    for seed in range(3):
        random.Random(seed).shuffle(records)
        reader = GroupReader(Choice(), lambda _number: False)
        found = {logged.group.number: logged for logged in reader.read(iter(map(to_answer_record, records)))}
        assert len(found) == 20
        wholes.append(
            {number: (each.answers.keys() >= each.worths.keys(), each.worths) for number, each in found.items()}
        )
    assert wholes[0] == wholes[1] == wholes[2]


def to_answer_record(entry: Any) -> Any:
    event = entry.event
    if entry.topic is ROLLOUTS:
        event = ANSWERS.codec.decode(ROLLOUTS.codec.encode(event))
    return Record(topic=entry.topic.name, partition=0, offset=0, key="", event=event, headers={})


def test_the_command_prints_a_table_or_json(run: RecordedRun, verifiers: Path) -> None:
    folder = run.write()
    command = ["rescore", str(folder.path), "--verifier", f"{verifiers}:math"]
    plain = CliRunner().invoke(app, command)
    assert plain.exit_code == 0, plain.output
    assert "20 groups rescored" in plain.output
    assert "words" in plain.output
    told = CliRunner().invoke(app, [*command, "--json", "--steps", "1..2", "--sources", "sums"])
    fields = json.loads(told.stdout[told.stdout.index("{") :])
    assert (fields["num_known"], [source["source"] for source in fields["sources"]]) == (20, ["sums"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--sources", "absent"], "there is no source 'absent'"),
        (["--steps", "a..b"], "no range of steps"),
        (["--params", "{"], "not JSON"),
    ],
)
def test_bad_options_are_refused(run: RecordedRun, verifiers: Path, options: list[str], words: str) -> None:
    folder = run.write()
    done = CliRunner().invoke(app, ["rescore", str(folder.path), "--verifier", f"{verifiers}:math", *options])
    assert isinstance(done.exception, UserError)
    assert words in str(done.exception)


def test_a_run_without_a_log_is_refused(run: RecordedRun, verifiers: Path) -> None:
    run.logs = []
    run.write()
    with pytest.raises(UserError, match="neither an archive of the log nor a broker"):
        judge(run, f"{verifiers}:math")


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["embedded", "kafka"])
def test_a_run_is_rescored_from_its_brokers_without_joining_a_group(
    kind: str, run: RecordedRun, verifiers: Path, tmp_path: Path
) -> None:
    run.folder.path.mkdir(exist_ok=True)
    (tmp_path / "broker").mkdir()
    with running_broker(kind, tmp_path / "broker") as address:
        bus_section = run.settings.bus.model_copy(update={"bootstrap_servers": address, "num_partitions": 2})
        settings = run.settings.model_copy(update={"bus": bus_section})
        asked = Wish(entry_point=f"{verifiers}:math", choice=Choice(), params={}, weights={})
        assert rescore(settings, run.folder, asked, final_reward, num_workers=1).num_groups == 0
        publish_log(run, bus_section)
        rescored = rescore(settings, run.folder, asked, final_reward, num_workers=1)
        assert rescored.num_groups == 20
        old, new = expected_mean(run, "words", lambda index: (3.0 * (index % 2 == 0) + 1.0) / 4)
        assert by_source(rescored)["words"].old_mean == pytest.approx(old)
        assert by_source(rescored)["words"].new_mean == pytest.approx(new)
        admin = KafkaAdminClient(bootstrap_servers=address)
        assert not admin.list_groups()
        admin.close()
