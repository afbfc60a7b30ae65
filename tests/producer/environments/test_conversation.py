"""A rollout of several turns is one row of tokens: each turn begins with exactly those of the turns before."""

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chat_templates
from scripted_engine import Saying, ScriptedEngine
from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.environments.contract import Client, EnvironmentMisuseError, RolloutExhaustedError, Sample
from tristream.producer.environments.conversation import Conversation, PrefixLostError
from tristream.producer.environments.single import answer_once
from tristream.wire.arrays import Tokens
from tristream.wire.events import FinishReason, Image, Message, Sampling, SegmentKind

MakeImage = Callable[[int, int, int], bytes]
Environment = Callable[[Conversation], Awaitable[None]]
QUESTION = (Message(role="user", content="6*7?"),)
SAMPLE = Sample(
    sample_id="1",
    source="sums",
    split="train",
    messages=QUESTION,
    ground_truth="42",
    columns={},
    seed=5,
    step=1,
    total_steps=2,
)


def put_image(data: bytes) -> Image:
    return Image(media_type="image/png", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), data=data)


def begin(
    encoder: PromptEncoder,
    *script: Saying,
    messages: tuple[Message, ...] = QUESTION,
    images: tuple[bytes, ...] = (),
    **changes: Any,
) -> tuple[Conversation, ScriptedEngine]:
    engine = ScriptedEngine(encoder=encoder, script=script, forgotten_tokens=changes.pop("forgotten_tokens", 0))
    max_seconds = changes.pop("max_seconds", 60.0)
    sampling = Sampling(**{"temperature": 1.0, "top_p": 1.0, "max_tokens": 100, "seed": 5, **changes})
    conversation = Conversation(
        engine,
        encoder,
        request_id="demo/0/1",
        first=encoder.encode(messages, images),
        messages=messages,
        images=images,
        wire_images=tuple(put_image(image) for image in images),
        sampling=sampling,
        max_seconds=max_seconds,
        put_image=put_image,
    )
    return conversation, engine


@pytest.fixture(scope="module")
def encoder(text_model_path: Path) -> PromptEncoder:
    return PromptEncoder(text_model_path)


def shown(encoder: PromptEncoder, tokens: Tokens) -> str:
    return str(encoder.tokenizer.decode(tokens.to_list(), skip_special_tokens=False))


def shown_segments(encoder: PromptEncoder, conversation: Conversation) -> list[tuple[bool, str]]:
    return [(segment.is_sampled, shown(encoder, segment.tokens)) for segment in conversation.segments]


async def ask_the_tool(client: Client) -> None:
    answer = await client.answer(stop=("</calc>",))
    client.add("tool", f"{answer.text} is 42")
    await client.answer()


def test_an_environment_that_is_not_named_lets_the_policy_answer_once(encoder: PromptEncoder) -> None:
    conversation, engine = begin(encoder, Saying("42"), stop=("END",))
    asyncio.run(answer_once(conversation, SAMPLE))
    (request,) = engine.requests
    assert (request.id, request.sampling.seed, request.sampling.stop) == ("demo/0/1", 5, ("END",))
    assert request.sampling.max_tokens == 100
    assert shown_segments(encoder, conversation) == [
        (False, "<|im_start|>user\n6*7?<|im_end|>\n<|im_start|>assistant\n"),
        (True, "42<|im_end|>"),
    ]
    assert (conversation.text, conversation.messages) == ("42", QUESTION)
    assert conversation.prompt_text == encoder.render(QUESTION)
    assert conversation.finish_reason is FinishReason.STOP


