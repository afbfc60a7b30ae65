"""Which verifier versions judge which prompts, and what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.dispatcher.data.samples import SampleTerm
from tristream.dispatcher.verifier_plan import VerifierPlan
from tristream.wire.events import Command, CommandKind, RewardTerm, TermMode
from tristream.wire.verifiers import BUILT_IN_VERSIONS

ADD, PROMOTE, DEMOTE, RETIRE = CommandKind.ADD, CommandKind.PROMOTE, CommandKind.DEMOTE, CommandKind.RETIRE
MATH = BUILT_IN_VERSIONS["math"]
ROWS = {
    "sums": [frozenset({"math"})],
    "counts": [frozenset({"counting"})],
    "both": [frozenset({"math"}), frozenset({"math", "counting"})],
}


def row_term(verifier: str, **weights: float) -> SampleTerm:
    return SampleTerm(verifier=verifier, weights=weights or {"accuracy": 1.0}, params_json='{"row": 1}')


def command(kind: CommandKind, name: str, **changes: Any) -> Command:
    verifier, _, version = name.partition("@")
    if kind is ADD:
        changes = {"entry_point": "/x/brief.py:brief", "components": ("accuracy",), "code_sha256": "aa", **changes}
    if kind is PROMOTE:
        changes = {"weights": {"accuracy": 0.5}, **changes}
    return Command(
        run="demo", id=f"{kind}-{name}", kind=kind, verifier=verifier, version=version, created_ns=1, **changes
    )


def make_plan(*commands: Command, plug_ins: Mapping[str, str] | None = None) -> VerifierPlan:
    plan = VerifierPlan(ROWS, plug_ins or {})
    for each in commands:
        assert plan.find_refusal(each) == ""
        plan.observe(each)
    return plan


def terms(plan: VerifierPlan, number: int, source: str = "sums", rows: Sequence[SampleTerm] = ()) -> list[RewardTerm]:
    return list(plan.terms_for(number, source, plan.pin(rows or [row_term("math")])))


def names(found: Sequence[RewardTerm]) -> list[str]:
    return [f"{term.id}={term.verifier}@{term.version}" for term in found]


def test_a_shadow_of_the_run_file_is_asked_beside_the_rows_and_counts_only_while_it_is_promoted() -> None:
    plan = VerifierPlan(ROWS, {"brief@1": "/x/brief.py:brief"}, ["brief@1"])
    for each in (command(PROMOTE, "brief@1", from_number=10), command(DEMOTE, "brief@1", from_number=20)):
        assert plan.find_refusal(each) == ""
        plan.observe(each)
    asked = {number: terms(plan, number)[1:] for number in (0, 10, 20)}
    assert [(term.id, term.version, term.mode, term.counts) for (term,) in asked.values()] == [
        ("brief", "1", TermMode.SHADOW, False),
        ("brief", "1", TermMode.ACTIVE, True),
        ("brief", "1", TermMode.SHADOW, False),
    ]


def test_until_something_is_commanded_the_terms_are_those_of_the_rows() -> None:
    plan = make_plan(command(ADD, "brief@1"))
    (term,) = terms(plan, 10**6)
    assert term == RewardTerm(
        id="math", verifier="math", version=MATH, weights={"accuracy": 1.0}, params_json='{"row": 1}'
    )
    assert plan.needed("both") == {f"math@{MATH}", f"counting@{BUILT_IN_VERSIONS['counting']}"}


def test_a_promoted_verifier_counts_from_its_number_on_and_in_evaluation_from_its_version_on() -> None:
    plan = make_plan(
        command(ADD, "brief@1", params_json='{"max_chars": 9}'),
        command(PROMOTE, "brief@1", from_number=8, from_version=3, sources=("sums",)),
    )
    assert names(terms(plan, 7)) == [f"math=math@{MATH}"]
    *_, added = terms(plan, 8)
    assert added == RewardTerm(
        id="brief",
        verifier="brief",
        version="1",
        weights={"accuracy": 0.5},
        params_json='{"max_chars": 9}',
        mode=TermMode.ACTIVE,
    )
    assert len(terms(plan, 8)) == 2
    assert len(terms(plan, 8, "both")) == 1
    pinned = plan.pin([row_term("math")])
    assert [len(plan.evaluation_terms(version, "sums", pinned)) for version in (0, 2, 3, 9)] == [1, 1, 2, 2]
    assert plan.needed("sums") == {f"math@{MATH}", "brief@1"}


def test_another_version_takes_the_place_of_all_terms_of_its_verifier() -> None:
    rows = [row_term("math"), row_term("counting"), row_term("math", accuracy=0.5)]
    plan = make_plan(command(ADD, "math@77", params_json='{"new": true}'), command(PROMOTE, "math@77", from_number=4))
    assert names(terms(plan, 3, rows=rows)) == [f"math=math@{MATH}", "counting=counting@1", f"math-2=math@{MATH}"]
    changed = terms(plan, 4, rows=rows)
    assert names(changed) == ["math=math@77", "counting=counting@1"]
    assert (changed[0].weights, changed[0].params_json) == ({"accuracy": 0.5}, '{"new": true}')


def test_a_built_in_verifier_that_is_promoted_keeps_the_parameters_of_the_rows() -> None:
    plan = make_plan(command(PROMOTE, f"math@{MATH}", from_number=4, weights={"accuracy": 2.0}))
    (term,) = terms(plan, 4)
    assert (term.version, term.weights, term.params_json) == (MATH, {"accuracy": 2.0}, '{"row": 1}')
    added = make_plan(command(PROMOTE, "length@1", from_number=4))
    assert names(terms(added, 4)) == [f"math=math@{MATH}", "length=length@1"]


def test_an_upgrade_leaves_the_old_version_and_a_retirement_takes_the_new_one() -> None:
    plan = make_plan(
        command(ADD, "brief@1"),
        command(PROMOTE, "brief@1", from_number=2),
        command(ADD, "brief@2", code_sha256="bb"),
        command(PROMOTE, "brief@2", from_number=4, weights={"accuracy": 0.25}),
        command(RETIRE, "brief@1", from_number=5),
        command(RETIRE, "brief@2", from_number=6),
    )
    found = [[t.version for t in terms(plan, number) if t.verifier == "brief"] for number in range(8)]
    assert found == [[], [], ["1"], ["1"], ["2"], ["2"], [], []]
    assert plan.needed("sums") == {f"math@{MATH}"}


def test_a_demoted_verifier_may_be_promoted_again() -> None:
    plan = make_plan(
        command(ADD, "brief@1"),
        command(PROMOTE, "brief@1", from_number=2, sources=("sums", "counts")),
        command(DEMOTE, "brief@1", from_number=4, sources=("sums",)),
        command(PROMOTE, "brief@1", from_number=6),
    )
    assert [len(terms(plan, number)) for number in (1, 2, 4, 6)] == [1, 2, 1, 2]
    assert [len(terms(plan, number, "counts")) for number in (1, 2, 4, 6)] == [1, 2, 2, 2]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (command(PROMOTE, "brief@1"), "it has no brief@1; add it first, or use one of choice@1, counting@1"),
        (command(PROMOTE, f"math@{MATH}9"), f"it has no math@{MATH}9; add it first, or use one of math@{MATH}"),
        (command(PROMOTE, f"math@{MATH}", sources=("nowhere",)), "it has no source 'nowhere'; its sources are sums"),
        (command(PROMOTE, f"math@{MATH}", weights={"accuracy": 0.0}), "would count for nothing"),
        (command(PROMOTE, f"math@{MATH}", weights={}), "would count for nothing"),
        (command(DEMOTE, "length@1"), "length@1 does not count in any source"),
        (command(DEMOTE, f"math@{MATH}"), "source sums would have nothing left that counts"),
        (command(RETIRE, f"math@{MATH}"), "source sums would have nothing left that counts"),
        (command(RETIRE, f"math@{MATH}", sources=("sums",)), "is retired in all sources or in none"),
        (command(ADD, f"math@{MATH}"), "is in the run already, and other code"),
        (command(ADD, "brief@1", entry_point=""), "no entry point says where it is"),
        (command(ADD, "brief@1", sources=("sums", "nowhere")), "it has no source 'nowhere'"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(request_: Command, reason: str) -> None:
    assert reason in make_plan().find_refusal(request_)


def test_weights_are_those_of_components_that_were_declared() -> None:
    plan = make_plan(command(ADD, "brief@1", components=("accuracy", "style")))
    refusal = plan.find_refusal(command(PROMOTE, "brief@1", weights={"tone": 1.0, "style": 1.0}))
    assert refusal == "brief@1 has no component 'tone'; its components are accuracy, style"


def test_a_version_is_one_code_for_ever() -> None:
    plan = make_plan(command(ADD, "brief@1"))
    assert plan.find_refusal(command(ADD, "brief@1")) == ""
    assert "its code was another" in plan.find_refusal(command(ADD, "brief@1", code_sha256="bb"))
    assert "added already, with other" in plan.find_refusal(command(ADD, "brief@1", params_json='{"a": 1}'))
    plan.observe(command(RETIRE, "brief@1", from_number=1))
    assert "is retired; add it again" in plan.find_refusal(command(PROMOTE, "brief@1"))
    assert "its code was another" in plan.find_refusal(command(ADD, "brief@1", code_sha256="bb"))
    assert plan.find_refusal(command(ADD, "brief@1", params_json='{"a": 1}')) == ""


def test_a_source_keeps_something_that_counts_in_each_of_its_rows() -> None:
    plan = make_plan(command(ADD, "brief@1"), command(PROMOTE, "brief@1", from_number=1, sources=("sums",)))
    assert plan.find_refusal(command(DEMOTE, f"math@{MATH}", sources=("sums",))) == ""
    refusal = plan.find_refusal(command(DEMOTE, f"math@{MATH}", sources=("both",)))
    assert refusal == "source both would have nothing left that counts; promote another verifier there first"
    assert plan.find_refusal(command(DEMOTE, "counting@1", sources=("both",))) == ""


def test_plug_ins_of_the_run_file_are_pinned_and_known() -> None:
    plug_ins = {"brief@1": "/x/brief.py:brief", "brief@2": "/x/brief.py:brief2", "math@9": "ours:math"}
    plan = make_plan(plug_ins=plug_ins)
    found = plan.pin([row_term("brief"), row_term("math"), row_term("counting")])
    assert names(found) == ["brief=brief@2", "math=math@9", "counting=counting@1"]
    assert plan.find_refusal(command(PROMOTE, "brief@1")) == ""
    assert "other code" in plan.find_refusal(command(ADD, "brief@1", entry_point="/y/brief.py:brief"))
    assert plan.find_refusal(command(ADD, "brief@1", entry_point="/x/brief.py:brief")) == ""


def test_no_two_terms_have_one_id() -> None:
    plan = make_plan(command(ADD, "math-2@1"), command(PROMOTE, "math-2@1", from_number=0))
    found = terms(plan, 0, rows=[row_term("math"), row_term("math", accuracy=0.5)])
    assert len({term.id for term in found}) == len(found) == 3


VERSIONS = ("brief@1", "brief@2", "tone@1", f"math@{MATH}", "counting@1", "length@1")
SOURCES = st.lists(st.sampled_from(sorted(ROWS)), max_size=2, unique=True).map(tuple)
REQUESTS = st.builds(
    lambda kind, name, sources, weight: command(
        kind,
        name,
        sources=() if kind is RETIRE else sources,
        **({"weights": {"accuracy": weight}} if kind is PROMOTE else {}),
        **({"entry_point": "", "code_sha256": ""} if kind is ADD and name not in VERSIONS[:3] else {}),
    ),
    st.sampled_from([ADD, PROMOTE, DEMOTE, RETIRE]),
    st.sampled_from(VERSIONS),
    SOURCES,
    st.sampled_from([0.0, 0.5, -1.0]),
)


@given(requests=st.lists(st.tuples(REQUESTS, st.integers(0, 3)), max_size=12))
def test_whatever_is_asked_every_prompt_has_a_term_that_counts_and_one_version_a_verifier(
    requests: list[tuple[Command, int]],
) -> None:
    plan, number = make_plan(), 0
    told: list[Command] = []
    for request, pause in requests:
        number += pause
        if not plan.find_refusal(request):
            told.append(replace(request, from_number=number, from_version=number // 2))
            plan.observe(told[-1])
    again = VerifierPlan(ROWS)
    for answer in told:
        again.observe(answer)
    for source, rows in ROWS.items():
        for verifiers in rows:
            row = plan.pin([row_term(name) for name in sorted(verifiers)])
            for place in range(number + 2):
                found = plan.terms_for(place, source, row)
                assert any(term.counts for term in found)
                assert len({term.verifier for term in found}) == len({term.id for term in found}) == len(found)
                assert found == again.terms_for(place, source, row)
                assert plan.evaluation_terms(place, source, row) == again.evaluation_terms(place, source, row)
            counting = {f"{t.verifier}@{t.version}" for t in plan.terms_for(number + 9, source, row) if t.counts}
            assert counting <= plan.needed(source)
