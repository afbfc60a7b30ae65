"""What an explanation is made of: the headline of the page, pairs, commands, and refusals in one line."""

import json
from collections.abc import Callable, Sequence

import pytest

from tristream.config.parts import MonitorSettings
from tristream.config.run_file import RunFile
from tristream.monitoring.page.answer_cache import AnswerCache
from tristream.monitoring.page.routes import Routes
from tristream.monitoring.queries.select import select
from tristream.monitoring.queries.why.explaining import explain
from tristream.monitoring.queries.why.explanation import Explanation
from tristream.monitoring.store.client import Client
from tristream.runtime.errors import UserError
from why_runs import SCENARIOS, SIDE, STEP, Scenario

Explain = Callable[[str, Sequence[Scenario], int], Explanation]
JUDGED = """
    SELECT sum(judged_reward * num_judged) / sum(num_judged) AS reward FROM source_groups
    WHERE run = {run:String} AND step BETWEEN {first:Int64} AND {last:Int64}
        AND ({source:String} = '' OR source = {source:String})
"""


def judged_reward(client: Client, run: str, first: int, last: int, source: str) -> float:
    return float(select(client, JUDGED, run=run, first=first, last=last, source=source)[0]["reward"])


@pytest.mark.parametrize("source", ["", "find"])
def test_the_change_is_that_of_the_training_reward_on_the_page(
    client: Client, truncated: Explanation, source: str
) -> None:
    found = explain(client, truncated.run, STEP, source, num_steps=SIDE)
    before, after = found.change.steps_before, found.change.steps_after
    assert (before, after) == ((STEP - SIDE, STEP - 1), (STEP, STEP + SIDE - 1))
    assert found.change.before == pytest.approx(judged_reward(client, truncated.run, *before, source))
    assert found.change.after == pytest.approx(judged_reward(client, truncated.run, *after, source))


def test_pairs_are_rollouts_of_one_sample_on_both_sides(client: Client, truncated: Explanation) -> None:
    query = """
        SELECT sample_id, at_step FROM (SELECT run, number, sample_id FROM prompts FINAL) AS p
        INNER JOIN (SELECT run, number, step AS at_step FROM judged_groups) AS j USING (run, number)
        WHERE run = {run:String} AND number = {number:Int64}
    """
    assert truncated.pairs
    for pair in truncated.pairs:
        for side, is_after in (("before", False), ("after", True)):
            row = select(client, query, run=truncated.run, number=pair[side]["number"])[0]
            assert row["sample_id"] == pair["sample_id"]
            assert (row["at_step"] >= STEP) is is_after
            assert pair[side]["text"]
            assert pair[side]["verdicts"]


def test_commands_name_what_there_is(explain_run: Explain) -> None:
    name = "threshold 0.95 -> 0.99"
    found = explain_run("why-threshold-0-95----0-99", SCENARIOS[name], 1)
    rescore = next(command for command in found.commands if command.startswith("tristream rescore"))
    assert "--sources find" in rescore
    assert "--params '{\"threshold\": 0.95}'" in rescore
    assert any(command.startswith("tristream show RUN ") for command in found.commands)


def test_a_step_that_is_not_there_is_refused_in_one_line(client: Client, truncated: Explanation) -> None:
    for step, words in ((1, "nothing before step 1"), (900, "no step 900")):
        with pytest.raises(UserError, match=words):
            explain(client, truncated.run, step)
    with pytest.raises(UserError, match="nothing of source other"):
        explain(client, truncated.run, STEP, "other")


def test_few_answers_are_read_of_many_and_it_says_so(client: Client, truncated: Explanation) -> None:
    from tristream.monitoring.queries.why.reading import read_surroundings

    whole = read_surroundings(client, truncated.run, STEP, num_steps=SIDE)
    some = read_surroundings(client, truncated.run, STEP, num_steps=SIDE, max_answers=len(whole.answers) // 3)
    assert whole.share_read == 1
    assert 0.15 < some.share_read < 0.5
    assert len(some.groups) == len(whole.groups)


def test_the_page_answers_with_the_same_as_strict_json(
    client: Client, truncated: Explanation, settings: RunFile
) -> None:
    run_file = settings.model_copy(update={"run": settings.run.model_copy(update={"id": truncated.run})})
    routes = Routes(MonitorSettings.of(run_file), AnswerCache(client))
    told = json.loads(routes.respond(f"/api/why?step={STEP}").body)
    assert told["step"] == STEP
    assert told["causes"][0]["kind"] == "truncation"
    assert {"change", "verdict", "pairs", "commands", "held_out", "notes"} <= told.keys()
