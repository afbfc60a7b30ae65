"""What every engine keeps to: one class of tests, which the tests of each engine inherit.

    class TestMyEngine(EngineContract):
        @classmethod
        def make_engine(cls, model_path, encoder): ...

The models are those of the fixtures ``text_model_path`` and ``vision_model_path``, which a test file may define
anew for an engine that needs others. Each engine is made once for the class, and lives on one event loop.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_workbench import Workbench, until, workbench
from plain_policy import PlainPolicy, logprobs_of
from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import Completion, Engine, GenerationRequest, WeightsFile
from tristream.wire.arrays import Tokens
from tristream.wire.events import FinishReason

IN_FLIGHT_ATTEMPTS = 5
"""How often weights are sent into answers until they come into one: on a busy machine they may come between two."""
MAX_RUNNING = 8
"""Requests that the engine under test generates at once."""
LONG = 180
"""Tokens of an answer that takes a while."""

MakeImage = Callable[[int, int, int], bytes]


class EngineContract(ABC):
    """The tests; a subclass makes the engine."""

    logprob_tolerance: ClassVar[float] = 1e-4
    """Largest difference of a log-probability from that of a full forward."""
    in_flight_tolerance: ClassVar[float | None] = 1e-4
    """The same for tokens of newer weights after older ones; None where the cache that they read is not known."""
    takes_images: ClassVar[bool] = True
    short_seconds: ClassVar[float] = 0.05
    """Time in which an engine samples some tokens, and not all of ``LONG``."""
    hottest: ClassVar[float] = 100.0
    """The highest temperature that it takes."""

    @classmethod
    @abstractmethod
    def make_engine(cls, model_path: Path, encoder: PromptEncoder) -> Engine:
        """An engine that generates ``MAX_RUNNING`` requests at once, in float32; called on its event loop."""

    @pytest.fixture(scope="class")
    @classmethod
    def text_bench(cls, text_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
        """The engine with a language model."""
        with workbench(cls.make_engine, text_model_path, tmp_path_factory.mktemp("text")) as bench:
            yield bench

    @pytest.fixture(scope="class")
    @classmethod
    def vision_bench(cls, vision_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
        """The engine with a vision-language model."""
        if not cls.takes_images:
            pytest.skip("the engine takes no images")
        with workbench(cls.make_engine, vision_model_path, tmp_path_factory.mktemp("vision")) as bench:
            yield bench

    @pytest.fixture
    def text(self, text_bench: Workbench) -> Workbench:
        """The engine with a language model and the weights of its checkpoint, whatever a test did before."""
        text_bench.run(text_bench.load(text_bench.weights))
        return text_bench

    @pytest.fixture
    def vision(self, vision_bench: Workbench) -> Workbench:
        """The engine with a vision-language model and the weights of its checkpoint."""
        vision_bench.run(vision_bench.load(vision_bench.weights))
        return vision_bench

    def assert_logprobs(self, policy: PlainPolicy, request: GenerationRequest, completion: Completion) -> None:
        """Compare with a full forward over prompt and answer; greedy tokens are the most likely ones."""
        tokens, temperature = completion.tokens.to_list(), request.sampling.temperature
        logits = policy.logits(completion.prompt_tokens.to_list(), tokens, request.images)
        expected = logprobs_of(logits, tokens, temperature)
        measured = torch.tensor(completion.logprobs.to_list())
        torch.testing.assert_close(measured, expected, atol=self.logprob_tolerance, rtol=0)
        if temperature == 0:
            best = torch.log_softmax(logits, dim=-1).amax(dim=-1)
            torch.testing.assert_close(expected, best, atol=2 * self.logprob_tolerance, rtol=0)

    def test_logprobs_are_those_of_a_full_forward(self, text: Workbench) -> None:
        requests = [
            text.ask(
                f"{number}/{member}", f"Question {number}? " * number, temperature=temperature, max_tokens=9 + member
            )
            for number, temperature in enumerate((0.0, 0.7, 1.0, 1.3), 1)
            for member in range(4)
        ]
        for request, completion in zip(requests, text.complete(*requests), strict=True):
            assert completion.prompt_tokens == request.prompt_tokens
            assert len(completion.tokens) == len(completion.logprobs)
            self.assert_logprobs(text.plain, request, completion)

    def test_equal_requests_get_equal_answers_whatever_is_beside_them(self, text: Workbench) -> None:
        alone = [text.complete(text.ask(f"alone-{n}", f"What is {n}?", seed=n, max_tokens=20))[0] for n in range(3)]
        crowd = [text.ask(f"{n}/{m}", f"What is {n}?", seed=n, max_tokens=20) for m in range(4) for n in range(5)]
        for request, completion in zip(crowd, text.complete(*crowd), strict=True):
            if request.sampling.seed < len(alone):
                expected = alone[request.sampling.seed]
                assert completion.tokens == expected.tokens
                assert completion.finish_reason is expected.finish_reason
                assert completion.logprobs.to_list() == pytest.approx(
                    expected.logprobs.to_list(), abs=self.logprob_tolerance
                )

    def test_completions_say_what_they_are(self, text: Workbench) -> None:
        before = replace(text.engine.counts)
        requests = [text.ask(str(number), max_tokens=5 + number) for number in range(6)]
        completions = text.complete(*requests)
        version = text.engine.version
        for completion in completions:
            assert [(span.version, span.start, span.end) for span in completion.version_spans] == [
                (version, 0, len(completion.tokens))
            ]
            assert completion.started_ns > 0
            assert completion.generate_seconds > 0
        counts = text.engine.counts
        assert counts.sampled_tokens - before.sampled_tokens == sum(len(each.tokens) for each in completions)
        assert counts.prompt_tokens - before.prompt_tokens == sum(len(each.prompt_tokens) for each in completions)
        assert 0 <= counts.cached_prompt_tokens - before.cached_prompt_tokens <= counts.prompt_tokens

    def test_an_answer_ends_at_its_length_or_with_the_model_s_stop_token(self, text: Workbench) -> None:
        end = text.encoder.tokenizer.eos_token_id
        requests = [text.ask(f"stop-{n}", temperature=min(3.0, self.hottest), max_tokens=1 + 3 * n) for n in range(40)]
        completions = text.complete(*requests)
        assert {completion.finish_reason for completion in completions} == {FinishReason.STOP, FinishReason.LENGTH}
        for request, completion in zip(requests, completions, strict=True):
            tokens = completion.tokens.to_list()
            assert end not in tokens[:-1]
            if completion.finish_reason is FinishReason.STOP:
                assert tokens[-1] == end
            else:
                assert len(tokens) == request.sampling.max_tokens

    def test_a_stop_text_and_a_stop_token_end_an_answer_and_stay_part_of_it(self, text: Workbench) -> None:
        plain = text.ask("plain", seed=1, max_tokens=100)
        tokens = text.complete(plain)[0].tokens.to_list()
        pieces = [text.text_of([token]) for token in tokens]
        place = next(n for n in range(5, 99) if f"{pieces[n]}{pieces[n + 1]}".isascii() and pieces[n] and pieces[n + 1])
        stop = pieces[place] + pieces[place + 1]
        num_text = next(n for n in range(1, 101) if stop in text.text_of(tokens[:n]))
        num_token = tokens.index(tokens[place]) + 1

        def stopping(request_id: str, **changes: Any) -> GenerationRequest:
            return replace(plain, id=request_id, sampling=replace(plain.sampling, **changes))

        by_text, by_token, by_neither = text.complete(
            stopping("text", stop=("no such text", stop)),
            stopping("token", stop_token_ids=(tokens[place],)),
            stopping("neither", stop=("no such text",)),
        )
        assert by_text.tokens.to_list() == tokens[:num_text]
        assert by_token.tokens.to_list() == tokens[:num_token]
        assert by_neither.tokens.to_list() == tokens
        assert by_text.finish_reason is by_token.finish_reason is FinishReason.STOP

    @pytest.mark.parametrize("truncation", [{"top_p": 0.6}, {"top_k": 3}, {"min_p": 0.2}])
    def test_truncation_decides_what_is_sampled_and_not_its_logprob(
        self, truncation: dict[str, Any], text: Workbench
    ) -> None:
        requests = [text.ask(f"cut-{n}", temperature=0.8, max_tokens=30, **truncation) for n in range(6)]
        slack = 2 * self.logprob_tolerance
        for request, completion in zip(requests, text.complete(*requests), strict=True):
            self.assert_logprobs(text.plain, request, completion)
            tokens = completion.tokens.to_list()
            logits = text.plain.logits(completion.prompt_tokens.to_list(), tokens)
            logprobs = torch.log_softmax(logits / 0.8, dim=-1)
            chosen = logprobs[range(len(tokens)), tokens][:, None]
            is_better = logprobs > chosen + slack
            if "top_k" in truncation:
                assert int(is_better.sum(dim=-1).max()) < 3
            elif "top_p" in truncation:
                assert float((logprobs.exp() * is_better).sum(dim=-1).max()) < 0.6 + slack
            else:
                assert float((logprobs.amax(dim=-1) - chosen[:, 0]).max()) <= slack - torch.tensor(0.2).log()

    def test_an_answer_that_takes_too_long_is_cut_off_and_keeps_its_tokens(self, text: Workbench) -> None:
        requests = [
            replace(text.ask(f"slow-{n}", max_tokens=LONG), max_seconds=self.short_seconds) for n in range(MAX_RUNNING)
        ]
        completions = text.complete(*requests)
        cut = [completion for completion in completions if completion.finish_reason is FinishReason.LENGTH]
        assert cut
        for completion in cut:
            assert 0 < len(completion.tokens) < LONG
            assert completion.version_spans[-1].end == len(completion.tokens) == len(completion.logprobs)

    def test_what_the_model_cannot_answer_is_refused_and_its_neighbours_live(self, text: Workbench) -> None:
        good = text.ask("good")
        longest = text.encoder.config.get_text_config().max_position_embeddings
        too_long = replace(good, id="long", prompt_tokens=Tokens.of(good.prompt_tokens.to_list() * longest))
        empty = replace(good, id="empty", prompt_tokens=Tokens())
        unwanted = replace(good, id="image", images=(b"no image",))

        async def work() -> list[Completion | BaseException]:
            requests = (good, too_long, empty, unwanted)
            return await asyncio.gather(*map(text.engine.generate, requests), return_exceptions=True)

        answered, *refused = text.run(work())
        assert [type(error) for error in refused] == [PolicyInputError] * 3
        self.assert_logprobs(text.plain, good, answered)

    def test_many_more_requests_than_slots_are_all_answered(self, text: Workbench) -> None:
        requests = [text.ask(f"many-{n}", f"Q{n % 9}", max_tokens=1 + n % 7) for n in range(200)]
        most_running = 0

        async def work() -> list[Completion]:
            nonlocal most_running
            waiting = asyncio.gather(*map(text.engine.generate, requests))
            while not waiting.done():
                most_running = max(most_running, text.engine.num_running)
                await asyncio.sleep(0.002)
            return await waiting

        completions = text.run(work())
        assert [completion.id for completion in completions] == [request.id for request in requests]
        assert text.engine.max_running == MAX_RUNNING
        assert 0 < most_running <= MAX_RUNNING
        assert text.engine.num_running == 0

    def test_a_cancelled_request_frees_its_slot(self, text: Workbench) -> None:
        async def work() -> Completion:
            tasks = [
                asyncio.create_task(text.engine.generate(text.ask(f"long-{n}", max_tokens=LONG)))
                for n in range(3 * MAX_RUNNING)
            ]
            await until(lambda: text.engine.num_running == MAX_RUNNING)
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) > MAX_RUNNING
            completion = await text.engine.generate(request)
            await until(lambda: text.engine.num_running == 0)
            return completion

        request = text.ask("after")
        self.assert_logprobs(text.plain, request, text.run(work()))

    def update_in_flight(self, bench: Workbench, weights: WeightsFile) -> tuple[list[Completion], int, int]:
        """Answers that weights came into, and the versions before and after."""
        for _attempt in range(IN_FLIGHT_ATTEMPTS):
            crossing, before, after = self._update_once_in_flight(bench, weights)
            if crossing:
                return crossing, before, after
        raise AssertionError("the weights came into no answer")

    def _update_once_in_flight(self, bench: Workbench, weights: WeightsFile) -> tuple[list[Completion], int, int]:
        is_loaded = False

        async def ask_again_and_again(number: int) -> list[Completion]:
            completions: list[Completion] = []
            while not is_loaded:
                request = bench.ask(f"flight-{number}-{len(completions)}", f"Q{number % 3}", max_tokens=LONG)
                completions.append(await bench.engine.generate(request))
            return completions

        async def work() -> tuple[list[Completion], int, int]:
            nonlocal is_loaded
            before = await bench.load(bench.weights)
            waiting = asyncio.gather(*map(ask_again_and_again, range(MAX_RUNNING)))
            await until(lambda: bench.engine.num_running > 0 or waiting.done())
            await asyncio.sleep(self.short_seconds)
            try:
                after = await bench.load(weights)
            finally:
                is_loaded = True
            return [completion for each in await waiting for completion in each], before, after

        completions, before, after = bench.run(work())
        for completion in completions:
            spans = completion.version_spans
            assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
            assert spans[-1].end == len(completion.tokens)
            assert [span.version for span in spans] in ([before], [before, after], [after])
        return [completion for completion in completions if len(completion.version_spans) == 2], before, after

    def test_equal_weights_that_come_in_flight_change_nothing_but_the_version(self, text: Workbench) -> None:
        crossing, _, _ = self.update_in_flight(text, text.weights)
        for completion in crossing:
            self.assert_logprobs(text.plain, text.ask(completion.id), completion)

    def test_tokens_of_each_version_have_its_logprobs(self, text: Workbench) -> None:
        crossing, _, _ = self.update_in_flight(text, text.other_weights)
        for completion in crossing:
            prompt, tokens = completion.prompt_tokens.to_list(), completion.tokens.to_list()
            cut = completion.version_spans[0].end
            measured = torch.tensor(completion.logprobs.to_list())
            expected = logprobs_of(text.plain.logits(prompt, tokens[:cut]), tokens[:cut], 1.0)
            torch.testing.assert_close(measured[:cut], expected, atol=self.logprob_tolerance, rtol=0)
            older = logprobs_of(text.plain.logits(prompt, tokens), tokens, 1.0)[cut:]
            if len(tokens) - cut > 20:
                assert float((measured[cut:] - older).abs().mean()) > 0.1
            if self.in_flight_tolerance is not None:
                logits = text.other.logits_with_older_cache(text.plain, prompt, tokens, cut)
                newer = logprobs_of(logits, tokens[cut:], 1.0)
                torch.testing.assert_close(measured[cut:], newer, atol=self.in_flight_tolerance, rtol=0)

    def test_nothing_computed_with_older_weights_is_reused(self, text: Workbench) -> None:
        request = text.ask("again", "The same question, long enough to be cached. " * 3, temperature=0.0)
        for weights, policy in (
            (text.weights, text.plain),
            (text.other_weights, text.other),
            (text.weights, text.plain),
        ):
            version = text.run(text.load(weights))
            assert text.engine.version == version
            completions = text.complete(*(replace(request, id=str(member)) for member in range(3)))
            for completion in completions:
                self.assert_logprobs(policy, request, completion)

    def test_weights_of_another_model_are_refused_and_the_old_ones_stay(self, text: Workbench, tmp_path: Path) -> None:
        tensors = load_file(text.weights.path)
        tensors["of.another.model"] = tensors.pop(next(name for name in tensors if "mlp" in name))
        save_file(tensors, tmp_path / "another.safetensors")
        version = text.engine.version
        with pytest.raises(ValueError, match=r"of\.another\.model|mlp"):
            text.run(text.load(WeightsFile(path=tmp_path / "another.safetensors")))
        assert text.engine.version == version
        request = text.ask("still")
        self.assert_logprobs(text.plain, request, text.complete(request)[0])

    def test_images_are_expanded_and_seen(self, vision: Workbench, make_image: MakeImage) -> None:
        small, wide, tall = make_image(16, 16, 1), make_image(40, 16, 2), make_image(24, 56, 3)
        requests = [
            vision.ask("one", "How many?", [small], temperature=0.0),
            vision.ask("one-again", "How many?", [small]),
            vision.ask("another", "How many?", [make_image(16, 16, 9)]),
            vision.ask("two", "Compare.", [wide, tall], temperature=0.0),
            vision.ask("none", "Tell me.", temperature=0.0),
        ]
        for request, completion in zip(requests, vision.complete(*requests), strict=True):
            assert completion.prompt_tokens == vision.encoder.expand(request.prompt_tokens, request.images)
            self.assert_logprobs(vision.plain, request, completion)

    def test_a_second_turn_goes_on_from_the_tokens_of_the_first(self, vision: Workbench, make_image: MakeImage) -> None:
        images = make_image(24, 16, 1), make_image(16, 40, 2)
        first, reply = vision.ask("turn-1", "How many?", images[:1]), vision.ask("turn-2", "And here?", images[1:])
        answer = vision.complete(first)[0]
        parts = (first.prompt_tokens, answer.tokens, reply.prompt_tokens)
        second = replace(reply, prompt_tokens=Tokens(b"".join(part.data for part in parts)), images=images)
        completion = vision.complete(second)[0]
        beginning = [*answer.prompt_tokens.to_list(), *answer.tokens.to_list()]
        assert completion.prompt_tokens.to_list()[: len(beginning)] == beginning
        self.assert_logprobs(vision.plain, second, completion)

    def test_placeholders_of_images_are_never_sampled(self, vision: Workbench) -> None:
        requests = [vision.ask(str(n), "?", temperature=self.hottest, max_tokens=60) for n in range(60)]
        config = vision.encoder.config
        excluded = {config.image_token_id, config.video_token_id, config.vision_start_token_id}
        assert not excluded & {token for each in vision.complete(*requests) for token in each.tokens.to_list()}

    def test_images_that_do_not_fit_are_refused(self, vision: Workbench, make_image: MakeImage) -> None:
        good = vision.ask("good", "?", [make_image(64, 64, 1)])
        damaged = replace(good, id="damaged", images=(good.images[0][:200],))
        missing = replace(good, id="missing", images=())
        for request in (damaged, missing):
            with pytest.raises(PolicyInputError, match=r"damaged|refused|placeholders"):
                vision.complete(request)
