"""The network that is trained: the mathematics of ``LlamaForCausalLM``, lean enough for one CPU core.

Embedding rows of number tokens are features of the number's value times a trained map, plus a small free rest. Export
merges them into plain rows, so whatever serves Llama serves the result.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.nano.attention import causal
from recipes.nano.numbers import features


@dataclass(frozen=True)
class Shape:
    """The sizes of the network."""

    words: int
    numbers: int
    width: int = 216
    layers: int = 5
    heads: int = 12
    upper_heads: int = 8
    head: int = 32
    inner: int = 448
    theta: float = 1e6
    positions: int = 2048
    epsilon: float = 1e-6

    def heads_of(self, layer: int) -> int:
        """Number of heads of a layer: the first two hold most of what is wired, those above do with fewer."""
        return self.heads if layer < 2 else self.upper_heads

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.words + self.numbers

    def plain(self) -> dict[str, int | float]:
        """The sizes as a JSON object."""
        return asdict(self)


class Block(nn.Module):
    """The weights of one layer; queries, keys and values in one matrix, gate and up projections in another."""

    def __init__(self, shape: Shape, heads: int) -> None:
        super().__init__()
        inside = heads * shape.head

        def matrix(rows: int, columns: int, scale: float = 0.6) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, columns) * scale / math.sqrt(columns))

        self.qkv = matrix(3 * inside, shape.width)
        self.out = matrix(shape.width, inside, 0.0)
        self.gate_up = matrix(2 * shape.inner, shape.width)
        self.down = matrix(shape.width, shape.inner, 0.0)
        self.norm_attention = nn.Parameter(torch.ones(shape.width))
        self.norm_mlp = nn.Parameter(torch.ones(shape.width))


class Net(nn.Module):
    """A Llama whose number embeddings follow from the numbers' values."""

    cosines: Tensor
    sines: Tensor
    number_features: Tensor

    def __init__(self, shape: Shape, values: list[float]) -> None:
        super().__init__()
        self.shape = shape
        self.layer = layer
        made = features(values)
        self.words = nn.Parameter(torch.randn(shape.words, shape.width) * 0.08)
        turned = torch.linalg.qr(torch.randn(shape.width, made.shape[1]))[0].T
        self.number_map = nn.Parameter(turned * 0.9 * math.sqrt(shape.width / 128))
        self.number_rest = nn.Parameter(torch.randn(shape.numbers, shape.width) * 0.004)
        self.blocks = nn.ModuleList([Block(shape, shape.heads_of(index)) for index in range(shape.layers)])
        self.norm = nn.Parameter(torch.ones(shape.width))
        rates = rope_rates(shape)
        angles = torch.outer(torch.arange(shape.positions).float(), rates).repeat(1, 2)
        sines = angles.sin()
        sines[:, : shape.head // 2] *= -1
        self.register_buffer("cosines", angles.cos(), persistent=False)
        self.register_buffer("sines", sines, persistent=False)
        self.register_buffer("number_features", made, persistent=False)

    def embedding(self) -> Tensor:
        """The whole embedding matrix, words first, then numbers."""
        return torch.cat([self.words, self.number_features @ self.number_map + self.number_rest])

    def forward(self, ids: Tensor, keep: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logits of the flattened positions ``keep`` (all by default), computed in ``dtype``."""
        shape = self.shape
        rows, length = ids.shape
        table = self.embedding().to(dtype)
        hidden = F.embedding(ids, table)
        cosines, sines = self.cosines[:length, None].to(dtype), self.sines[:length, None].to(dtype)
        for block in self.blocks:
            assert isinstance(block, Block)
            hidden = self.layer(hidden, *(weight.to(dtype) for weight in block.parameters()), cosines, sines, shape)
        hidden = hidden.view(rows * length, shape.width)
        if keep is not None:
            hidden = hidden[keep]
        return F.linear(F.rms_norm(hidden, (shape.width,), self.norm.to(dtype), shape.epsilon), table)


def layer(
    hidden: Tensor,
    qkv: Tensor,
    out: Tensor,
    gate_up: Tensor,
    down: Tensor,
    norm_attention: Tensor,
    norm_mlp: Tensor,
    cosines: Tensor,
    sines: Tensor,
    shape: Shape,
) -> Tensor:
    """The residual stream, (rows, length, width), after one layer. A function of tensors, so that it compiles once."""
    rows, length, width = hidden.shape
    head = shape.head
    heads = out.shape[1] // head
    normed = F.rms_norm(hidden, (width,), norm_attention, shape.epsilon)
    mixed = F.linear(normed, qkv).view(rows, length, 3 * heads, head)
    turn, value = mixed[:, :, : 2 * heads], mixed[:, :, 2 * heads :]
    half = head // 2
    turn = turn * cosines + torch.cat([turn[..., half:], turn[..., :half]], -1) * sines
    query, key = turn[:, :, :heads].transpose(1, 2), turn[:, :, heads:].transpose(1, 2)
    seen = causal(query, key, value.transpose(1, 2))
    hidden = hidden + F.linear(seen.transpose(1, 2).reshape(rows, length, heads * head), out)
    normed = F.rms_norm(hidden, (width,), norm_mlp, shape.epsilon)
    gate, up = F.linear(normed, gate_up).chunk(2, -1)
    return hidden + F.linear(F.silu(gate) * up, down)


def rope_rates(shape: Shape) -> Tensor:
    """How fast each pair of a head's dimensions turns with position, in radians per token."""
    rates: Tensor = 1 / shape.theta ** (torch.arange(0, shape.head, 2).float() / shape.head)
    return rates
