"""Attention of one new token a row over a shared prompt and the row's own completion.

Both parts give a partial result, and partial results of a softmax merge exactly: with maximum m, mass s
and weighted sum o of each part, out = sum(o exp(m - M)) / sum(s exp(m - M)). It is registered with
transformers under ``DECODING_ATTENTION``; without a cache (prefill) it is scaled dot product attention.

Shapes: B rows, P prompts, N places (rows of one prompt), S prompt positions, T columns, K key-value heads, R query
heads for each of them, D head size.
"""
# ruff: noqa: N803, N806 - names of tensors end in the letters of their shape

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tristream.policy.attention.decoding_cache import DecodingCache

DECODING_ATTENTION = "tristream_decoding"

Partial = tuple[Tensor, Tensor, Tensor]
"""Weighted sum [..., D], mass [..., 1] and maximum [..., 1] of a part of the keys."""


def register_decoding_attention() -> None:
    """Make the attention known to transformers."""
    AttentionInterface.register(DECODING_ATTENTION, decoding_attention)


def decoding_attention(
    module: Any,  # noqa: ANN401 - any attention module
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,  # noqa: ANN401 - transformers passes what the model was called with
) -> tuple[Tensor, None]:
    """Attention as transformers calls it; the cache comes as the model's argument ``decoding_cache``.

    With a cache the query is [B, K * R, 1, D], the key and value are those of the new tokens, [B, K, 1, D], the
    mask is not used, and the result is [B, 1, K * R, D].
    """
    cache: DecodingCache | None = options.pop("decoding_cache", None)
    if cache is None:
        output: Tensor = sdpa_attention_forward(module, query, key, value, attention_mask, **options)[0]
        return output, None
    attended_BHD = attend(cache, module.layer_idx, query[:, :, 0] * options["scaling"], key[:, :, 0], value[:, :, 0])
    return attended_BHD[:, None], None


def attend(cache: DecodingCache, layer: int, query_BHD: Tensor, key_BKD: Tensor, value_BKD: Tensor) -> Tensor:
    """Append the new keys and values, and attend [B, H, D] with scaled queries."""
    num_rows, num_heads, head_size = query_BHD.shape
    num_key_heads = key_BKD.shape[1]
    query_BKRD = query_BHD.view(num_rows, num_key_heads, num_heads // num_key_heads, head_size)
    own = _attend_own(cache, query_BKRD, *cache.append(layer, key_BKD, value_BKD))
    merged_BKRD = _merge(own, _attend_prefix(cache, query_BKRD, *cache.prefix(layer)))
    return merged_BKRD.view(num_rows, num_heads, head_size).to(query_BHD.dtype)


def _attend_own(cache: DecodingCache, query_BKRD: Tensor, keys_BKTD: Tensor, values_BKTD: Tensor) -> Partial:
    parts = []
    for chunk in cache.chunks:
        rows, columns = slice(chunk.start, chunk.end), slice(0, chunk.num_columns)
        bias = cache.own_bias_BT[rows, None, None, columns]
        parts.append(_attend_part(query_BKRD[rows], keys_BKTD[rows, :, columns], values_BKTD[rows, :, columns], bias))
    if len(parts) == 1:
        return parts[0]
    sums, masses, maxima = zip(*parts, strict=True)
    return torch.cat(sums), torch.cat(masses), torch.cat(maxima)


def _attend_prefix(cache: DecodingCache, query_BKRD: Tensor, keys_PKSD: Tensor, values_PKSD: Tensor) -> Partial:
    _, num_key_heads, num_repeats, head_size = query_BKRD.shape
    num_prompts, num_places = len(keys_PKSD), cache.num_places
    query_PNKRD = query_BKRD[cache.row_of_place].view(num_prompts, num_places, num_key_heads, num_repeats, head_size)
    query_PKQD = query_PNKRD.transpose(1, 2).reshape(num_prompts, num_key_heads, num_places * num_repeats, head_size)
    partial = _attend_part(query_PKQD, keys_PKSD, values_PKSD, cache.prefix_bias_PS[:, None, None])

    def to_rows(part_PKQX: Tensor) -> Tensor:
        part_PKNRX = part_PKQX.view(num_prompts, num_key_heads, num_places, num_repeats, -1)
        return part_PKNRX[cache.prompt_B, :, cache.place_B]

    return to_rows(partial[0]), to_rows(partial[1]), to_rows(partial[2])


def _attend_part(query_XQD: Tensor, keys_XSD: Tensor, values_XSD: Tensor, bias: Tensor) -> Partial:
    scores_XQS = torch.matmul(query_XQD, keys_XSD.transpose(-1, -2)).float()
    scores_XQS += bias
    maximum = scores_XQS.amax(dim=-1, keepdim=True)
    weights_XQS = scores_XQS.sub_(maximum).exp_()
    mass = weights_XQS.sum(dim=-1, keepdim=True)
    return torch.matmul(weights_XQS.to(values_XSD.dtype), values_XSD).float(), mass, maximum


def _merge(first: Partial, second: Partial) -> Tensor:
    maximum = torch.maximum(first[2], second[2])
    first_factor, second_factor = (first[2] - maximum).exp(), (second[2] - maximum).exp()
    return (first[0] * first_factor + second[0] * second_factor) / (first[1] * first_factor + second[1] * second_factor)
