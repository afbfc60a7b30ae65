"""The calculator example's environment: calls are answered, other answers end the rollout."""

import asyncio
from pathlib import Path

import pytest

from scripted_engine import Saying, ScriptedEngine
from tristream.config.load import load_run_file
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.environments.contract import Sample
from tristream.producer.environments.conversation import Conversation
from tristream.producer.environments.loading import load_environment
from tristream.wire.events import FinishReason, Image, Message, Sampling

RUN_FILE = Path(__file__).parents[3] / "examples/calculator/run.toml"
QUESTION = (Message(role="user", content="37*54=?"),)


def no_image(_data: bytes) -> Image:
    raise AssertionError("there are no images")


def play(*script: Saying, max_tokens: int = 48) -> Conversation:
    """A rollout of the example's environment with its own tokenizer."""
    settings = load_run_file(RUN_FILE, environment={})
    encoder = PromptEncoder(settings.model.path)
    conversation = Conversation(
        ScriptedEngine(encoder=encoder, script=script),
        encoder,
        request_id="calculator/0/0",
        first=encoder.encode(QUESTION, ()),
        messages=QUESTION,
        images=(),
        wire_images=(),
        sampling=Sampling(temperature=1.0, top_p=1.0, max_tokens=max_tokens, seed=1),
        max_seconds=60.0,
        put_image=no_image,
    )
    sample = Sample(
        sample_id="1",
        source="products",
        split="train",
        messages=QUESTION,
        ground_truth="1998",
        columns={},
        seed=1,
        step=1,
        total_steps=2,
    )
    environment = load_environment(settings.sources[0].environment)

    async def lead() -> None:
        await environment(conversation, sample)

    asyncio.run(lead())
    return conversation


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("37*54", "1998"),
        ("37 + 54", "91"),
        ("37-54", "-17"),
        ("37*", "error"),
        ("9999999*1", "error"),
        ("2**9", "error"),
    ],
)
def test_a_call_is_answered_by_the_tool_and_the_last_answer_is_judged(expression: str, result: str) -> None:
    rollout = play(Saying(f"<calc>{expression}</calc>", end=""), Saying("It is 1998."))
    assert [message.role for message in rollout.messages] == ["user", "assistant", "tool"]
    assert rollout.messages[-1].content == result
    assert rollout.text == "It is 1998."
    tool = rollout.segments[2]
    assert (tool.is_sampled, len(tool.logprobs), len(tool.version_spans)) == (False, 0, 0)


def test_a_guess_ends_the_rollout() -> None:
    rollout = play(Saying("It is 1850."))
    assert (rollout.messages, rollout.text, len(rollout.segments)) == (QUESTION, "It is 1850.", 2)


def test_calls_end_after_the_second() -> None:
    call = Saying("<calc>1*2</calc>", end="")
    rollout = play(call, call, call)
    assert [segment.is_sampled for segment in rollout.segments] == [False, True] * 3
    assert rollout.text == "<calc>1*2</calc>"


def test_a_call_with_the_last_token_is_cut_off() -> None:
    rollout = play(Saying("<calc>37*54</calc>", end=""), max_tokens=7)
    assert (len(rollout.completions), rollout.finish_reason) == (1, FinishReason.LENGTH)
