"""`tristream score`: one line in, one out, in order, whatever the lines are."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tristream.assembler.rewards import final_reward
from tristream.verifiers.offline.lines_of_file import MAX_LINE_BYTES, Line, parse_object, read_lines
from tristream.verifiers.offline.plain_lines import PlainLines
from tristream.verifiers.offline.pools import running_pool
from tristream.verifiers.offline.questions import LineError
from tristream.verifiers.offline.scoring import score_lines
from tristream.verifiers.offline.served import serve

PLUG_INS = Path(__file__).with_name("plug_ins_for_tests.py")


def run(*arguments: str, given: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tristream.cli", "score", *arguments, "--workers", "1"]
    return subprocess.run(command, check=False, capture_output=True, text=True, input=given)


def answers_to(lines: list[Any], *plug_ins: str, exit_code: int = 0) -> list[dict[str, Any]]:
    given = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    options = [word for name in plug_ins for word in ("--plug-in", f"{PLUG_INS}:{name}")]
    done = run("-", *options, given=given)
    assert done.returncode == exit_code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_line_comes_back_with_its_fields_and_its_reward() -> None:
    line = {"text": "no", "ground_truth": "yes", "verifier": "strict", "params": {"is_lenient": True}, "my": [1, "é"]}
    right = {**line, "text": "yes", "verifier": "strict@2", "weights": {"accuracy": 2.0, "style": 5.0}}
    lines = [line, right, {**line, "text": "no opinion"}, {**line, "ground_truth": "unusable"}]
    zero, one, silent, unscorable = answers_to(lines, "strict")
    assert {name: zero[name] for name in line} == line
    assert (zero["status"], zero["final_reward"], zero["components"]) == ("scored", 0.0, {"accuracy": 0.0})
    assert zero["metrics"] == {"length": 2.0}
    assert zero["params_used"] == {"is_lenient": True}
    assert zero["abstained"] == ["style"]
    assert one["final_reward"] == 1.0
    assert silent["final_reward"] is None
    assert set(silent["abstained"]) == {"accuracy", "style"}
    assert (unscorable["status"], unscorable["final_reward"], unscorable["components"]) == ("unscorable", None, {})
    assert "no truth" in unscorable["detail"]


def test_lines_that_ask_nothing_are_answered_in_their_places() -> None:
    good = {"text": "x" * 30, "verifier": "brief"}
    lines: list[Any] = [
        good,
        "{\n",
        "\n",
        "[]\n",
        {"text": "x"},
        {"text": 4, "verifier": "brief"},
        {"text": "x", "verifier": "absent"},
        {"text": "x", "verifier": "other.py:brief"},
        '{"text": "x", "verifier": "brief", "step": NaN}\n',
        "[" * 100_000 + "\n",
        '{"text": "x", "verifier": "brief", "note": 1e999}\n',  # would come back as a word that is no JSON
        {**good, "text": "short"},
    ]
    answers = answers_to(lines, "brief", exit_code=1)
    assert [answer.get("final_reward") for answer in answers] == [0.0, *[None] * 9, 1.0]
    errors = [answer["error"] for answer in answers[1:-1]]
    assert [error.partition(":")[0] for error in errors] == [
        f"line {number}" for number in (2, 4, 5, 6, 7, 8, 9, 10, 11)
    ]
    assert "verifier" in errors[2]
    assert "there is no verifier 'absent'" in errors[4]
    assert "give --plug-in other.py:brief" in errors[5]


def test_images_are_given_in_base64() -> None:
    png = base64.b64encode(b"\x89PNG ...").decode()
    images = [[{"data": png}], [{"data": base64.b64encode(b"GIF8").decode(), "media_type": "image/gif"}], []]
    lines = [{"text": "x", "verifier": "seeing", "images": each} for each in images]
    lines.append({"text": "x", "verifier": "seeing", "images": [{"data": "abcde"}]})
    one, zero, failed, bad = answers_to(lines, "seeing", exit_code=1)
    assert (one["final_reward"], zero["final_reward"], failed["status"]) == (1.0, 0.0, "error")
    assert "images.0.data" in bad["error"]


def test_half_a_surrogate_pair_is_judged_like_any_text() -> None:
    (answer,) = answers_to(['{"text": "\\ud800", "ground_truth": "\\ud800", "verifier": "brief"}\n'], "brief")
    assert (answer["status"], answer["text"]) == ("scored", "\ud800")


def test_neighbours_of_a_group_are_judged_together() -> None:
    groups = [1, 1, 1, 2, 2, None, None, 1]
    lines = [{"text": "x", "verifier": "share", "group": group} for group in groups]
    answers = answers_to(lines, "share")
    assert [answer["final_reward"] for answer in answers] == pytest.approx([1 / 3] * 3 + [0.5] * 2 + [1.0] * 3)


def test_async_verifiers_and_aliases_are_served_too() -> None:
    lines = [
        {"text": "please", "verifier": "polite"},
        {"text": r"\boxed{4}", "ground_truth": r"\boxed{4}", "verifier": "mathverify", "weights": {"accuracy": 1}},
    ]
    assert [answer["final_reward"] for answer in answers_to(lines, "polite")] == [1.0, 1.0]


def test_a_plug_in_is_meant_before_a_built_in_verifier_of_its_name() -> None:
    lines = [{"text": "", "verifier": name, "index": 1} for name in ("math", "math@9")]
    assert [answer["final_reward"] for answer in answers_to(lines, "reversing")] == [1.0, 1.0]


def test_a_plug_in_that_calls_itself_like_another_verifier_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(PLUG_INS.read_text())
    options = [word for file in (PLUG_INS, path) for word in ("--plug-in", f"{file}:brief")]
    done = run("-", *options)
    assert done.returncode == 2
    assert "there is another brief@1" in done.stderr


def test_the_table_counts_by_verifier_and_goes_to_standard_error(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"text": "yes", "ground_truth": truth, "verifier": "strict"} for truth in ("yes", "no", "unusable")]
    source.write_text("\n".join(map(json.dumps, lines)))
    done = run(str(source), "--out", str(target), "--plug-in", f"{PLUG_INS}:strict")
    assert done.returncode == 0
    assert done.stdout == ""
    (row,) = [line.split() for line in done.stderr.splitlines() if "strict@2" in line]
    assert row[:7] == ["strict@2", "3", "0.0000", "2", "1", "0", "0"]
    assert len(target.read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.jsonl"], "absent.jsonl: cannot be read"),
        (["-", "--out", "absent/out.jsonl"], "absent/out.jsonl: cannot be written"),
        (["-", "--plug-in", "absent.py:brief"], "absent.py"),
        (["-", "--plug-in", f"{PLUG_INS}:absent"], "there is no 'absent'"),
        (["-", "--format", "vtriune", "--iou-threshold", "0.51"], "use dynamic, average or one of 0.5"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tristream: ")]
    assert words in line
    assert "Traceback" not in done.stderr


def test_a_file_is_not_written_over_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("{}\n")
    assert run(str(path), "--out", str(path)).returncode == 2
    assert path.read_text() == "{}\n"


def test_only_a_window_of_lines_is_read_ahead() -> None:
    num_read, num_lines, window = 0, 3000, 100

    def lines() -> Iterator[Line]:
        nonlocal num_read
        for num_read in range(1, num_lines + 1):
            data = json.dumps({"text": str(num_read), "verifier": "brief"}).encode()
            yield Line(number=num_read, data=data, size_bytes=len(data))

    served = serve([f"{PLUG_INS}:brief"])
    with running_pool(served, 1) as pool:
        answered = score_lines(lines(), PlainLines(served, final_reward), pool, window=window)
        for number, (line, answer) in enumerate(answered, start=1):
            assert line.number == number
            assert answer.fields["text"] == str(number)
            assert num_read - number <= window + 32
    assert num_read == num_lines


def test_a_line_that_is_too_long_is_refused_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with path.open("wb") as file:
        file.write(b'"' + b"x" * (MAX_LINE_BYTES + 10) + b'"\n{}\n\n{"a": 1}')
    with path.open("rb") as file:
        first, *rest = read_lines(file)
    with pytest.raises(LineError, match="longer than 64 MiB"):
        parse_object(first.data)
    assert [(line.number, line.data.strip()) for line in rest] == [(2, b"{}"), (4, b'{"a": 1}')]
    assert first.size_bytes + sum(line.size_bytes for line in rest) == path.stat().st_size
