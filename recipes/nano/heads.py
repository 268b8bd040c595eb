"""One attention head that is set up by hand: what it looks for, and what it does with what it finds.

Scores are sums of products of what a place asks for and what a place has. Normalization divides both by the stream's
size, which differs from place to place. So a score is zero where a head should look and negative elsewhere: then the
sizes change how far behind the other places are, and not which one leads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from recipes.nano.layout import CODE, CONSTANT, EVEN_FIRST, EXTRA, IDENTITY, MARK, SIZE
from recipes.nano.net import Block, Net, rope_rates

STEADY = [8, 9, 10, 11, 12, 13, 24, 25, 26, 27, 28, 29, 7, 23]
"""Dimensions of a head of 32 that hardly turn over an episode, in the order in which codes are compared by them."""
SLOPE = {8: 0.8, 7: 0.2}
"""The pairs of dimensions that scores fall by, and their shares: together nearly a straight line."""
FIRST_GATE, SECOND_GATE, THIRD_GATE, FOURTH_GATE = 15, 14, 31, 29
LENGTHS = (30, 31)


class Head:
    """One head's rows of the query, key and value matrices and columns of the output matrix, empty at first.

    ``size`` is how large the stream is, as a root mean square, at the places that the head reads.
    """

    def __init__(self, net: Net, layer: int, index: int, size: float) -> None:
        shape, block = net.shape, net.blocks[layer]
        assert isinstance(block, Block)
        inside, self.start = shape.heads * shape.head, shape.width - EXTRA
        self.query, self.key, self.value = (
            block.qkv.data[which * inside + index * shape.head : which * inside + (index + 1) * shape.head]
            for which in range(3)
        )
        self.out = block.out.data[:, index * shape.head : (index + 1) * shape.head]
        for part in (self.query, self.key, self.value, self.out):
            part.zero_()
        self.gain = float(block.norm_attention[self.start]) / size
        self.half, self.rates = shape.head // 2, rope_rates(shape)
        self.root = shape.head**0.25

    def score(self, at: int, strength: float, asks: Mapping[int, float], has: Mapping[int, float]) -> None:
        """Add ``strength`` times what is asked for times what a place has, both counted in marks.

        It takes a dimension ``at`` of its own: two scores at one dimension would be multiplied with each other.
        """
        scale = math.sqrt(strength) * self.root / (MARK * self.gain)
        for mark, share in asks.items():
            self.query[at, self.start + mark] += scale * share
        for mark, share in has.items():
            self.key[at, self.start + mark] += scale * share

    def nearest(self, distance: float, has: Mapping[int, float], asks: int = CONSTANT) -> None:
        """Let scores fall by one for each ``distance`` tokens, over all of the context."""
        for pair, share in SLOPE.items():
            scale = math.sqrt(share / (distance * float(self.rates[pair]))) * self.root / (MARK * self.gain)
            self.query[pair, self.start + asks] += scale
            for mark, part in has.items():
                self.key[pair + self.half, self.start + mark] -= scale * part

    def back(self, distance: float) -> None:
        """Look ``distance`` tokens back; between two tokens, at both."""
        fast = [pair for pair, rate in enumerate(self.rates.tolist()) if rate > 0.03]
        strength = 14.0 / sum(1 - math.cos(float(self.rates[pair])) for pair in fast)
        scale = math.sqrt(strength) * self.root / (MARK * self.gain)
        for pair in fast:
            turn = float(self.rates[pair]) * distance
            self.query[pair, self.start + EVEN_FIRST] = scale
            self.key[pair, self.start + EVEN_FIRST] = scale * math.cos(turn)
            self.key[pair + self.half, self.start + EVEN_FIRST] = scale * math.sin(turn)

    def alike(self, places: list[int], asks: Tensor, has: Tensor, strength: float) -> None:
        """Add the product of what is read here and there, each (places, EXTRA), in units of codes."""
        scale = math.sqrt(strength) * self.root / (SIZE * self.gain)
        self.query[places, self.start :] += scale * asks
        self.key[places, self.start :] += scale * has

    def lengths(self, strength: float, norms: list[int]) -> None:
        """Take half the squared lengths of what is compared off the score: what is left falls with distance."""
        scale = math.sqrt(strength / 2) * self.root / (MARK * self.gain)
        here, there = LENGTHS
        for mark in norms:
            self.query[here, self.start + mark] -= scale
            self.key[there, self.start + mark] -= scale
        self.key[here, self.start + CONSTANT] += scale
        self.query[there, self.start + CONSTANT] += scale

    def carry(self, moves: Mapping[int, int], first: int = 0, size: float = 1.0) -> None:
        """Write the marks that are found, ``size`` times as large, to other marks; ``first`` is a free dimension."""
        for place, (read, write) in enumerate(moves.items(), start=first):
            self.value[place, self.start + read] = 1 / self.gain
            self.out[self.start + write, place] = size

    def gather(self, read: int, turn: Tensor, write: int, size: float, first: int = 0) -> None:
        """Write ``turn``, (SLOT, dimensions), of what stands at ``read`` to the slot at ``write``."""
        rows, columns = turn.shape
        self.value[first : first + rows, self.start + read : self.start + read + columns] = turn / self.gain
        for row in range(rows):
            self.out[self.start + write + row, first + row] = size

    def copy(self, main: Tensor, size: float) -> None:
        """Add the token that is found to the output; ``main``, (CODE, width), turns codes into directions there."""
        share = math.sqrt(size)
        self.value[:CODE, self.start + IDENTITY :] = torch.eye(CODE) * share / (SIZE * self.gain)
        self.out[: main.shape[1], :CODE] = main.T * share
