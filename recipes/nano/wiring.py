"""What is built into the network before training. What :func:`held` names stays as it is, the rest is trained.

* Dimension 0 of every embedding is one constant; dimensions 1 to 4 mark numbers, the ends of lines and turns, the ends
  of questions, and the colon before a value. Through rotary positions the constant lets a head look a fixed distance
  back, and a mark lets it look for the marked token nearest to a distance.
* Layer 0: two heads write the previous token and the one before it to private slots, and six the numbers about 4 to
  30 tokens back, each to its own slot. One writes the mean of the last twenty tokens or so, less those that every
  sentence has: what the text there tells of. One takes the present token out of that again.
* Layer 1: induction heads look for an earlier place that follows the present token, one of them for a place that
  follows the present two (labels share pieces). Match heads compare number slots with those of earlier places that
  follow the same token (the answers of the demos, which follow ": ") and are no numbers themselves. All copy what
  they find to the output. Three more heads look for the ends of the last three fields and fetch the two tokens
  before each: the fields' values, as far as two tokens tell them. The last one fetches what the last question tells of.
* Layer 2: match heads compare fields' values as those of layer 1 compare numbers. One more looks, where a value
  begins, for names in sentences that tell of what the question asks, other than the names in the question, and copies
  them.
* Apart from these, queries and keys of the layers above start equal, as a similarity kernel.
* A word's token starts close to that of the same word joined to a space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from recipes.nano.net import Block, Net, Shape, rope_rates
from recipes.nano.numbers import CONSTANT

MEAN = 0.35
DISTANCES = (4.0, 9.0, 13.5, 18.5, 24.0, 30.0)
FIELDS = (3.4, 9.0, 15.0)
ASKED = 1 + len(FIELDS)
"""Which head of layer 2 compares what is asked with what is told."""
MARKS = 5
TOPIC = 18
OWN = MARKS + 2 * TOPIC
"""Dimensions of the residual stream that only wired heads write to: marks, what is told, what is asked."""
SLOT = 14
"""Dimensions of a number's slot; heads have more, and what those carry besides is learned."""
WIDE = 18
"""Dimensions of the other slots: nine pairs that hardly turn over an episode."""
WIRED = 4 + len(DISTANCES)
"""How many heads of layer 0 look at fixed places."""


def later(name: str) -> bool:
    """Whether a parameter is held only until what is wired has come into use."""
    return name.startswith("blocks.") and not name.startswith("blocks.0.")


def held(shape: Shape) -> dict[str, Tensor]:
    """What training must leave as it is: for each such parameter a mask that broadcasts to it.

    These are the dimensions of the stream that are wired heads' own, all of layer 0 that is wired, the heads that fetch
    fields and questions, and what the match heads compare.
    """
    size, matching = shape.head, 1 + len(DISTANCES)
    fetching = range(1 + matching, 2 + matching + len(FIELDS))

    def some(heads: int, which: range, places: Sequence[int] = ()) -> Tensor:
        """A mask over ``heads`` heads with ``places`` (all by default) of the ones in ``which`` set."""
        mask = torch.zeros(heads, size, dtype=torch.bool)
        for index in which:
            mask[index, list(places) or slice(None)] = True
        return mask.flatten()

    compared, wide = steady(shape, SLOT, 1).tolist(), steady(shape, WIDE, 1).tolist()
    gate = steady(shape, 2).tolist()[:1]
    first = some(shape.heads, range(WIRED))
    carried = first & ~some(shape.heads, range(1, matching), range(SLOT, size))
    fetched = some(shape.heads, fetching)
    looks = some(shape.heads, range(1, matching), compared + gate) | fetched
    upper = some(shape.upper_heads, range(1, 1 + len(FIELDS)), wide + gate)
    asked = some(shape.upper_heads, range(ASKED, ASKED + 1), wide)
    none = torch.zeros_like(asked)
    own = torch.arange(shape.width) < OWN
    return {
        "words": own,
        "number_map": own,
        "number_rest": own,
        "blocks.0.norm_attention": own,
        "blocks.0.qkv": torch.cat([first, first, carried])[:, None],
        "blocks.0.out": own[:, None] | carried,
        "blocks.1.qkv": torch.cat([looks, looks, fetched])[:, None],
        "blocks.1.out": own[:, None] | fetched,
        "blocks.2.qkv": torch.cat([upper | asked, upper | asked, none])[:, None],
        **{f"blocks.{index}.out": own[:, None] for index in range(2, shape.layers)},
        **{f"blocks.{index}.down": own[:, None] for index in range(shape.layers)},
    }


