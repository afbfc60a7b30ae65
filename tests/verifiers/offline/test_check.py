"""`tristream verifiers check` finds what breaks the contract, and says what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tristream.cli.main import app
from tristream.runtime.errors import UserError
from tristream.verifiers.offline.checking import check_verifier

PLUG_INS = Path(__file__).with_name("plug_ins_for_tests.py")


def problems_of(name: str) -> dict[str, str]:
    report = check_verifier(f"{PLUG_INS}:{name}", None, {})
    assert report.holds == (not any(finding.problem for finding in report.findings))
    assert all(finding.remedy for finding in report.findings if finding.problem)
    return {finding.name: finding.problem for finding in report.findings if finding.problem}


def test_a_good_verifier_passes_and_says_what_it_costs() -> None:
    report = check_verifier(f"{PLUG_INS}:brief", None, {"max_chars": 3})
    assert report.holds
    assert report.description.versioned_name == "brief@1"
    names = ["likely answers", "same again", "same elsewhere", "odd texts", "odd parameters", "nothing touched"]
    assert [finding.name for finding in report.findings] == names
    assert all(finding.num_tried > 10 for finding in report.findings)
    assert report.cost is not None
    assert 0 < report.cost.p50_ms <= report.cost.p99_ms
    assert report.cost.p50_ms < report.cost.group_ms


@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("remembering", "same again", "and then"),
        ("dicing", "same again", "and then"),
        ("dating", "same elsewhere", "and then"),
        ("measuring", "likely answers", "error"),
        ("careless", "odd parameters", "error on params"),
        ("reading", "nothing touched", "/etc/hostname"),
        ("calling", "nothing touched", "socket.connect"),
        ("endless", "odd texts", "timeout on text"),
    ],
)
def test_what_breaks_the_contract_is_named(name: str, check: str, words: str) -> None:
    assert words in problems_of(name)[check]


@pytest.mark.parametrize("name", ["strict", "share", "polite", "seeing"])
def test_other_kinds_of_verifiers_pass(name: str) -> None:
    assert problems_of(name) == {}


@pytest.mark.parametrize("name", ["math", "detection"])
def test_built_in_verifiers_pass(name: str) -> None:
    report = check_verifier(name, None, {})
    assert report.holds, report.findings


def test_rows_are_tried_with_their_own_parameters(
    make_row: Callable[..., dict[str, Any]], write_rows: Callable[[str, list[dict[str, Any]]], Path]
) -> None:
    row = {"verifier": "strict", "ground_truth": "unusable", "verifier_parm": {"is_lenient": True, "other": None}}
    path = write_rows("rows", [make_row(number, **row) for number in range(3)])
    (finding, *_) = check_verifier(f"{PLUG_INS}:strict", path, {}).findings
    assert "unscorable on text" in finding.problem
    assert finding.num_tried == 24
    path = write_rows("rows", [make_row(number, **row | {"ground_truth": "4"}) for number in range(3)])
    assert check_verifier(f"{PLUG_INS}:strict", path, {}).holds


def test_data_that_are_no_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("no parquet")
    with pytest.raises(UserError, match="cannot be read"):
        check_verifier(f"{PLUG_INS}:brief", path, {})
    with pytest.raises(UserError, match="cannot be read"):
        check_verifier(f"{PLUG_INS}:brief", tmp_path / "absent.parquet", {})


def test_the_command_prints_a_table_or_json_and_ends_with_0_or_1() -> None:
    good = CliRunner().invoke(app, ["verifiers", "check", f"{PLUG_INS}:brief"])
    assert good.exit_code == 0, good.output
    assert "NOT ok" not in good.output
    assert "one reward takes" in good.output
    bad = CliRunner().invoke(app, ["verifiers", "check", f"{PLUG_INS}:measuring", "--json"])
    assert bad.exit_code == 1
    told = json.loads(bad.stdout[bad.stdout.index("{") :])
    assert (told["ok"], told["description"]["name"]) == (False, "measuring")
    refused = CliRunner().invoke(app, ["verifiers", "check", f"{PLUG_INS}:brief", "--params", "[1]"])
    assert isinstance(refused.exception, UserError)
