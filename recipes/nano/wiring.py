"""What is built into the network before training. What layer 0 looks at stays fixed, the rest is trained.

* Dimension 0 of every embedding is one constant, dimension 1 marks numbers. Through rotary positions the constant lets
  a head look a fixed distance back, and the mark lets it look for the number nearest to a distance.
* Layer 0: two heads write the previous token and the one before it to private slots, five write the numbers about 4,
  9, 13, 17 and 22 tokens back, each to its own slot.
* Layer 1: induction heads look for an earlier place that follows the present token, one of them for a place that
  follows the present two (labels share pieces). Match heads compare number slots with those of earlier places that
  follow the same token (the answers of the demos, which follow ": ") and are no numbers themselves. All copy what
  they find to the output.
* In the layers above, queries and keys start equal, as a similarity kernel.
* A word's token starts close to that of the same word joined to a space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recipes.nano.net import Block, Net, rope_rates
from recipes.nano.numbers import CONSTANT

MEAN = 0.35
DISTANCES = (4.0, 8.7, 13.0, 17.5, 22.5)
SLOT = 20
WIRED = 2 + len(DISTANCES)
"""How many heads of layer 0 look at fixed places."""


def _orthonormal(rows: int, columns: int) -> Tensor:
    made: Tensor = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))[0]
    return made if rows >= columns else made.T


@torch.no_grad()
def wire(net: Net, twins: list[tuple[int, int]], colon: int) -> None:
    """Set up the embeddings and the heads of a fresh network; ``colon`` is the token before an answer's value."""
    shape = net.shape
    width, head, inside = shape.width, shape.head, shape.heads * shape.head
    for joined, bare in twins:
        if joined < shape.words and bare < shape.words:
            net.words[joined] = 0.9 * net.words[bare] + 0.436 * net.words[joined]
    net.words[:, 0], net.words[:, 1] = MEAN, 0.0
    net.number_map[:, :2] = 0.0
    net.number_map[CONSTANT, :2] = MEAN / 0.35
    rates = rope_rates(shape)
    table = net.embedding()
    unit = math.sqrt(width) / table.norm(dim=1).mean()  # what normalization multiplies an embedding by
    slots = _orthonormal(width, width)
    slots[:2] = 0.0
    previous = slots[:, :head]
    numbers = [slots[:, head + i * SLOT : head + (i + 1) * SLOT] for i in range(len(DISTANCES))]
    before = slots[:, head + len(DISTANCES) * SLOT :][:, :SLOT]
    words = slots[:, -head:].T  # what tells words apart; no slot overlaps it

    def rows(block: Block, which: int, index: int) -> Tensor:
        """The rows of one head's query (0), key (1) or value (2) matrix."""
        start = which * inside + index * head
        return block.qkv[start : start + head]

    def look_back(
        block: Block, index: int, distance: float, mark: int, pairs: Tensor, sharp: float, size: float
    ) -> None:
        """Attend to the place with the constant (mark 0) or the number (mark 1) nearest to ``distance`` back."""
        query, key = rows(block, 0, index), rows(block, 1, index)
        query.zero_()
        key.zero_()
        scale = math.sqrt(sharp * math.sqrt(head)) / size
        query[:, 0] = scale * torch.cat([pairs, torch.zeros_like(pairs)])
        key[:, mark] = scale * torch.cat([pairs * torch.cos(rates * distance), pairs * torch.sin(rates * distance)])

    first, second = net.blocks[0], net.blocks[1]
    assert isinstance(first, Block)
    assert isinstance(second, Block)
    size = MEAN * float(unit)
    fast = (rates > 0.03).float()
    look_back(first, 0, 1.0, 0, fast, 12.0 / float((fast * (1 - torch.cos(rates))).sum()), size)
    rows(first, 2, 0).copy_(words)
    first.out[:, :head] = previous * 0.3
    middle = ((rates < 0.5) & (rates > 0.02)).float()
    basis = torch.linalg.svd(net.number_features[:, :CONSTANT] @ net.number_map[:CONSTANT], full_matrices=False)[2]
    basis = basis[:SLOT]
    for index, distance in enumerate(DISTANCES, start=1):
        look_back(first, index, distance, 1, middle, 10.0, size)
        value = rows(first, 2, index)
        value.zero_()
        value[:SLOT] = basis
        first.out[:, index * head : (index + 1) * head] = 0.0
        first.out[:, index * head : index * head + SLOT] = numbers[index - 1] * 0.08

    two_back = 1 + len(DISTANCES)
    sharp = 12.0 / float((fast * (1 - torch.cos(rates))).sum())
    look_back(first, two_back, 2.0, 0, fast, sharp, size)
    rows(first, 2, two_back).copy_(words)
    first.out[:, two_back * head : (two_back + 1) * head] = 0.0
    first.out[:, two_back * head : two_back * head + SLOT] = before * 0.3

    for block in list(net.blocks)[1:]:
        assert isinstance(block, Block)
        block.qkv[inside : 2 * inside] = block.qkv[:inside]
    slow = torch.argsort(rates)[:10]
    steady = torch.cat([slow, slow + head // 2])  # dimensions that hardly turn over an episode
    grown = 0.16  # root mean square of the residual stream after layer 0, roughly

    query, key = rows(second, 0, 0), rows(second, 1, 0)
    query.zero_()
    key.zero_()
    query[steady] = words[: len(steady)] * 2.2
    key[steady] = previous[:, : len(steady)].T * 2.2
    copied = _orthonormal(head, width)
    rows(second, 2, 0).copy_(copied)
    second.out[:, :head] = copied.T * 0.3
    query, key = rows(second, 0, two_back), rows(second, 1, two_back)
    query.zero_()
    key.zero_()
    near, far = torch.cat([slow[:5], slow[:5] + head // 2]), torch.cat([slow[5:], slow[5:] + head // 2])
    query[near], query[far] = words[:10] * 3.0, previous[:, :10].T * 0.9
    key[near], key[far] = previous[:, :10].T * 3.0, before[:, :10].T * 3.0
    copied = _orthonormal(head, width)
    rows(second, 2, two_back).copy_(copied)
    second.out[:, two_back * head : (two_back + 1) * head] = copied.T * 0.3
    seen = words @ table[colon]
    after_colon = previous @ (seen / seen.norm())
    is_colon = words.T @ (seen / seen.norm())
    strength = 0.3 * float(unit) * float(seen.norm()) / grown  # of the previous-token slot after a colon
    for index in range(1, two_back):
        query, key = rows(second, 0, index), rows(second, 1, index)
        query.zero_()
        key.zero_()
        wide = torch.cat([slow[1:], slow[1:] + head // 2])
        query[wide] = numbers[index - 1][:, : len(wide)].T * 2.5
        key[wide] = query[wide]
        gate = slow[0]
        query[gate, 0] = 8.0 * grown / MEAN
        key[gate] = after_colon * (9.0 / strength) - is_colon * (6.0 * grown / float(seen.norm()))
        key[gate, 1] = -6.0 * grown / MEAN
        copied = _orthonormal(head, width)
        rows(second, 2, index).copy_(copied)
        second.out[:, index * head : (index + 1) * head] = copied.T * 0.25
