"""Chat templates that behave as those of well-known models do, written anew and shorter."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

IM_TOOL = (
    "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}"
    "{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n{% endif %}"
)
IM_BEGIN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """A template with the special tokens that it needs."""

    text: str
    special_tokens: tuple[str, ...] = ()
    eos_token: str = "<|im_end|>"
    end: str = "<|im_end|>"
    """What the policy's turn ends with, of its own accord."""
    tool_role: str = "tool"
    rewrites: bool = False
    """Whether an earlier answer is written anew when the conversation goes on."""


PLAIN = ChatTemplate(
    text="{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    + IM_BEGIN
)
DEFAULT_SYSTEM = ChatTemplate(
    text="{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
    "{% for message in messages %}{% if message.role == 'tool' %}" + IM_TOOL + "{% else %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}" + IM_BEGIN
)
"""As of Qwen2.5: a system prompt of its own, answers of tools within one user's turn."""
FORGETS_THOUGHTS = ChatTemplate(
    text="{% set ns = namespace(query=0) %}{% for message in messages %}"
    "{% if message.role == 'user' %}{% set ns.query = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}{% if message.role == 'tool' %}" + IM_TOOL + "{% elif message.role == 'assistant' %}"
    "{% set said = message.content.split('</think>')[-1].lstrip('\n') %}"
    "{% set thought = message.content.split('</think>')[0].split('<think>')[-1].strip('\n') "
    "if '</think>' in message.content else '' %}"
    "<|im_start|>assistant\n"
    "{% if loop.index0 > ns.query and (loop.last or thought) %}<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    "{{ said }}<|im_end|>\n"
    "{% else %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}" + IM_BEGIN,
    rewrites=True,
)
"""As of Qwen3: thoughts before the user's last question are left out, and white space with them."""
TRIMS = ChatTemplate(
    text="{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{% if message.role == 'ipython' %}{{ message.content | tojson }}{% else %}{{ message.content | trim }}{% endif %}"
    "<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    special_tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    eos_token="<|eot_id|>",
    end="<|eot_id|>",
    tool_role="ipython",
    rewrites=True,
)
"""As of Llama 3: begins with a token of its own, trims, and tools answer in JSON."""
ALTERNATES = ChatTemplate(
    text="{{ bos_token }}{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate between user and assistant') }}{% endif %}"
    "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}",
    special_tokens=("<s>", "</s>"),
    eos_token="</s>",
    end="</s>",
    tool_role="user",
    rewrites=True,
)
"""As of Mistral: two roles that alternate, an answer that begins with a space, nothing that begins it."""
ENDS_WITH_THE_NEXT_ROLE = ChatTemplate(
    text="{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
    special_tokens=("<|user|>", "<|assistant|>", "<|observation|>"),
    eos_token="<|endoftext|>",
    end="<|observation|>",
    tool_role="observation",
)
"""As of GLM-4: the token that ends an answer is the one that begins the next turn."""
LEAVES_OUT_TOOLS = ChatTemplate(
    text="{% for message in messages %}{% if message.role in ('user', 'assistant') %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}" + IM_BEGIN
)

ALL = {
    "plain": PLAIN,
    "default system": DEFAULT_SYSTEM,
    "forgets thoughts": FORGETS_THOUGHTS,
    "trims": TRIMS,
    "alternates": ALTERNATES,
    "ends with the next role": ENDS_WITH_THE_NEXT_ROLE,
}


def write_tokenizer(template: ChatTemplate, folder: Path) -> None:
    """A tokenizer whose tokens are bytes and special tokens, so that any two texts are tokenised alike in a row."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *template.special_tokens)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: at for at, token in enumerate((*special, *alphabet))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=template.eos_token,
        bos_token=template.special_tokens[0] if template.special_tokens else None,
        pad_token="<|endoftext|>",
        chat_template=template.text,
    ).save_pretrained(folder)
