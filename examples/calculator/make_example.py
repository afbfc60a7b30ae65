"""Make the calculator example: its questions, its tokenizer, and a small model that seldom calls the tool.

The model is trained on dialogues that are mostly guesses: ``It is 1850.`` without a call. Some call the calculator,
some of these call it wrongly or do not say what it told. So it knows how, and RL has to find out that it pays.

Example: ``python examples/calculator/make_example.py``
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
WORDINGS = ("{a}*{b}=?", "What is {a}*{b}?", "Multiply {a} by {b}.")
SMALLEST, LARGEST = 12, 99
HELD_OUT_EVERY = 8
"""Of so many products one is held out, whatever the wording."""

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ROLES = ("user", "assistant", "tool")
SPLIT_PATTERN = r"</?calc>|\d| ?\p{L}+|[^\s\p{L}\d]|\s+"
VOCABULARY_SIZE = 512
"""Upper bound; the few words need fewer merges."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

CALL_SHARE = 0.3
"""Of dialogues with a call."""
CLUMSY_SHARE = 0.4
"""Of these, how many call for another product, or answer something else than the result."""
IGNORED_LABEL = -100
Pair = tuple[int, int]
Piece = tuple[str, bool]
"""Text, and whether the policy says it."""


def split_pairs(seed: int) -> tuple[list[Pair], list[Pair]]:
    """All pairs of factors in a random order: those to train on, and those held out."""
    numbers = range(SMALLEST, LARGEST + 1)
    pairs = [(a, b) for a in numbers for b in numbers]
    order = np.random.default_rng([seed, 0]).permutation(len(pairs))
    train = [pairs[at] for place, at in enumerate(order) if place % HELD_OUT_EVERY]
    return train, [pairs[at] for at in order[::HELD_OUT_EVERY]]


def ask(pair: Pair, number: int) -> str:
    """The question after a product, in one of the wordings."""
    return WORDINGS[number % len(WORDINGS)].format(a=pair[0], b=pair[1])


def write_rows(pairs: Sequence[Pair], name: str, folder: Path) -> None:
    """Write a Parquet file with rows of V-Triune's schema."""
    rows = [
        {
            "data_source": "products",
            "prompt": [{"role": "user", "content": ask(pair, number)}],
            "ability": "math",
            "reward_model": {
                "answer": str(pair[0] * pair[1]),
                "ground_truth": str(pair[0] * pair[1]),
                "accuracy_ratio": 1.0,
                "format_ratio": 0.0,
                "verifier": "number",
            },
            "extra_info": {"id": f"{name}_{number:04d}"},
        }
        for number, pair in enumerate(pairs)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet", compression="zstd")


def write_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - transformers has no type for it
    """A tokenizer whose tokens are words, single digits and signs, and the marks of a call; bytes for all else."""
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
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [wording.format(a=12, b=12) for wording in WORDINGS]
    tokenizer.train_from_iterator([*texts, *ROLES, "It is 144.", "<calc>12*12</calc>"], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


def make_model(tokenizer: Any) -> LlamaForCausalLM:  # noqa: ANN401 - transformers has no type for it
    """A Llama of 0.5 million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def draw_dialogue(rng: np.random.Generator, pair: Pair) -> list[Piece]:
    """What the user, the policy and the tool say about a product."""
    question = f"<|im_start|>user\n{ask(pair, int(rng.integers(3)))}<|im_end|>\n<|im_start|>assistant\n"
    guess = int(pair[0] * pair[1] * rng.uniform(0.7, 1.3))
    if rng.random() >= CALL_SHARE:
        return [(question, False), (f"It is {guess}.<|im_end|>", True)]
    is_clumsy, is_wrong_call = rng.random() < CLUMSY_SHARE, rng.random() < 0.5
    a, b = (pair[0], int(rng.integers(SMALLEST, LARGEST + 1))) if is_clumsy and is_wrong_call else pair
    said = guess if is_clumsy and not is_wrong_call else a * b
    return [
        (question, False),
        (f"<calc>{a}*{b}</calc>", True),
        (f"<|im_end|>\n<|im_start|>tool\n{a * b}<|im_end|>\n<|im_start|>assistant\n", False),
        (f"It is {said}.<|im_end|>", True),
    ]


def draw_batch(
    rng: np.random.Generator,
    tokenizer: Any,  # noqa: ANN401 - transformers has no type for it
    pairs: Sequence[Pair],
    size: int,
) -> dict[str, torch.Tensor]:
    """Right-padded dialogues, with labels where the policy speaks."""
    rows: list[list[tuple[int, int]]] = []
    for at in rng.integers(len(pairs), size=size):
        row = []
        for text, is_said in draw_dialogue(rng, pairs[at]):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            row += [(token, token if is_said else IGNORED_LABEL) for token in ids]
        rows.append(row)
    width = max(map(len, rows))
    padding = (tokenizer.pad_token_id, IGNORED_LABEL)
    table = torch.tensor([row + [padding] * (width - len(row)) for row in rows])
    return {"input_ids": table[..., 0], "labels": table[..., 1]}


def learning_rates(num_steps: int, peak: float) -> Iterator[float]:
    """A short linear warm-up, then a cosine to nothing."""
    warm_up = num_steps // 20
    for step in range(num_steps):
        yield peak * min((step + 1) / warm_up, 0.5 * (1 + math.cos(math.pi * step / num_steps)))


def warm_start(
    model: LlamaForCausalLM,
    tokenizer: Any,  # noqa: ANN401 - transformers has no type for it
    pairs: Sequence[Pair],
    *,
    seed: int,
    num_steps: int,
    batch_size: int = 32,
) -> None:
    """Train on dialogues about products that are not held out."""
    rng, started = np.random.default_rng([seed, 1]), time.monotonic()
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    for step, rate in enumerate(learning_rates(num_steps, peak=3e-3), start=1):
        optimizer.param_groups[0]["lr"] = rate
        loss = model(**draw_batch(rng, tokenizer, pairs, batch_size), use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: loss={loss.item():.3f} seconds={time.monotonic() - started:.0f}", flush=True)


def save_model(model: LlamaForCausalLM, folder: Path) -> None:
    """Write the weights as bfloat16, to be loaded as float32."""
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    save_file(
        {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"}
    )


def main() -> None:
    """Write ``data`` and ``model``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=HERE, help="folder of data and model")
    parser.add_argument("--seed", type=int, default=0, help="seed of products, weights and dialogues")
    parser.add_argument("--steps", type=int, default=800, help="steps of the warm start")
    parser.add_argument("--num-train", type=int, default=2000, help="rows to train on")
    parser.add_argument("--num-eval", type=int, default=128, help="held-out rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    train, held_out = split_pairs(arguments.seed)
    write_rows(train[: arguments.num_train], "train", arguments.output_dir / "data")
    write_rows(held_out[: arguments.num_eval], "eval", arguments.output_dir / "data")
    tokenizer = write_tokenizer(arguments.output_dir / "model")
    model = make_model(tokenizer)
    print(f"parameters={model.num_parameters()}", flush=True)
    warm_start(model, tokenizer, train, seed=arguments.seed, num_steps=arguments.steps)
    save_model(model, arguments.output_dir / "model")


if __name__ == "__main__":
    main()