def test_a_rollout_of_two_turns_has_the_tool_between_them(encoder: PromptEncoder) -> None:
    conversation, engine = begin(encoder, Saying("<calc>6*7</calc>", end=""), Saying("It is 42."))
    asyncio.run(ask_the_tool(conversation))
    tool = "<|im_end|>\n<|im_start|>tool\n<calc>6*7</calc> is 42<|im_end|>\n<|im_start|>assistant\n"
    assert shown_segments(encoder, conversation)[1:] == [
        (True, "<calc>6*7</calc>"),
        (False, tool),
        (True, "It is 42.<|im_end|>"),
    ]
    assert conversation.text == "It is 42."
    assert conversation.messages == (
        *QUESTION,
        Message(role="assistant", content="<calc>6*7</calc>"),
        Message(role="tool", content="<calc>6*7</calc> is 42"),
    )
    assert conversation.prompt_text == encoder.render(conversation.messages)
    assert [request.id for request in engine.requests] == ["demo/0/1", "demo/0/1#1"]
    assert engine.requests[0].sampling.stop == ("</calc>",)
    assert engine.requests[1].sampling.stop == ()
    assert engine.requests[0].sampling.seed != engine.requests[1].sampling.seed
    assert conversation.generate_seconds == 0.5
    assert conversation.started_ns == conversation.completions[0].started_ns


def test_text_within_the_policys_turn_is_given_and_its_turn_goes_on(encoder: PromptEncoder) -> None:
    async def environment(client: Client) -> None:
        await client.answer(stop=("=",))
        client.add_text("42")
        await client.answer()

    conversation, engine = begin(encoder, Saying("6*7=", end=""), Saying(", so 42."))
    asyncio.run(environment(conversation))
    assert shown_segments(encoder, conversation)[1:] == [(True, "6*7="), (False, "42"), (True, ", so 42.<|im_end|>")]
    assert conversation.messages == (*QUESTION, Message(role="assistant", content="6*7=42"))
    assert conversation.text == ", so 42."
    assert shown(encoder, engine.requests[1].prompt_tokens).endswith("assistant\n6*7=42")


def test_messages_and_text_in_a_row_are_one_given_segment(encoder: PromptEncoder) -> None:
    async def environment(client: Client) -> None:
        await client.answer()
        client.add("tool", "42")
        client.add("user", "Sure?")
        client.add_text("Yes, ")
        await client.answer()
        client.add("user", "Thanks.")

    conversation, _ = begin(encoder, Saying("hm"), Saying("42"))
    asyncio.run(environment(conversation))
    assert shown_segments(encoder, conversation)[2:] == [
        (
            False,
            "\n<|im_start|>tool\n42<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\nYes, ",
        ),
        (True, "42<|im_end|>"),
        (False, "\n<|im_start|>user\nThanks.<|im_end|>\n<|im_start|>assistant\n"),
    ]
    assert [message.content for message in conversation.messages] == ["6*7?", "hm", "42", "Sure?", "Yes, "]


def test_an_environment_may_speak_before_the_first_answer(encoder: PromptEncoder) -> None:
    async def environment(client: Client) -> None:
        client.add("user", "Be quick.")
        client.add_text("Well: ")
        await client.answer()

    conversation, _ = begin(encoder, Saying("42"))
    asyncio.run(environment(conversation))
    asked = (*QUESTION, Message(role="user", content="Be quick."))
    assert shown(encoder, conversation.segments[0].tokens) == encoder.render(asked) + "Well: "
    assert [segment.kind for segment in conversation.segments] == [SegmentKind.GIVEN, SegmentKind.SAMPLED]
    assert conversation.messages == (*asked, Message(role="assistant", content="Well: "))
    assert conversation.prompt_text == encoder.render(asked) + "Well: "


def test_images_of_later_turns_are_published_and_asked_with_in_order(
    vision_model_path: Path, make_image: MakeImage
) -> None:
    encoder, first, second = PromptEncoder(vision_model_path), make_image(24, 16, 1), make_image(40, 40, 2)

    async def environment(client: Client) -> None:
        await client.answer()
        client.add("user", "And <image>?", images=[second])
        await client.answer()

    asked = (Message(role="user", content="<image>?"),)
    conversation, engine = begin(encoder, Saying("6"), Saying("25"), messages=asked, images=(first,))
    asyncio.run(environment(conversation))
    placeholder = encoder.config.image_token_id
    given_segments = [segment for segment in conversation.segments if not segment.is_sampled]
    assert [segment.images for segment in given_segments] == [(put_image(first),), (put_image(second),)]
    assert [segment.tokens.to_list().count(placeholder) for segment in given_segments] == [6, 25]
    assert [request.images for request in engine.requests] == [(first,), (first, second)]
    assert [request.prompt_tokens.to_list().count(placeholder) for request in engine.requests] == [1, 2]


