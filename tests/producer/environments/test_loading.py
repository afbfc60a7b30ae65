"""What a run file names as an environment is loaded, or refused with what to do."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tristream.producer.environments.contract import RolloutExhaustedError
from tristream.producer.environments.loading import load_environment
from tristream.runtime.errors import UserError

GOOD = """
LOADED = []

async def rollout(client, sample):
    LOADED.append((client, sample))

class Tool:
    async def __call__(self, client, sample, *, patience=3):
        LOADED.append(patience)

tool = Tool()

async def three(client, sample, tools): ...

async def many(client):
    yield 1

def plain(client, sample): ...

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "calculator.py").write_text(GOOD, encoding="utf-8")
    return tmp_path


def call(environment: Any, *arguments: Any) -> None:
    asyncio.run(environment(*arguments))


def test_an_environment_is_loaded_from_a_file_below_the_run_file(folder: Path) -> None:
    call(load_environment(f"{folder}/calculator.py:rollout"), "client", "sample")
    assert sys.modules["environment_file_calculator"].LOADED == [("client", "sample")]
    call(load_environment(f"{folder}/calculator.py:tool"), "client", "sample")
    assert sys.modules["environment_file_calculator"].LOADED == [3]


def test_an_environment_is_loaded_from_a_module() -> None:
    loaded = load_environment("tristream.producer.environments.single:answer_once")
    with pytest.raises(AttributeError, match="answer"):
        call(loaded, "no client", "sample")


def test_an_environment_that_asks_on_with_nothing_left_has_ended(tmp_path: Path) -> None:
    (tmp_path / "asks.py").write_text(
        "async def rollout(client, sample):\n    while True:\n        await client.answer()", encoding="utf-8"
    )

    class Client:
        num_answers = 0

        async def answer(self) -> None:
            self.num_answers += 1
            if self.num_answers == 3:
                raise RolloutExhaustedError("nothing is left")

    client = Client()
    call(load_environment(f"{tmp_path}/asks.py:rollout"), client, "sample")
    assert client.num_answers == 3


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("calculator.py", "no entry point of an environment; write FILE.py:NAME or MODULE:NAME"),
        ("missing.py:rollout", "it cannot be read: No such file or directory; give the path"),
        ("calculator.py:missing", "there is no 'missing'; use one of rollout, three"),
        ("math:missing", "there is no 'missing'; write async def NAME(client, sample) there"),
        ("no_such_module:rollout", "it cannot be imported: ModuleNotFoundError"),
        ("calculator.py:plain", "it is not async; write async def NAME(client, sample)"),
        ("calculator.py:Tool", "it is not async; write async def NAME(client, sample)"),
        ("calculator.py:many", "it yields; await client.answer()"),
        ("calculator.py:number", "it is a int, no function"),
        ("calculator.py:three", "as it takes (client, sample, tools); write async def NAME(client, sample)"),
    ],
)
def test_what_is_no_environment_is_refused_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, entry: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as refused:
        load_environment(entry)
    assert message in f"{refused.value.what}; {refused.value.remedy}"
    assert entry.partition(":")[0] in refused.value.where


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def :", "it is no Python: invalid syntax"),
        ("import no_such_tool", "ModuleNotFoundError: No module named 'no_such_tool', line 1 of broken.py"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_code_that_cannot_be_imported_is_refused_in_words(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(code, encoding="utf-8")
    with pytest.raises(UserError, match=r"broken\.py") as refused:
        load_environment(f"{tmp_path}/broken.py:rollout")
    assert message in refused.value.what
    assert "environment_file_broken" not in sys.modules


def test_loading_needs_neither_torch_nor_transformers() -> None:
    program = (
        "import sys, tristream.producer.environments.loading as loading; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