def steady(shape: Shape, count: int, start: int = 0) -> Tensor:
    """``count`` dimensions of a head, in pairs, that hardly turn over an episode, less ``start`` slowest pairs."""
    chosen = torch.argsort(rope_rates(shape))[start : start + count // 2]
    return torch.cat([chosen, chosen + shape.head // 2])


def _orthonormal(rows: int, columns: int) -> Tensor:
    made: Tensor = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))[0]
    return made if rows >= columns else made.T


@torch.no_grad()
def wire(
    net: Net, twins: list[tuple[int, int]], colon: int, ends: list[int], asked: list[int], plain: list[int], space: int
) -> None:
    """Set up the embeddings and the heads of a fresh network.

    ``colon`` is the token before an answer's value, ``ends`` are those that end a field, ``asked`` a question, and
    ``plain`` tokens tell nothing of what a text is about.
    """
    shape = net.shape
    width, head = shape.width, shape.head
    for joined, bare in twins:
        if joined < shape.words and bare < shape.words:
            net.words[joined] = 0.9 * net.words[bare] + 0.436 * net.words[joined]
    net.words[:, 0], net.words[:, 1:OWN] = MEAN, 0.0
    net.words[ends, 2] = MEAN
    net.words[asked, 3] = MEAN
    net.words[colon, 4] = MEAN
    net.number_map[:, :OWN] = 0.0
    net.number_rest[:, :OWN] = 0.0
    net.number_map[CONSTANT, :2] = MEAN / 0.35
    rates = rope_rates(shape)
    table = net.embedding()
    unit = math.sqrt(width) / table.norm(dim=1).mean()  # what normalization multiplies an embedding by
    slots = torch.cat([torch.zeros(OWN, width - OWN), _orthonormal(width - OWN, width - OWN)])
    told, asked_of = torch.eye(width)[:, MARKS:OWN].split(TOPIC, 1)
    sizes = [head, *[SLOT] * len(DISTANCES), WIDE]
    previous, *numbers, before = slots[:, : sum(sizes)].split(sizes, 1)
    words = slots[:, -head:].T  # what tells words apart; no slot overlaps it
    fast = (rates > 0.03).float()
    middle = ((rates < 0.5) & (rates > 0.02)).float()
    first, second, third = net.blocks[0], net.blocks[1], net.blocks[2]
    assert isinstance(first, Block)
    assert isinstance(second, Block)
    assert isinstance(third, Block)

    def rows(block: Block, which: int, index: int) -> Tensor:
        """The rows of one head's query (0), key (1) or value (2) matrix."""
        start = which * (block.qkv.shape[0] // 3) + index * head
        return block.qkv[start : start + head]

    def carry(block: Block, index: int, read: Tensor, write: Tensor) -> None:
        """Let a head write what it reads: (dimensions, width) and (width, dimensions)."""
        value, out = rows(block, 2, index), block.out[:, index * head : (index + 1) * head]
        if block is not first or len(read) > SLOT:
            value.zero_()
        value[: len(read)] = read
        out.zero_()
        out[:, : len(read)] = write

    def look_back(
        block: Block, index: int, distance: float, mark: int, pairs: Tensor, sharp: float, size: float
    ) -> None:
        """Attend to the place with the constant (mark 0) or the mark that is nearest to ``distance`` back."""
        query, key = rows(block, 0, index), rows(block, 1, index)
        query.zero_()
        key.zero_()
        scale = math.sqrt(sharp * math.sqrt(head)) / size
        query[:, 0] = scale * torch.cat([pairs, torch.zeros_like(pairs)])
        key[:, mark] = scale * torch.cat([pairs * torch.cos(rates * distance), pairs * torch.sin(rates * distance)])

    size = MEAN * float(unit)
    exact = 12.0 / float((fast * (1 - torch.cos(rates))).sum())
    look_back(first, 0, 1.0, 0, fast, exact, size)
    carry(first, 0, words, previous * 0.3)
    basis = torch.linalg.svd(net.number_features[:, :CONSTANT] @ net.number_map[:CONSTANT], full_matrices=False)[2]
    for index, distance in enumerate(DISTANCES, start=1):
        look_back(first, index, distance, 1, middle, 10.0, size)
        carry(first, index, basis[:SLOT], numbers[index - 1] * 0.08)
    two_back = 1 + len(DISTANCES)
    look_back(first, two_back, 2.0, 0, fast, exact, size)
    carry(first, two_back, words[:WIDE], before * 0.3)
    look_back(first, two_back + 1, 8.0, 0, ((rates < 0.1) & (rates > 0.01)).float(), 3.0, size)
    glue = torch.linalg.qr(table[plain].T)[0]
    carry(first, two_back + 1, words[:TOPIC] - words[:TOPIC] @ glue @ glue.T, told * 1.2)
    look_back(first, two_back + 2, 0.0, 0, fast, exact, size)
    carry(first, two_back + 2, words[:TOPIC] - words[:TOPIC] @ glue @ glue.T, told * -0.15)

    for block in list(net.blocks)[1:]:
        assert isinstance(block, Block)
        query, key, _ = block.qkv.chunk(3)
        key.copy_(query)
    grown = 0.16  # root mean square of the residual stream after layer 0, roughly

    query, key = rows(second, 0, 0), rows(second, 1, 0)
    query.zero_()
    key.zero_()
    query[steady(shape, WIDE + 2)] = words[: WIDE + 2] * 2.2
    key[steady(shape, WIDE + 2)] = previous[:, : WIDE + 2].T * 2.2
    carry(second, 0, words, words.T * 0.3)
    query, key = rows(second, 0, two_back), rows(second, 1, two_back)
    query.zero_()
    key.zero_()
    near, far = steady(shape, 10), steady(shape, 10, 5)
    query[near], query[far] = words[:10] * 3.0, previous[:, :10].T * 0.9
    key[near], key[far] = previous[:, :10].T * 3.0, before[:, :10].T * 3.0
    carry(second, two_back, words, words.T * 0.3)
    seen = words @ table[colon]
    after_colon = previous @ (seen / seen.norm())
    is_colon = words.T @ (seen / seen.norm())

    def match(block: Block, index: int, slot: Tensor, sharp: float, sure: float, grown: float) -> None:
        """Attend to answers of demos whose ``slot`` is like that of the present place, and copy them."""
        strength = 0.3 * float(unit) * float(seen.norm()) / grown  # of the previous-token slot after a colon
        query, key = rows(block, 0, index), rows(block, 1, index)
        used = steady(shape, slot.shape[1], 1)
        query[used] = slot.T * sharp
        key[used] = query[used]
        gate = steady(shape, 2)[0]
        query[gate] = 0.0
        query[gate, 0] = sure * grown / MEAN
        key[gate] = after_colon * (1.125 * sure / strength)
        if block is second:
            key[gate] -= is_colon * (0.75 * sure * grown / float(seen.norm()))
        key[gate, 1] = -0.75 * sure * grown / MEAN
        carry(block, index, words, words.T * 0.25)

    for index in range(1, two_back):
        match(second, index, numbers[index - 1], 2.5, 8.0, grown)
    values = torch.cat(numbers, 1)  # where no number is, these slots are free
    fetched = torch.cat([previous[:, :12], before[:, :6]], 1)
    for index, distance in enumerate(FIELDS):
        slot = values[:, index * WIDE : (index + 1) * WIDE]
        fetcher = two_back + 1 + index
        look_back(second, fetcher, distance, 2, middle, 10.0, MEAN / grown)
        carry(second, fetcher, fetched.T, slot * 0.35)
        match(third, 1 + index, slot, 2.0, 7.5, 2.4 * grown)
    fetcher = two_back + 1 + len(FIELDS)
    look_back(second, fetcher, 0.0, 3, ((rates < 0.02) & (rates > 0.002)).float(), 20.0, MEAN / grown)
    carry(second, fetcher, told.T, asked_of * 0.5)
    query, key = rows(third, 0, ASKED), rows(third, 1, ASKED)
    query[steady(shape, TOPIC, 1)] = asked_of.T * 3.0
    key[steady(shape, TOPIC, 1)] = told.T * 3.0
    gate = steady(shape, 2)[0]
    blank = words @ table[space]
    query[gate] = 0.0
    query[gate, 4] = 7.0 * 2.4 * grown / MEAN
    strength = 0.3 * float(unit) * float(blank.norm()) / (2.4 * grown)
    key[gate] = previous @ (blank / blank.norm()) * (7.0 / strength)
    near = int((rates > 0.01).sum()) - 1
    for part in (query, key):
        part[near] = 0.0
        part[near, 0] = math.sqrt(5.0 * math.sqrt(head)) * 2.4 * grown / MEAN
    carry(third, ASKED, words, words.T * 0.25)
