"""The engine on transformers keeps the contract, and what it promises beyond it."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine_contract import MAX_RUNNING, EngineContract
from engine_workbench import Workbench, make_request, until, workbench
from plain_policy import logprobs_of
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import Completion, EngineFailedError, GenerationRequest, WeightsFile
from tristream.producer.engines.stopping import Stopping
from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy
from tristream.producer.engines.transformers.engine import TransformersEngine


class TestTransformersEngine(EngineContract):
    """The contract of all engines."""

    @classmethod
    def make_engine(cls, model_path: Path, encoder: PromptEncoder) -> TransformersEngine:
        """The engine in float32."""
        return TransformersEngine(encoder, DecodingPolicy(model_path), max_running=MAX_RUNNING)


def bench_of(max_running: int, path: Path, folder: Path) -> Iterator[Workbench]:
    def make(model_path: Path, encoder: PromptEncoder) -> TransformersEngine:
        return TransformersEngine(encoder, DecodingPolicy(model_path), max_running=max_running)

    with workbench(make, path, folder) as bench:
        yield bench


@pytest.fixture
def wide(text_model_path: Path, tmp_path: Path) -> Iterator[Workbench]:
    """An engine whose rows are several chunks for attention."""
    yield from bench_of(80, text_model_path, tmp_path)


@pytest.fixture
def narrow(text_model_path: Path, tmp_path: Path) -> Iterator[Workbench]:
    """An engine in which most requests wait."""
    yield from bench_of(3, text_model_path, tmp_path)


def fail(*_: object) -> torch.Tensor:
    raise RuntimeError("out of memory")


def assert_logprobs(bench: Workbench, request: GenerationRequest, completion: Completion) -> None:
    tokens = completion.tokens.to_list()
    logits = bench.plain.logits(completion.prompt_tokens.to_list(), tokens)
    expected = logprobs_of(logits, tokens, request.sampling.temperature)
    torch.testing.assert_close(torch.tensor(completion.logprobs.to_list()), expected, atol=1e-4, rtol=0)


def test_many_rows_of_all_lengths_come_and_go_and_each_has_its_own_logprobs(wide: Workbench) -> None:
    requests = [
        wide.ask(f"{n}/{m}", f"Question {n}? " * (1 + n % 5), seed=10 * n + m, max_tokens=3 + (17 * n + 29 * m) % 120)
        for n in range(45)
        for m in range(1 + n % 8)
    ]
    for request, completion in zip(requests, wide.complete(*requests), strict=True):
        assert_logprobs(wide, request, completion)


def test_a_prompt_is_read_once_though_its_group_joins_bit_by_bit(narrow: Workbench) -> None:
    before = replace(narrow.engine.counts)
    requests = [narrow.ask(f"{n}/{m}", f"Question {n}?", max_tokens=2 + m) for n in range(2) for m in range(8)]
    narrow.complete(*requests)
    length = len(requests[0].prompt_tokens)
    counts = narrow.engine.counts
    assert counts.prompt_tokens - before.prompt_tokens == 16 * length
    assert counts.cached_prompt_tokens - before.cached_prompt_tokens == 14 * length


def test_a_prompt_is_read_anew_by_those_who_begin_after_an_update(narrow: Workbench) -> None:
    async def work() -> None:
        asking = [asyncio.create_task(narrow.engine.generate(request)) for request in requests]
        await until(lambda: narrow.engine.num_running > 0)
        await narrow.load(narrow.other_weights)
        await asyncio.gather(*asking)

    requests = [narrow.ask(str(member), max_tokens=60) for member in range(6)]
    narrow.run(work())
    length = len(requests[0].prompt_tokens)
    assert narrow.engine.counts.cached_prompt_tokens == 4 * length


def test_weights_that_are_no_numbers_leave_nothing_behind(wide: Workbench, tmp_path: Path) -> None:
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in load_file(wide.weights.path).items()}
    save_file(broken, tmp_path / "broken.safetensors")

    async def work() -> list[Completion]:
        spoiled = [
            asyncio.create_task(wide.engine.generate(wide.ask(f"spoiled-{n}", max_tokens=60 + n))) for n in range(80)
        ]
        await until(lambda: wide.engine.num_running > 0)
        await wide.load(WeightsFile(path=tmp_path / "broken.safetensors"))
        while not spoiled[0].done():
            await asyncio.sleep(0.001)
        await wide.load(wide.weights)
        clean = await asyncio.gather(*map(wide.engine.generate, requests))
        await asyncio.gather(*spoiled)
        return clean

    requests = [wide.ask(f"clean-{n}", max_tokens=30) for n in range(60)]
    for request, completion in zip(requests, wide.run(work()), strict=True):
        assert_logprobs(wide, request, completion)


def test_a_step_that_raises_loses_what_is_in_work_and_the_engine_goes_on(
    narrow: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [narrow.ask(str(n)) for n in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(DecodingPolicy, "decode", fail)

        async def work() -> list[Completion | BaseException]:
            return await asyncio.gather(*map(narrow.engine.generate, requests), return_exceptions=True)

        outcomes = narrow.run(work())
    assert [type(outcome) for outcome in outcomes] == [EngineFailedError] * 5
    assert str(outcomes[0]) == "out of memory"
    assert narrow.engine.num_running == 0
    for request, completion in zip(requests, narrow.complete(*requests), strict=True):
        assert_logprobs(narrow, request, completion)


def test_weights_that_fail_while_they_are_copied_lose_what_is_in_work(
    narrow: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> list[Completion | BaseException]:
        asking = [asyncio.create_task(narrow.engine.generate(narrow.ask(str(n), max_tokens=180))) for n in range(3)]
        await until(lambda: narrow.engine.num_running > 0)
        with monkeypatch.context() as patch:
            patch.setattr(DecodingPolicy, "load_weights", fail)
            with pytest.raises(EngineFailedError, match="out of memory"):
                await narrow.load(narrow.weights)
        return await asyncio.gather(*asking, return_exceptions=True)

    assert EngineFailedError in [type(outcome) for outcome in narrow.run(work())]
    narrow.run(narrow.load(narrow.weights))
    request = narrow.ask("after")
    assert_logprobs(narrow, request, narrow.complete(request)[0])


def test_adapters_are_refused(narrow: Workbench) -> None:
    adapter = replace(narrow.weights, is_adapter=True)
    with pytest.raises(ValueError, match="takes no adapters"):
        narrow.run(narrow.load(adapter))


def test_nothing_is_sampled_before_there_are_weights(text_model_path: Path) -> None:
    encoder = PromptEncoder(text_model_path)
    engine = TransformersEngine(encoder, DecodingPolicy(text_model_path), max_running=3)
    assert engine.version is None
    with pytest.raises(RuntimeError, match="no weights were loaded"):
        asyncio.run(engine.generate(make_request(encoder, "early")))


def test_closing_ends_the_thread_and_what_is_in_work(text_model_path: Path) -> None:
    encoder = PromptEncoder(text_model_path)

    async def work() -> None:
        engine = TransformersEngine(encoder, DecodingPolicy(text_model_path), max_running=3)
        await engine.update_weights(1, WeightsFile(path=text_model_path / "model.safetensors"))
        assert "engine" in {thread.name for thread in threading.enumerate()}
        asking = [asyncio.create_task(engine.generate(request)) for request in requests]
        await until(lambda: engine.num_running > 0)
        await engine.close()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert EngineFailedError in [type(outcome) for outcome in outcomes]
        with pytest.raises(EngineFailedError, match="closed"):
            await engine.generate(requests[0])

    requests = [make_request(encoder, str(n), max_tokens=180) for n in range(5)]
    asyncio.run(work())
    assert "engine" not in {thread.name for thread in threading.enumerate()}


PIECES = ["a", "b", "</", "tool", ">", "\u00e9", "", "ab", "<"]


@settings(deadline=None)
@given(
    tokens=st.lists(st.integers(0, len(PIECES) - 1), max_size=60),
    text=st.sampled_from(["</tool>", "ab", "\u00e9a", ">"]),
)
def test_a_stop_text_is_found_at_the_token_that_completes_it(tokens: list[int], text: str) -> None:
    special = PIECES.index("")
    stopping = Stopping(
        token_ids=frozenset(),
        texts=("never this", text),
        special_ids=frozenset({special}),
        decode=lambda some: "".join(PIECES[token] for token in some),
    )
    found = next((n for n in range(1, len(tokens) + 1) if stopping.ends_with_text(tokens[:n])), None)
    expected = next(
        (n for n in range(1, len(tokens) + 1) if text in "".join(PIECES[token] for token in tokens[:n])), None
    )
    assert found == expected
