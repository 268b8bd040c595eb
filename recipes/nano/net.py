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
    width: int = 240
    layers: int = 5
    heads: int = 12
    upper_heads: int = 8
    head: int = 32
    inner: int = 512
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
        self.attention_inputs, self.after_attention = attention_inputs, after_attention
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

    def fuse(self) -> None:
        """Fuse what lies between the matrix products: faster steps on CPUs, once compiled; wants a C++ compiler."""
        torch._dynamo.config.recompile_limit = 64  # one for each length of rows and number of heads
        self.attention_inputs, self.after_attention = (
            torch.compile(attention_inputs, dynamic=False),
            torch.compile(after_attention, dynamic=False),
        )

    def embedding(self) -> Tensor:
        """The whole embedding matrix, words first, then numbers."""
        return torch.cat([self.words, self.number_features @ self.number_map + self.number_rest])

    def forward(self, ids: Tensor, keep: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Logits of the flattened positions ``keep`` (all by default), computed in ``dtype``."""
        shape = self.shape
        rows, length = ids.shape
        table = self.embedding().to(dtype)
        hidden = F.embedding(ids, table)
        cosines, sines = self.cosines[:length].to(dtype), self.sines[:length].to(dtype)
        for block in self.blocks:
            assert isinstance(block, Block)
            qkv, out, gate_up, down, before, after = (weight.to(dtype) for weight in block.parameters())
            seen = causal(*self.attention_inputs(hidden, qkv, before, cosines, sines, shape.epsilon))
            hidden = self.after_attention(hidden, seen, out, after, gate_up, down, shape.epsilon)
        hidden = hidden.view(rows * length, shape.width)
        if keep is not None:
            hidden = hidden[keep]
        return F.linear(normed(hidden, self.norm.to(dtype), shape.epsilon), table)


def normed(hidden: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    """Root-mean-square normalization, computed in float32 as Llama does."""
    exact = hidden.float()
    return (exact * torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)).to(hidden.dtype) * gain


def attention_inputs(
    hidden: Tensor, qkv: Tensor, gain: Tensor, cosines: Tensor, sines: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each (rows, heads, length, head), of (rows, length, width)."""
    rows, length, _ = hidden.shape
    head = cosines.shape[-1]
    heads, half = qkv.shape[0] // (3 * head), head // 2
    mixed = F.linear(normed(hidden, gain, epsilon), qkv).view(rows, length, 3 * heads, head).transpose(1, 2)
    turn, value = mixed[:, : 2 * heads], mixed[:, 2 * heads :]
    turn = turn * cosines + torch.cat([turn[..., half:], turn[..., :half]], -1) * sines
    return turn[:, :heads].contiguous(), turn[:, heads:].contiguous(), value.contiguous()


def after_attention(
    hidden: Tensor, seen: Tensor, out: Tensor, gain: Tensor, gate_up: Tensor, down: Tensor, epsilon: float
) -> Tensor:
    """The stream after what attention has ``seen``, (rows, heads, length, head), and after the MLP."""
    rows, length, _ = hidden.shape
    hidden = hidden + F.linear(seen.transpose(1, 2).reshape(rows, length, -1), out)
    gate, up = F.linear(normed(hidden, gain, epsilon), gate_up).chunk(2, -1)
    return hidden + F.linear(F.silu(gate) * up, down)


def rope_rates(shape: Shape) -> Tensor:
    """How fast each pair of a head's dimensions turns with position, in radians per token."""
    rates: Tensor = 1 / shape.theta ** (torch.arange(0, shape.head, 2).float() / shape.head)
    return rates
