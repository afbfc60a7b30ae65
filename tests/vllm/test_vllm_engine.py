"""The engine on vLLM keeps the contract, and what it promises beyond it."""

import asyncio
from pathlib import Path

import torch

from engine_contract import LONG, MAX_RUNNING, EngineContract, MakeImage
from engine_workbench import Workbench, until
from plain_policy import logprobs_of
from tristream.config.engines import VllmEngineSection
from tristream.config.model import ModelSection
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.engines.protocol import Completion, Engine

CACHE_GIB = 0.25
STEP_TOKENS = 320
"""Tokens that are read in a step: so few that prompts are read in parts."""
QUESTION = "How many digits?"


class TestVllmEngine(EngineContract):
    """The contract of all engines."""

    logprob_tolerance = 1e-3
    in_flight_tolerance = None
    hottest = 2.0

    @classmethod
    def make_engine(cls, model_path: Path, encoder: PromptEncoder) -> Engine:
        """The engine in float32, on the CPU where there is no GPU."""
        from tristream.producer.engines.vllm.engine import make_vllm_engine  # where there is vLLM

        section = VllmEngineSection(type="vllm", max_batch_size=MAX_RUNNING, kv_cache_gib=CACHE_GIB, compile=False)
        model, further = ModelSection(path=model_path), {"max_num_batched_tokens": STEP_TOKENS}
        return make_vllm_engine(section, model, encoder, **further)

    def test_images_in_work_are_read_anew_with_newer_weights(self, vision: Workbench, make_image: MakeImage) -> None:
        image = make_image(24, 16, 1)

        async def work() -> list[Completion]:
            # The image of the later ones is in the prefix cache when they begin.
            first = [vision.ask(f"first-{n}", QUESTION, [image], max_tokens=LONG) for n in range(2)]
            later = [vision.ask(f"later-{n}", QUESTION, [image], max_tokens=LONG) for n in range(4)]
            tasks = [asyncio.create_task(vision.engine.generate(request)) for request in first]
            await until(lambda: vision.engine.num_running == len(first))
            tasks += [asyncio.create_task(vision.engine.generate(request)) for request in later]
            await until(lambda: vision.engine.num_running == len(tasks) or any(task.done() for task in tasks))
            await vision.load(vision.other_weights)
            return await asyncio.gather(*tasks)

        completions = vision.run(work())
        crossing = [completion for completion in completions if len(completion.version_spans) == 2]
        assert crossing
        for completion in crossing:
            prompt, tokens = completion.prompt_tokens.to_list(), completion.tokens.to_list()
            cut, measured = completion.version_spans[0].end, torch.tensor(completion.logprobs.to_list())
            for policy, part in ((vision.plain, slice(cut)), (vision.other, slice(cut, None))):
                expected = logprobs_of(policy.logits(prompt, tokens, [image]), tokens, 1.0)
                torch.testing.assert_close(measured[part], expected[part], atol=self.logprob_tolerance, rtol=0)

    def test_prompts_that_are_read_in_parts_get_the_same_answers(self, text: Workbench) -> None:
        questions = [str(number) * 180 for number in range(10)]
        requests = [text.ask(f"{number}/{m}", question) for m in range(4) for number, question in enumerate(questions)]
        alone = [text.complete(request)[0] for request in requests[:10]]
        text.run(text.load(text.weights))  # empties the cache
        for before, after in zip(alone, text.complete(*requests), strict=False):
            assert after.tokens == before.tokens