def test_images_that_do_not_fit_a_message_change_nothing(vision_model_path: Path) -> None:
    encoder = PromptEncoder(vision_model_path)

    async def environment(client: Client) -> None:
        await client.answer()
        with pytest.raises(PolicyInputError, match="1 image placeholders and 0 images"):
            client.add("user", "<image>?")
        with pytest.raises(PolicyInputError, match="is refused"):
            client.add("user", "<image>?", images=[b"none"])
        client.add("user", "never mind")
        await client.answer()

    conversation, _ = begin(encoder, Saying("6"), Saying("25"))
    asyncio.run(environment(conversation))
    assert len(conversation.segments) == 4
    assert not conversation.segments[2].images


def test_tokens_are_those_of_all_turns_together(encoder: PromptEncoder) -> None:
    async def environment(client: Client) -> None:
        assert client.num_tokens_left == 10
        await client.answer(max_tokens=4)
        assert client.num_tokens_left == 6
        client.add("tool", "no token of the policy's")
        await client.answer(max_tokens=40)

    conversation, engine = begin(encoder, Saying("abc"), Saying("def"), max_tokens=10)
    asyncio.run(environment(conversation))
    assert [request.sampling.max_tokens for request in engine.requests] == [4, 6]
    assert conversation.num_tokens_left == 2


@pytest.mark.parametrize("limit", [{"max_tokens": 3}, {"max_seconds": 1e-9}])
def test_who_asks_on_with_nothing_left_is_cut_off(encoder: PromptEncoder, limit: dict[str, Any]) -> None:
    conversation, engine = begin(encoder, Saying("abc", "", FinishReason.LENGTH), **limit)
    with pytest.raises(RolloutExhaustedError, match="no token or no time is left"):
        asyncio.run(ask_the_tool(conversation))
    assert conversation.num_tokens_left == 0
    assert (len(engine.requests), conversation.text) == (1, "abc")
    assert conversation.finish_reason is FinishReason.LENGTH


def test_the_time_of_a_rollout_is_that_of_all_turns(encoder: PromptEncoder) -> None:
    async def environment(client: Client) -> None:
        await client.answer()
        await asyncio.sleep(0.05)
        client.add("tool", "42")
        await client.answer()

    conversation, engine = begin(encoder, Saying("a"), Saying("b"), max_seconds=60.0)
    asyncio.run(environment(conversation))
    first, second = (request.max_seconds for request in engine.requests)
    assert first == 60.0
    assert second is not None
    assert 50 < second <= 59.95


@pytest.mark.parametrize(
    ("saying", "misuse", "message"),
    [
        (Saying("a"), lambda client: client.answer(), "has ended its turn; add a message"),
        (Saying("a"), lambda client: client.add_text("b"), "has ended its turn; add a message"),
        (Saying("a"), lambda client: client.add("assistant", "b"), "own turn is not added"),
        (Saying("a", end=""), lambda client: client.answer(max_tokens=0), "at least one token"),
        (Saying("a", end=""), lambda client: client.answer(stop=("",)), "an empty text stops nothing"),
    ],
)
def test_what_cannot_be_asked_is_said(
    encoder: PromptEncoder, saying: Saying, misuse: Callable[[Client], Any], message: str
) -> None:
    async def environment(client: Client) -> None:
        await client.answer()
        if (answer := misuse(client)) is not None:
            await answer

    conversation, engine = begin(encoder, saying)
    with pytest.raises(EnvironmentMisuseError, match=message):
        asyncio.run(environment(conversation))
    assert len(engine.requests) == 1


def test_one_answer_is_awaited_at_a_time(encoder: PromptEncoder) -> None:
    async def environment(client: Client) -> None:
        await asyncio.gather(client.answer(), client.answer())

    conversation, _ = begin(encoder, Saying("a"), Saying("b"))
    with pytest.raises(EnvironmentMisuseError, match="the policy is answering"):
        asyncio.run(environment(conversation))


