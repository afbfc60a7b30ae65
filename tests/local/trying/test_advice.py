r"""What would keep a run from learning is said in words: never boxed, all right, cut off, unscorable, always 0 ..."""

from collections.abc import Sequence

from tried_groups import (
    MAX_TOKENS,
    make_failed_group,
    make_group,
    make_prompt,
    make_rollout,
    make_verdict,
)
from tristream.local.trying.advice import Advice, Topic, find_advice
from tristream.local.trying.figures import compute_figures
from tristream.local.trying.judged_groups import JudgedAnswer, JudgedGroup
from tristream.wire.events import FinishReason, RewardTerm


def advise(groups: Sequence[JudgedGroup], *, num_processes: int = 1) -> list[Advice]:
    return find_advice(compute_figures("sums", groups), num_processes=num_processes)


def only(groups: Sequence[JudgedGroup]) -> Advice:
    found = advise(groups)
    assert len(found) == 1, [each.what for each in found]
    return found[0]


def test_nothing_is_said_of_a_source_that_learns_or_was_not_tried() -> None:
    mixed = [make_group([0.0, 1.0, 1.0, 0.0], number=number) for number in range(4)]
    assert advise([*mixed, make_group([0.0] * 4, number=4), make_group([1.0] * 4, number=5)]) == []
    assert advise([]) == []


def test_answers_that_are_never_boxed_are_told_from_wrong_ones() -> None:
    groups = [make_group([0.0] * 8, number=number, texts=[f"1 + 4 = {n}" for n in range(8)]) for number in range(16)]
    advice = only(groups)
    assert (advice.topic, advice.blocks) == (Topic.ALL_WRONG, True)
    assert advice.what == (
        r"all 16 groups are all wrong, 0 of 128 answers have \boxed{...}, where the verifier looks for the answer; "
        "the policy never sees a reward"
    )
    assert advice.remedy.startswith(r"ask for \boxed{...} in the prompt")
    assert 'params = { answer_in = "text" }' in advice.remedy


def test_answers_that_are_boxed_where_tags_are_wanted_say_so() -> None:
    boxed = [rf"\boxed{{{number}}}" for number in range(8)]
    advice = only([make_group([0.0] * 8, texts=boxed, params_json='{"answer_in": "tags"}')])
    assert "the only group is all wrong, 0 of 8 answers have <answer>...</answer>" in advice.what
    assert r"8 answers have \boxed{...}: take them by" in advice.remedy


def test_wrong_answers_in_the_right_place_name_the_component_that_is_0() -> None:
    boxed = [rf"\boxed{{{number}}}" for number in range(4)]
    advice = only([make_group([0.0] * 4, number=number, texts=boxed) for number in range(2)])
    assert advice.what == "all 2 groups are all wrong, accuracy is 0 in 8 answers; the policy never sees a reward"
    assert "correct the truths" in advice.remedy


def test_many_wrong_groups_beside_mixed_ones_cost_time_and_block_nothing() -> None:
    boxed = [rf"\boxed{{{number}}}" for number in range(4)]
    wrong = [make_group([0.0] * 4, number=number, texts=boxed) for number in range(3)]
    advice = only([*wrong, make_group([0.0, 1.0, 0.0, 0.0], number=9, texts=boxed)])
    assert advice.what.startswith("3 of 4 groups are all wrong; they are dropped and replaced")
    assert not advice.blocks


def test_a_source_that_is_all_right_has_nothing_to_learn() -> None:
    advice = only([make_group([1.0] * 4, number=number) for number in range(3)])
    assert (advice.topic, advice.blocks) == (Topic.ALL_RIGHT, True)
    assert advice.what == "all 3 groups are all right; there is nothing to learn"


def test_a_reward_that_is_the_same_whatever_is_said_is_named() -> None:
    advice = only([make_group([0.1] * 4, number=number) for number in range(3)])
    assert (advice.topic, advice.blocks) == (Topic.ALL_EQUAL, True)
    assert advice.what == "each of 12 answers earns 0.10, whatever it says; accuracy is always 0.1; nothing is trained"


