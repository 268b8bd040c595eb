"""What is built into the network before training. What :func:`held` names stays as it is, the rest is trained.

* Dimension 0 of every embedding is one constant, dimension 1 marks numbers, dimension 2 the ends of lines and turns.
  Through rotary positions the constant lets a head look a fixed distance back, and a mark lets it look for the number,
  or for the end of a field, nearest to a distance.
* Layer 0: two heads write the previous token and the one before it to private slots, five write the numbers about 4,
  9, 13, 17 and 22 tokens back, each to its own slot.
* Layer 1: induction heads look for an earlier place that follows the present token, one of them for a place that
  follows the present two (labels share pieces). Match heads compare number slots with those of earlier places that
  follow the same token (the answers of the demos, which follow ": ") and are no numbers themselves. All copy what
  they find to the output. Three more heads look for the ends of the last three fields and fetch the two tokens
  before each: the fields' values, as far as two tokens tell them.
* Layer 2: match heads compare these values as those of layer 1 compare numbers.
* Apart from these, queries and keys of the layers above start equal, as a similarity kernel.
* A word's token starts close to that of the same word joined to a space.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recipes.nano.net import Block, Net, Shape, rope_rates
from recipes.nano.numbers import CONSTANT

MEAN = 0.35
DISTANCES = (4.0, 8.7, 13.0, 17.5, 22.5)
FIELDS = (3.4, 9.0, 15.0)
MARKS = 3
SLOT = 20
WIRED = 2 + len(DISTANCES)
"""How many heads of layer 0 look at fixed places."""


LATER = ("blocks.1.qkv", "blocks.1.out", "blocks.2.qkv")
"""What is held only until it has come into use."""


def held(shape: Shape) -> dict[str, Tensor]:
    """What training must leave as it is: for each such parameter a mask that broadcasts to it.

    These are the marks, all of layer 0 that is wired, the heads that fetch fields, and what the match heads compare.
    """
    size = shape.head

    def some(count: int, *ranges: tuple[int, int]) -> Tensor:
        """A mask over ``count`` heads with the heads of ``ranges`` set."""
        mask = torch.zeros(count, dtype=torch.bool)
        for start, stop in ranges:
            mask[start:stop] = True
        return mask.repeat_interleave(size)

    heads, matching = shape.heads, 1 + len(DISTANCES)
    fetching = (WIRED, WIRED + len(FIELDS))
    none = some(heads)
    looks = some(heads, (1, matching), fetching)
    compares = some(heads, (1, 1 + len(FIELDS)))
    first = some(heads, (0, WIRED))
    marks = torch.arange(shape.width) < MARKS
    return {
        "words": marks,
        "number_map": marks,
        "number_rest": marks,
        "blocks.0.norm_attention": marks,
        "blocks.0.qkv": torch.cat([first, first, first])[:, None],
        "blocks.0.out": first,
        "blocks.1.qkv": torch.cat([looks, looks, some(heads, fetching)])[:, None],
        "blocks.1.out": some(heads, fetching),
        "blocks.2.qkv": torch.cat([compares, compares, none])[:, None],
    }


def _orthonormal(rows: int, columns: int) -> Tensor:
    made: Tensor = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))[0]
    return made if rows >= columns else made.T


@torch.no_grad()
def wire(net: Net, twins: list[tuple[int, int]], colon: int, ends: list[int]) -> None:
    """Set up the embeddings and the heads of a fresh network.

    ``colon`` is the token before an answer's value, ``ends`` are those that end a field.
    """
    shape = net.shape
    width, head, inside = shape.width, shape.head, shape.heads * shape.head
    for joined, bare in twins:
        if joined < shape.words and bare < shape.words:
            net.words[joined] = 0.9 * net.words[bare] + 0.436 * net.words[joined]
    net.words[:, 0], net.words[:, 1:MARKS] = MEAN, 0.0
    net.words[ends, 2] = MEAN
    net.number_map[:, :MARKS] = 0.0
    net.number_map[CONSTANT, :2] = MEAN / 0.35
    rates = rope_rates(shape)
    table = net.embedding()
    unit = math.sqrt(width) / table.norm(dim=1).mean()  # what normalization multiplies an embedding by
    slots = _orthonormal(width, width)
    slots[:MARKS] = 0.0
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
        """Attend to the place with the constant (mark 0), number (1) or end (2) nearest to ``distance`` back."""
        query, key = rows(block, 0, index), rows(block, 1, index)
        query.zero_()
        key.zero_()
        scale = math.sqrt(sharp * math.sqrt(head)) / size
        query[:, 0] = scale * torch.cat([pairs, torch.zeros_like(pairs)])
        key[:, mark] = scale * torch.cat([pairs * torch.cos(rates * distance), pairs * torch.sin(rates * distance)])

    first, second, third = net.blocks[0], net.blocks[1], net.blocks[2]
    assert isinstance(first, Block)
    assert isinstance(second, Block)
    assert isinstance(third, Block)
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
    rows(second, 2, 0).copy_(words)
    second.out[:, :head] = words.T * 0.3
    query, key = rows(second, 0, two_back), rows(second, 1, two_back)
    query.zero_()
    key.zero_()
    near, far = torch.cat([slow[:5], slow[:5] + head // 2]), torch.cat([slow[5:], slow[5:] + head // 2])
    query[near], query[far] = words[:10] * 3.0, previous[:, :10].T * 0.9
    key[near], key[far] = previous[:, :10].T * 3.0, before[:, :10].T * 3.0
    rows(second, 2, two_back).copy_(words)
    second.out[:, two_back * head : (two_back + 1) * head] = words.T * 0.3
    seen = words @ table[colon]
    after_colon = previous @ (seen / seen.norm())
    is_colon = words.T @ (seen / seen.norm())
    wide = torch.cat([slow[1:], slow[1:] + head // 2])

    def match(block: Block, index: int, slot: Tensor, sharp: float, sure: float, grown: float) -> None:
        """Attend to answers of demos whose ``slot`` is like that of the present place, and copy them."""
        strength = 0.3 * float(unit) * float(seen.norm()) / grown  # of the previous-token slot after a colon
        query, key = rows(block, 0, index), rows(block, 1, index)
        query.zero_()
        key.zero_()
        query[wide] = slot[:, : len(wide)].T * sharp
        key[wide] = query[wide]
        gate = slow[0]
        query[gate, 0] = sure * grown / MEAN
        key[gate] = after_colon * (1.125 * sure / strength)
        if block is second:
            key[gate] -= is_colon * (0.75 * sure * grown / float(seen.norm()))
        key[gate, 1] = -0.75 * sure * grown / MEAN
        rows(block, 2, index).copy_(words)
        block.out[:, index * head : (index + 1) * head] = words.T * 0.25

    for index in range(1, two_back):
        match(second, index, numbers[index - 1], 2.5, 8.0, grown)
    values = torch.cat(numbers, 1)  # where no number is, these slots are free
    fetched = torch.cat([previous[:, :12], before[:, :6]], 1)
    for index, distance in enumerate(FIELDS):
        slot = values[:, index * len(wide) : (index + 1) * len(wide)]
        fetcher = two_back + 1 + index
        look_back(second, fetcher, distance, 2, middle, 10.0, MEAN / grown)
        value = rows(second, 2, fetcher)
        value.zero_()
        value[: len(wide)] = fetched.T
        second.out[:, fetcher * head : (fetcher + 1) * head] = 0.0
        second.out[:, fetcher * head : fetcher * head + len(wide)] = slot * 0.35
        match(third, 1 + index, slot, 2.0, 7.5, 2.4 * grown)
