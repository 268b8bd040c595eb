"""Causal attention and cross-entropy as CPUs like them: a few large matrix products instead of fused kernels.

For rows of a few hundred tokens and small heads, the backward pass of PyTorch's fused CPU attention takes several times
as long as plain matrix products in bfloat16, and its log-softmax over a vocabulary twice as long as the passes below.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

CHUNK = 128
"""Queries handled at a time; keys after the last of them are left out."""
SCORES = 12 * 2**16
"""Scores handled at a time: as many as stay in a core's second-level cache."""


class _Causal(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        count, length, head = query.shape
        query = query * head**-0.5
        mask = torch.full((CHUNK, CHUNK), -math.inf, dtype=query.dtype).triu(1)
        seen = torch.empty_like(query)
        shares = []
        for some in _groups(count, length):
            turned, values = key[some].transpose(1, 2), value[some]
            for start in range(0, length, CHUNK):
                end = min(start + CHUNK, length)
                scores = torch.bmm(query[some, start:end], turned[:, :, :end])
                scores[:, :, start:] += mask[: end - start, : end - start]
                shares.append(torch.softmax(scores, -1))
                seen[some, start:end] = torch.bmm(shares[-1], values[:, :end])
        ctx.save_for_backward(query, key, value, *shares)
        return seen

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *shares = ctx.saved_tensors
        (grad,) = gradients
        count, length, head = query.shape
        to_query = torch.empty_like(query)
        to_key, to_value = torch.zeros_like(key), torch.zeros_like(value)
        left = iter(shares)
        for some in _groups(count, length):
            turned, keys = value[some].transpose(1, 2), key[some]
            for start in range(0, length, CHUNK):
                end = min(start + CHUNK, length)
                share, part = next(left), grad[some, start:end]
                to_value[some, :end] += torch.bmm(share.transpose(1, 2), part)
                to_share = torch.bmm(part, turned[:, :, :end])
                to_scores = torch._softmax_backward_data(to_share, share, -1, share.dtype)
                to_query[some, start:end] = torch.bmm(to_scores, keys[:, :end])
                to_key[some, :end] += torch.bmm(to_scores.transpose(1, 2), query[some, start:end])
        return to_query * head**-0.5, to_key, to_value


def _groups(count: int, length: int) -> Iterator[slice]:
    """The heads in groups whose scores fit the cache of a core."""
    size = max(1, SCORES // (CHUNK * length))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention; all three are (rows, heads, length, head)."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    rows, heads, length, head = query.shape
    flat = (rows * heads, length, head)
    seen: Tensor = _Causal.apply(query.reshape(flat), key.reshape(flat), value.reshape(flat))  # type: ignore[no-untyped-call]
    return seen.view(rows, heads, length, head)


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        shares = logits.to(torch.float32, copy=True)
        shares = shares.sub_(shares.amax(1, keepdim=True)).exp_()
        shares.div_(shares.sum(1, keepdim=True))
        ctx.save_for_backward(shares, targets, weights)
        ctx.dtype = logits.dtype
        found = shares.gather(1, targets[:, None]).squeeze(1)
        return -(found.clamp_min(1e-30).log() * weights).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        shares, targets, weights = ctx.saved_tensors
        shares[torch.arange(len(targets)), targets] -= 1.0
        return shares.mul_((weights * gradients[0])[:, None]).to(ctx.dtype), None, None


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of the targets' negative log-probabilities; (places, vocabulary) logits in bfloat16."""
    loss: Tensor = _CrossEntropy.apply(logits, targets, weights)  # type: ignore[no-untyped-call]
    return loss
