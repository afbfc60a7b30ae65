"""What is given after an answer is what the chat template puts there, and nothing before it is touched."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chat_templates
from chat_templates import ChatTemplate, write_tokenizer
from tristream.policy.images import PolicyInputError
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.policy.turns import TurnEncoder, turns_of
from tristream.wire.arrays import Tokens
from tristream.wire.events import IMAGE_MARKER, Message

DIGITS_MODEL = Path(__file__).parents[2] / "examples/digits/model"
MakeEncoder = Callable[[ChatTemplate], PromptEncoder]
ENCODERS: dict[ChatTemplate, PromptEncoder] = {}


@pytest.fixture
def make_encoder(text_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeEncoder:
    def make(template: ChatTemplate) -> PromptEncoder:
        if template not in ENCODERS:
            folder = tmp_path_factory.mktemp("tokenizer")
            shutil.copy(text_model_path / "config.json", folder)
            write_tokenizer(template, folder)
            ENCODERS[template] = PromptEncoder(folder)
        return ENCODERS[template]

    return make


def shown(encoder: PromptEncoder, tokens: Tokens) -> str:
    return str(encoder.tokenizer.decode(tokens.to_list(), skip_special_tokens=False))


def token(encoder: PromptEncoder, text: str) -> int:
    return int(encoder.tokenizer.convert_tokens_to_ids(text))


def tool(content: str, role: str = "tool") -> list[Message]:
    return [Message(role=role, content=content)]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (chat_templates.PLAIN, "<|im_end|>\n<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n"),
        (
            chat_templates.DEFAULT_SYSTEM,
            "<|im_end|>\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            chat_templates.FORGETS_THOUGHTS,
            "<|im_end|>\n<|im_start|>user\n<tool_response>\n42\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            chat_templates.TRIMS,
            (
                '<|eot_id|><|start_header_id|>ipython<|end_header_id|>\n\n"42"'
                "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
            ),
        ),
        (chat_templates.ALTERNATES, "</s>[INST] 42 [/INST]"),
        (chat_templates.ENDS_WITH_THE_NEXT_ROLE, "<|observation|>\n42<|assistant|>\n"),
    ],
)
def test_a_further_turn_is_what_the_template_puts_after_an_answer(
    make_encoder: MakeEncoder, template: ChatTemplate, expected: str
) -> None:
    encoder = make_encoder(template)
    turns = TurnEncoder(encoder)
    messages = tool("42", template.tool_role)
    assert shown(encoder, turns.encode(messages, last_token=token(encoder, "a"))) == expected
    after_its_end = turns.encode(messages, last_token=token(encoder, template.end))
    assert shown(encoder, after_its_end) == expected.removeprefix(template.end)


def test_another_stop_than_the_templates_own_is_followed_by_the_templates_own(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder(chat_templates.PLAIN)
    tokens = turns_of(encoder).encode(tool("42"), last_token=token(encoder, "<|endoftext|>"))
    assert shown(encoder, tokens).startswith("<|im_end|>\n<|im_start|>tool")


def test_answers_of_several_tools_are_put_together_as_the_template_does(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder(chat_templates.DEFAULT_SYSTEM)
    tokens = turns_of(encoder).encode([*tool("1"), *tool("2")], last_token=token(encoder, "<|im_end|>"))
    assert shown(encoder, tokens) == (
        "\n<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_images_of_a_further_turn_have_one_placeholder_each() -> None:
    encoder = PromptEncoder(DIGITS_MODEL)
    messages = [Message(role="user", content=f"And {IMAGE_MARKER}?")]
    tokens = turns_of(encoder).encode(messages, last_token=token(encoder, "<|im_end|>"))
    assert shown(encoder, tokens) == (
        "\n<|im_start|>user\nAnd <|vision_start|><|image_pad|><|vision_end|>?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_role_that_the_template_does_not_show_is_refused_in_words(make_encoder: MakeEncoder) -> None:
    turns = TurnEncoder(make_encoder(chat_templates.LEAVES_OUT_TOOLS))
    with pytest.raises(PolicyInputError, match="does not show messages of the role 'tool'"):
        turns.encode(tool("42"), last_token=None)
    assert turns.encode(tool("42", "user"), last_token=None)
    with pytest.raises(PolicyInputError, match="refuses the messages: roles must alternate"):
        TurnEncoder(make_encoder(chat_templates.ALTERNATES)).encode(tool("42"), last_token=None)


def test_text_that_the_tokenizer_cannot_take_is_refused(make_encoder: MakeEncoder) -> None:
    turns = TurnEncoder(make_encoder(chat_templates.PLAIN))
    with pytest.raises(PolicyInputError, match="the tokenizer refuses the text"):
        turns.encode(tool("\ud800"), last_token=None)


SAYINGS = st.text(alphabet="ab1*=<>/ \n", max_size=8) | st.sampled_from(
    ["<think>\nhm\n</think>\n\n4", "<calc>6*7</calc>", "  4  ", "</think>", "<think>"]
)


@given(
    name=st.sampled_from(sorted(chat_templates.ALL)),
    question=SAYINGS,
    turns=st.lists(st.tuples(SAYINGS, st.booleans(), SAYINGS), min_size=1, max_size=3),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_text_of_all_turns_is_the_plain_rendering_where_history_is_not_rewritten(
    make_encoder: MakeEncoder, name: str, question: str, turns: list[tuple[str, bool, str]]
) -> None:
    template = chat_templates.ALL[name]
    encoder = make_encoder(template)
    asked = [Message(role="user", content=question)]
    ids = encoder.encode(asked, ()).tokens.to_list()
    for said, ends, told in turns:
        ids += encoder.encode_text(said).to_list() + [token(encoder, template.end)] * ends
        further = tool(told, template.tool_role)
        ids += turns_of(encoder).encode(further, last_token=ids[-1]).to_list()
        asked += [Message(role="assistant", content=said), *further]
    text = shown(encoder, Tokens.of(ids))
    assert all(said in text and told.strip() in text.replace("\\n", "\n") for said, _, told in turns)
    if not template.rewrites:
        assert text == encoder.render(asked)
