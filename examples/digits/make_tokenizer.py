"""Build the tokenizer of the digits model: a small byte-level BPE over the prompts and the answers.

Every digit is a token of its own. Answer boilerplate, such as ``[{"bbox_2d": [``, is split off before the
merges and so becomes one token: a box costs about 19 tokens.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from compose import COMPOSERS, Pool, compose_task
from styles import STYLES, format_styled
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCABULARY_SIZE = 512
"""Upper bound; the few prompts need fewer merges."""

BOILERPLATE = (
    r"\\boxed\{",
    r"\[\{\"bbox_2d\": \[",
    r"\], \"label\": \"",
    r"\"\}, \{\"bbox_2d\": \[",
    r"\"\}\]",
    r"\n<answer>\n",
    r"\n</answer>",
)
SPLIT_PATTERN = "|".join((*BOILERPLATE, r"\d", r", ", r" ?\p{L}+", r"[^\s\p{L}\d]", r"\s+"))

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def iterate_texts(pool: Pool, seed: int, num_tasks: int) -> Iterator[str]:
    """Yield questions and answers in all styles."""
    rng = np.random.default_rng([seed, 100])
    for _ in range(num_tasks):
        for source in COMPOSERS:
            task = compose_task(rng, pool, source)
            yield "user\n"
            yield "assistant\n"
            yield task.question
            for style in STYLES[source]:
                yield format_styled(style, task.answer)


def train_tokenizer(texts: Iterator[str]) -> Tokenizer:
    """Train the byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, model_dir: Path) -> None:
    """Write the files that ``AutoTokenizer.from_pretrained`` reads."""
    model_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(model_dir / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "padding_side": "left",
        "chat_template": CHAT_TEMPLATE,
    }
    (model_dir / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
