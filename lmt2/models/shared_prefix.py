"""Attention where many sequences begin with the same tokens: those are kept once, not once a sequence.

The prefix's scores are one matrix product for all sequences, each sequence's own keys are another, and one softmax
goes over both. So a passage that fifty prompts begin with costs its tokens once in time and in memory, and a
decoding step copies no more than what the sequences themselves have said. In training, sequences stand
one after the other in a single row without padding (`Packing`), and only attention sees them side by side.

Shape legend: B sequences, H query heads, K key heads, G = H / K, T new tokens, S own tokens so far, P prefix, D head
width, N tokens of a packed row.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "lmt2_shared_prefix"  # what a model's configuration calls this attention
KeysValues = tuple[Tensor, Tensor]  # [1, K, P, D] each
Prefix = Sequence[KeysValues]  # of each layer


class Packing:
    """A row that is a prefix and then sequences of the given lengths, each seeing the prefix and itself."""

    def __init__(self, prefix: int, lengths: Sequence[int]) -> None:
        self.prefix = prefix
        starts = torch.tensor([prefix, *lengths]).cumsum(0)[:-1]
        within = torch.arange(max(lengths))
        is_token = within < torch.tensor(lengths).unsqueeze(1)
        self.rows = torch.where(is_token, starts.unsqueeze(1) + within, 0)  # [B, T]: a place in the row
        self.places = is_token.flatten().nonzero().squeeze(1)  # [N - P]: a place in rows, flattened
        self.positions = torch.cat([torch.arange(prefix), *(prefix + within[:n] for n in lengths)]).unsqueeze(0)


def prefill(net: Any, tokens: Sequence[int]) -> Prefix | None:
    """Keys and values of what all sequences begin with; None if that is nothing."""
    if not tokens:
        return None
    cache: Any = DynamicCache(config=net.config)
    net.model(input_ids=torch.tensor([tokens]), past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    prefix: Prefix | None = None,
    packing: Packing | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention output [B, T, H, D]; `attention_mask` [B, 1, T, S] is about the sequences' own tokens."""
    if packing is not None:
        return _packed(query * kwargs["scaling"], key, value, packing), None
    if prefix is not None:
        shared = prefix[module.layer_idx]
        return _shared(query * kwargs["scaling"], key, value, shared, attention_mask).transpose(1, 2), None
    output: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output


def _shared(query: Tensor, key: Tensor, value: Tensor, shared: KeysValues, mask: Tensor | None) -> Tensor:
    """Output [B, H, T, D] for scaled queries; without a mask a sequence's own tokens are causal."""
    batch, heads, new, width = query.shape
    keys, values = (part[0] for part in shared)
    groups, length = heads // key.shape[1], keys.shape[1]
    query = query.reshape(batch, -1, groups * new, width)
    to_prefix = _to_all(query, keys.transpose(1, 2))
    to_own = (query @ key.transpose(2, 3)).view(batch, -1, groups, new, key.shape[2])
    allowed = _causal(new, key.shape[2]) if mask is None else mask[:, :, None]
    to_own = to_own.masked_fill(~allowed, float("-inf")).flatten(2, 3)
    weights = torch.cat([to_prefix, to_own], dim=-1).softmax(-1, dtype=torch.float32).to(query.dtype)
    mixed = _to_all(weights[..., :length], values) + weights[..., length:] @ value
    return mixed.reshape(batch, heads, new, width)


def _packed(query: Tensor, key: Tensor, value: Tensor, packing: Packing) -> Tensor:
    """Output [1, N, H, D] for a packed row of scaled queries: the prefix by itself, then every sequence."""
    length = packing.prefix
    q, k, v = (part[:, :, :length] for part in (query, key, value))
    first = scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=True)
    own_q, own_k, own_v = (_unpacked(part, packing.rows) for part in (query, key, value))
    rest = _shared(own_q, own_k, own_v, (k, v), None)
    flat = rest.transpose(1, 2).flatten(0, 1).index_select(0, packing.places)  # [N - P, H, D]
    return torch.cat([first.transpose(1, 2), flat.unsqueeze(0)], dim=1)


def _unpacked(part: Tensor, rows: Tensor) -> Tensor:
    """Sequences [B, ·, T, D] of a packed row [1, ·, N, D]."""
    chosen = part[0].transpose(0, 1).index_select(0, rows.flatten())
    return chosen.view(*rows.shape, *chosen.shape[1:]).transpose(1, 2)


def _to_all(rows: Tensor, shared: Tensor) -> Tensor:
    """Products [B, K, N, ·] of every row [B, K, N, ·] with what is shared [K, ·, ·], as one product for each head."""
    flat = rows.transpose(0, 1).reshape(rows.shape[1], -1, rows.shape[3])
    return (flat @ shared).view(rows.shape[1], rows.shape[0], rows.shape[2], -1).transpose(0, 1)


def _causal(new: int, own: int) -> Tensor:
    return torch.ones(new, own, dtype=torch.bool).tril(own - new)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