def test_a_stop_that_is_a_token_of_the_run_leaves_the_turn_open(encoder: PromptEncoder) -> None:
    async def environment(client: Client) -> None:
        await client.answer()
        client.add_text("42")
        await client.answer()

    special = encoder.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    sayings = Saying("6*7", end="<|vision_end|>"), Saying("!")
    conversation, _ = begin(encoder, *sayings, stop_token_ids=(special,))
    asyncio.run(environment(conversation))
    assert shown_segments(encoder, conversation)[1:3] == [(True, "6*7<|vision_end|>"), (False, "42")]


def test_one_stop_may_be_given_as_a_text(encoder: PromptEncoder) -> None:
    conversation, engine = begin(encoder, Saying("a"))
    asyncio.run(conversation.answer(stop="</calc>"))
    assert engine.requests[0].sampling.stop == ("</calc>",)


def test_an_engine_that_reads_something_else_is_found_out(encoder: PromptEncoder) -> None:
    conversation, _ = begin(encoder, Saying("a"), forgotten_tokens=1)
    with pytest.raises(PrefixLostError, match=r"the engine read \d+ tokens in turn 0, not the 0 of the earlier turns"):
        asyncio.run(answer_once(conversation, SAMPLE))
    assert not conversation.completions


def test_a_rollout_that_lost_its_earlier_turns_is_found_out(encoder: PromptEncoder) -> None:
    conversation, engine = begin(encoder, Saying("a"), Saying("b"))

    async def environment(client: Client) -> None:
        await client.answer()
        engine.forgotten_tokens = 1
        client.add("tool", "42")
        await client.answer()

    with pytest.raises(PrefixLostError, match="in turn 1"):
        asyncio.run(environment(conversation))
    assert len(conversation.completions) == 1


SAYINGS = st.text(alphabet="ab1*=<>/ \n", max_size=8) | st.sampled_from(
    ["<think>\nhm\n</think>\n\n4", "<calc>6*7</calc>", "  4  ", "</think>"]
)
STEPS = st.tuples(SAYINGS.filter(bool), st.booleans(), st.lists(SAYINGS, min_size=1, max_size=2), st.booleans())


@pytest.fixture(scope="module")
def encoders(text_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PromptEncoder]:
    made = {}
    for name, template in chat_templates.ALL.items():
        folder = tmp_path_factory.mktemp("tokenizer")
        shutil.copy(text_model_path / "config.json", folder)
        chat_templates.write_tokenizer(template, folder)
        made[name] = PromptEncoder(folder)
    return made


@given(name=st.sampled_from(sorted(chat_templates.ALL)), steps=st.lists(STEPS, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_turn_begins_with_exactly_the_tokens_of_the_turns_before(
    encoders: dict[str, PromptEncoder], name: str, steps: list[tuple[str, bool, list[str], bool]]
) -> None:
    template, encoder = chat_templates.ALL[name], encoders[name]
    sayings = [Saying(said, template.end if ends else "") for said, ends, _, _ in steps]

    async def environment(client: Client) -> None:
        for said, ends, told, adds_text in steps:
            assert (await client.answer()).text == said
            if adds_text and not ends:
                client.add_text(told[0])
            else:
                for content in told[:1] if name == "alternates" else told:
                    client.add(template.tool_role, content)

    conversation, engine = begin(encoder, *sayings, max_tokens=1000)
    asyncio.run(environment(conversation))
    for earlier, completion, later in zip(engine.requests, conversation.completions, engine.requests[1:], strict=False):
        assert later.prompt_tokens.data.startswith(earlier.prompt_tokens.data + completion.tokens.data)
    all_tokens = b"".join(segment.tokens.data for segment in conversation.segments)
    last, said = engine.requests[-1], conversation.completions[-1]
    assert all_tokens.startswith(last.prompt_tokens.data + said.tokens.data)
    sampled = [segment for segment in conversation.segments if segment.is_sampled]
    assert [segment.tokens for segment in sampled] == [completion.tokens for completion in conversation.completions]