def test_groups_that_are_equal_within_but_not_among_each_other_are_named() -> None:
    advice = only([make_group([0.1 * number] * 4, number=number) for number in range(1, 4)])
    assert advice.what == "in 3 of 3 groups all answers earn the same; nothing is trained"


def test_more_than_a_fifth_of_cut_off_answers_is_too_many() -> None:
    def group(number: int, reason: FinishReason, num_tokens: int = MAX_TOKENS) -> JudgedGroup:
        return make_group([0.0, 1.0], number=number, finish_reason=reason, num_tokens=num_tokens)

    whole = [group(number, FinishReason.STOP) for number in range(4)]
    assert advise([*whole, group(4, FinishReason.LENGTH)]) == []
    advice = only([*whole[:3], group(4, FinishReason.LENGTH)])
    assert advice.what == "25% of the answers are cut off by rollout.max_tokens, perhaps before the point"
    slow = only([group(0, FinishReason.LENGTH, num_tokens=3)])
    assert slow.remedy.startswith("raise rollout.max_seconds")


def test_wrong_answers_that_are_cut_off_are_first_to_be_let_out() -> None:
    boxed = [r"\boxed{1}"] * 2 + [r"\boxed{2}"] * 2
    found = advise([make_group([0.0] * 4, texts=boxed, finish_reason=FinishReason.LENGTH, num_tokens=MAX_TOKENS)])
    assert [each.topic for each in found] == [Topic.ALL_WRONG, Topic.CUT_OFF]
    assert found[0].remedy == "see first to the answers that are cut off"


def test_verdicts_that_are_no_scores_have_their_reason() -> None:
    advice = only([make_group([None] * 4)])
    assert (advice.topic, advice.blocks) == (Topic.UNSCORED, True)
    assert advice.what == "of 4 verdicts 4 unscorable: the truth is none"
    some = advise([make_group([None, 0.0, 1.0])])
    assert [(each.topic, each.blocks) for each in some] == [(Topic.UNSCORED, False)]


def test_answers_that_fail_have_their_reason() -> None:
    advice = only([make_failed_group(error="the prompt is longer than the model's 256")])
    assert (advice.topic, advice.blocks) == (Topic.FAILED, True)
    assert advice.what == "all 4 answers could not be generated: the prompt is longer than the model's 256"
    assert [each.blocks for each in advise([make_failed_group(), make_group([0.0, 1.0])])] == [False]


def test_a_component_that_is_always_0_beside_another_is_named() -> None:
    term = RewardTerm(id="math", verifier="math", version="2", weights={"accuracy": 0.9, "format": 0.1})
    prompt = make_prompt(size=4, terms=(term,))
    answers = tuple(
        JudgedAnswer(
            rollout=make_rollout(prompt, index, text=rf"\boxed{{{index}}}"),
            verdicts=(make_verdict({"accuracy": float(index % 2), "format": 0.0}, term=term),),
            reward=0.9 * (index % 2),
        )
        for index in range(4)
    )
    advice = only([JudgedGroup(prompt=prompt, answers=answers)])
    assert advice.topic is Topic.SILENT_COMPONENT
    assert advice.what == "format is 0 in all 4 answers, while accuracy is 0.50 on average"


def test_empty_answers_and_equal_ones_are_named() -> None:
    blank = make_group([0.0, 1.0, 0.0, 1.0], texts=["", " ", "a", "b"])
    assert [each.topic for each in advise([blank])] == [Topic.BLANK]
    same = make_group([0.0, 1.0, 0.0], texts=["a", "a", "a"])
    assert [each.topic for each in advise([same])] == [Topic.SAME_TEXT]


def test_scoring_that_takes_longer_than_generating_is_named() -> None:
    prompt = make_prompt(size=2)
    answers = tuple(
        JudgedAnswer(
            rollout=make_rollout(prompt, index, text=str(index)),
            verdicts=(make_verdict({"accuracy": float(index)}, seconds=3.0),),
            reward=float(index),
        )
        for index in range(2)
    )
    group = JudgedGroup(prompt=prompt, answers=answers, started_seconds=0.0, answered_seconds=4.0)
    assert [each.topic for each in advise([group])] == [Topic.SLOW_SCORING]
    assert advise([group], num_processes=2) == []
