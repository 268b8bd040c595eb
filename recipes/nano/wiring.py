"""What is built into the network before training. What :func:`held` names stays as it is, the rest is trained.

* The first dimensions of the residual stream are the circuits' own: only wired heads write to them, and the layers
  above the first read them unnormalized (:func:`follow`), so that what is wired works the same however the rest grows.
  In embeddings they are marks: a constant, numbers, the ends of lines, the beginnings of turns, the colon before a
  value, the words before options. Through rotary positions the constant lets a head look a fixed distance back, and a
  mark lets it look for the marked token nearest to a distance.
* Layer 0: two heads write the previous token and the one before it to slots, and six the numbers about 4 to 30 tokens
  back. One writes the mean of the last twenty tokens or so, less those that every sentence has: what the text there
  tells of. One writes the mean of the last five or so. One says whether options are named anywhere before, one whether
  the present turn is an answer. One keeps what tells the token itself, which layer 1 drowns.
* Layer 1: four induction heads look for an earlier place that follows the present token; one of them asks for the same
  token before it too, and two for much the same five tokens, as names share their pieces. Where options are named and
  numbers are near, match heads compare number slots with those of earlier answers. All copy what they find to the
  output. Three more heads look for the ends of the last three fields and fetch the two tokens before each: the fields'
  values, as far as two tokens tell them.
* Layer 2: where options are named, match heads compare fields' values as those of layer 1 compare numbers.
* Apart from these, queries and keys of the layers above start equal, as a similarity kernel.
* A word's token starts close to that of the same word joined to a space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.nano.net import Block, Net, Shape, rope_rates
from recipes.nano.numbers import CONSTANT

MEAN = 0.35
"""Size of a mark."""
LOUD = 4.0
"""How many times as large the layers above the first read the circuits' own dimensions as they are written."""
ONE, NUMBER, FIELD_END, NEW_LINE, COLON, LISTS, TURN, REPLY, START, AFTER, NUMBERS, OPTIONS, REPLYING = range(13)
"""Dimensions of the marks: the constant, what the present token is (up to ``START``; ``LISTS`` are the words before
options; ``TURN``, ``REPLY`` and ``START`` begin any turn, an answer and a chat), that a colon is before it, that a number
is near, that options are named, that it is part of an answer."""
MARKS, TOPIC, RECENT = 13, 18, 20
"""Dimensions of the marks, of what the text tells of, of the last few tokens."""
WORD, BEFORE = 30, 18
"""Dimensions that tell words apart, and of the slot of the token before the previous one."""
DISTANCES = (4.0, 9.0, 13.5, 18.5, 24.0, 30.0)
FIELDS = ((FIELD_END, 3.4), (NEW_LINE, 9.7), (NEW_LINE, 16.5))
"""How far back, in tokens, numbers and the ends of fields are looked for; all but the last field end with a line."""
SLOT, WIDE = 14, 18
"""Dimensions of the slots of a number and of a field, which are the same; what heads carry besides is learned."""
OWN = MARKS + TOPIC + RECENT + WORD + SLOT * len(DISTANCES)
"""Dimensions of the residual stream that only wired heads write to."""
MATCHING = range(1, 1 + len(DISTANCES))
BIGRAM = MATCHING.stop
FETCHING = range(BIGRAM + 1, BIGRAM + 1 + len(FIELDS))
PHRASES = range(FETCHING.stop, FETCHING.stop + 2)
"""Heads of layer 1, after the first, which is the plain induction head."""
PREVIOUS_TWO, TELLS, LATEST, NAMED, SAME, TURNS = range(MATCHING.stop, MATCHING.stop + 6)
"""Heads of layer 0, after the previous token's and those of numbers."""
COMPARING = range(1, 1 + len(FIELDS))
"""Heads of layer 2 that compare fields."""


def held(shape: Shape) -> dict[str, Tensor]:
    """What training must leave as it is: for each such parameter a mask that broadcasts to it."""

    def some(layer: int, heads: Sequence[int], places: slice = slice(None)) -> Tensor:
        mask = torch.zeros(shape.heads_of(layer), shape.head, dtype=torch.bool)
        for index in heads:
            mask[index, places] = True
        return mask.flatten()

    own = torch.arange(shape.width) < OWN
    looking = some(0, range(TURNS + 1))
    carried = looking & ~some(0, MATCHING, slice(SLOT, None)) | some(0, MATCHING[:1], slice(SLOT, SLOT + 1))
    fetched = some(1, FETCHING)
    compared = fetched | some(1, [*MATCHING, *PHRASES])
    upper = some(2, COMPARING)
    return {
        "words": own,
        "number_map": own,
        "number_rest": own,
        **{f"blocks.{index}.norm_attention": own for index in range(shape.layers)},
        "blocks.0.qkv": torch.cat([looking, looking, carried])[:, None],
        "blocks.0.out": own[:, None] | carried,
        "blocks.1.qkv": torch.cat([compared, compared, fetched])[:, None],
        "blocks.1.out": own[:, None] | fetched,
        "blocks.2.qkv": torch.cat([upper, upper, torch.zeros_like(upper)])[:, None],
        **{f"blocks.{index}.out": own[:, None] for index in range(2, shape.layers)},
        **{f"blocks.{index}.down": own[:, None] for index in range(shape.layers)},
    }


@torch.no_grad()
def follow(net: Net, share: float) -> None:
    """Let the gains of the circuits' own dimensions follow the size of the stream, which they thereby undo.

    ``share`` is how much the last batch counts for.
    """
    for block, size in zip(list(net.blocks)[1:], net.sizes[1:], strict=True):
        assert isinstance(block, Block)
        block.norm_attention[:OWN].lerp_(LOUD * size.to(block.norm_attention), share)


def steady(shape: Shape, count: int, start: int = 0) -> Tensor:
    """``count`` dimensions of a head, in pairs, that hardly turn over an episode, less ``start`` slowest pairs."""
    chosen = torch.argsort(rope_rates(shape))[start : start + count // 2]
    return torch.cat([chosen, chosen + shape.head // 2])


def _orthonormal(rows: int, columns: int) -> Tensor:
    made: Tensor = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns)))[0]
    return made if rows >= columns else made.T


class Known(NamedTuple):
    """Tokens that circuits know."""

    twins: list[tuple[int, int]]
    """Pairs of one word with and without what joins it to the word before."""
    colon: int
    """The one before a value."""
    ends: list[int]
    """Those that end a field."""
    new_line: int
    """The one that ends a line."""
    turns: list[int]
    """Those that begin a turn, the chat's first, an answer's last."""
    plain: list[int]
    """Those that tell nothing of what a text is about."""
    options: int
    """The one before options."""


@torch.no_grad()
def wire(net: Net, known: Known) -> None:
    """Set up the embeddings and the heads of a fresh network."""
    shape = net.shape
    width, head = shape.width, shape.head
    for joined, bare in known.twins:
        if joined < shape.words and bare < shape.words:
            net.words[joined] = 0.9 * net.words[bare] + 0.436 * net.words[joined]
    net.words[:, :OWN] = 0.0
    net.words[:, ONE] = MEAN
    net.words[known.ends, FIELD_END] = MEAN
    net.words[known.new_line, NEW_LINE] = MEAN
    net.words[known.colon, COLON] = MEAN
    net.words[known.options, LISTS] = MEAN
    net.words[known.turns, TURN] = MEAN
    net.words[known.turns[-1], REPLY] = MEAN
    net.words[known.turns[0], START] = MEAN
    net.number_map[:, :OWN] = 0.0
    numbered = net.number_features @ net.number_map  # as long as words: normalization shrinks the marks of long ones
    net.number_map *= net.words[:, OWN:].norm(dim=1).mean() / numbered.norm(dim=1).mean()
    net.number_rest[:, :OWN] = 0.0
    net.number_map[CONSTANT, [ONE, NUMBER]] = MEAN / 0.35
    rates = rope_rates(shape)
    table = net.embedding()
    unit = math.sqrt(width) / float(table.norm(dim=1).mean())  # what normalization multiplies an embedding by
    own = torch.eye(width)
    told, recent, same, values = own[:, MARKS:OWN].split([TOPIC, RECENT, WORD, SLOT * len(DISTANCES)], 1)
    numbers = values.split(SLOT, 1)
    free = torch.cat([torch.zeros(OWN, width - OWN), _orthonormal(width - OWN, width - OWN)])
    previous, before, words = free[:, : 2 * WORD + BEFORE].split([WORD, BEFORE, WORD], 1)
    words = words.T  # what tells words apart
    for silent in (
        known.colon,
        known.turns[0],
    ):  # induction finds any value after a colon; a start is copied as nothing
        net.words[silent] -= words.T @ words @ net.words[silent]
    fast = (rates > 0.03).float()
    middle = ((rates < 0.5) & (rates > 0.02)).float()
    first, second, third = net.blocks[0], net.blocks[1], net.blocks[2]
    assert isinstance(first, Block)
    assert isinstance(second, Block)
    assert isinstance(third, Block)
    for block in list(net.blocks)[1:]:
        assert isinstance(block, Block)
        query, key, _ = block.qkv.chunk(3)
        key.copy_(query)

    def part(block: Block, which: int, index: int) -> Tensor:
        """The rows of one head's query (0), key (1) or value (2) matrix."""
        start = which * (block.qkv.shape[0] // 3) + index * head
        return block.qkv[start : start + head]

    def looks(block: Block, index: int) -> tuple[Tensor, Tensor]:
        """The query and key matrices of a head, empty."""
        return part(block, 0, index).zero_(), part(block, 1, index).zero_()

    def carry(block: Block, index: int, read: Tensor, write: Tensor, learned: bool = False) -> None:
        """Let a head write what it reads: (dimensions, width) and (width, dimensions); the rest may be ``learned``."""
        value, out = part(block, 2, index), block.out[:, index * head : (index + 1) * head]
        if not learned:
            value.zero_()
        value[: len(read)] = read
        out.zero_()
        out[:, : len(read)] = write

    def look_back(
        block: Block, index: int, distance: float, mark: int, pairs: Tensor, sharp: float, size: float = MEAN * LOUD
    ) -> None:
        """Attend to the place with the mark that is nearest to ``distance`` back; marks are of ``size``."""
        query, key = looks(block, index)
        scale = math.sqrt(sharp * math.sqrt(head) / float(pairs.sum())) / size
        query[:, ONE] = scale * torch.cat([pairs, torch.zeros_like(pairs)])
        key[:, mark] = scale * torch.cat([pairs * torch.cos(rates * distance), pairs * torch.sin(rates * distance)])

    def meet(block: Block, index: int, places: Tensor, asks: Tensor, tells: Tensor, peak: float, size: float) -> None:
        """Add to what a head compares: (width, dimensions) of query and key; ``peak`` is what full likeness counts,
        where the product of the two has ``size``."""
        scale = math.sqrt(peak * math.sqrt(head) / size)
        part(block, 0, index)[places] = scale * asks.T
        part(block, 1, index)[places] = scale * tells.T

    size = MEAN * unit
    exact = 12.0 * float(fast.sum() / (fast * (1 - torch.cos(rates))).sum())
    glue = torch.linalg.qr(table[known.plain].T)[0]
    basis = torch.linalg.svd(net.number_features[:, :CONSTANT] @ net.number_map[:CONSTANT], full_matrices=False)[2]
    look_back(first, 0, 1.0, ONE, fast, exact, size)
    carry(first, 0, torch.cat([words, own[[COLON]] / unit]), torch.cat([previous * 0.3, own[:, [AFTER]]], 1))
    for index, distance, slot in zip(MATCHING, DISTANCES, numbers, strict=True):
        look_back(first, index, distance, NUMBER, middle, 20.0, size)
        carry(first, index, basis[:SLOT], slot * 0.08, learned=True)
    near = MATCHING[0]
    part(first, 2, near)[SLOT] = own[NUMBER] / unit
    first.out[:, near * head + SLOT] = own[:, NUMBERS]
    look_back(first, PREVIOUS_TWO, 2.0, ONE, fast, exact, size)
    carry(first, PREVIOUS_TWO, words[:BEFORE], before * 0.3)
    look_back(first, TELLS, 8.0, ONE, ((rates < 0.1) & (rates > 0.01)).float(), 9.0, size)
    carry(first, TELLS, words[:TOPIC] - words[:TOPIC] @ glue @ glue.T, told * 1.2)
    look_back(first, LATEST, 2.5, ONE, ((rates < 0.5) & (rates > 0.05)).float(), 8.0, size)
    carry(first, LATEST, words[WORD - RECENT :], recent * 0.15)
    query, key = looks(first, NAMED)
    slowest = steady(shape, 2)[0]
    query[slowest, ONE] = key[slowest, LISTS] = math.sqrt(13.0 * math.sqrt(head)) / size
    carry(first, NAMED, own[[LISTS]] / unit, own[:, [OPTIONS]])
    look_back(first, TURNS, 0.0, TURN, ((rates < 0.1) & (rates > 0.002)).float(), 40.0, size)
    carry(first, TURNS, own[[REPLY]] / unit, own[:, [REPLYING]])
    look_back(first, SAME, 0.0, ONE, fast, exact, size)
    carry(first, SAME, words, same * 0.3)

    seen = float((unit * table[: shape.words] @ words.T).pow(2).mean())  # of each dimension of a token
    grown = 0.17  # root mean square of the stream after layer 0, roughly
    present, earlier = 1 / (unit * grown), 0.3 / grown  # sizes of a token and of a slot, in those of a normal embedding
    looks(second, 0)
    meet(second, 0, steady(shape, 20), words[:20].T, previous[:, :20], 17.0, 20 * seen * present * earlier)
    looks(second, BIGRAM)
    left, right = steady(shape, 10), steady(shape, 10, 5)
    meet(second, BIGRAM, left, words[:10].T, previous[:, :10], 15.0, 10 * seen * present * earlier)
    meet(second, BIGRAM, right, previous[:, :10], before[:, :10], 5.0, 10 * seen * earlier * earlier)
    alike = (0.15 * LOUD) ** 2 * 10 * seen * 0.21  # of ten dimensions of the last few tokens
    for index, start in zip(PHRASES, (0, 10), strict=True):
        looks(second, index)
        some = slice(start, start + 10)
        meet(second, index, left, words[some].T, previous[:, some], 14.0, 10 * seen * present * earlier)
        meet(second, index, right, recent[:, some], recent[:, some], 6.0, alike)
    for index in (0, BIGRAM, *PHRASES):
        carry(second, index, words, words.T * 0.3)

    def match(block: Block, index: int, slot: Tensor, peak: float, size: float, sure: float, gate: Tensor) -> None:
        """Attend to answers of demos whose ``slot`` is like that of the present place, and copy them, if the ``gate``
        is open (above zero), else to the start, of which nothing is copied."""
        query, key = looks(block, index)
        meet(block, index, steady(shape, slot.shape[1], 1), slot, slot, peak, size * LOUD**2)
        scale = math.sqrt(2 * sure * math.sqrt(head)) / (MEAN * LOUD)
        query[slowest] = scale * gate
        key[slowest] = scale * (own[AFTER] + own[REPLYING] - own[ONE] - own[COLON] - own[NUMBER] - 6 * own[START])
        if block is second:
            carry(block, index, words, words.T * 0.75)
        else:
            carry(block, index, same.T, words.T * (7.5 / (0.3 * unit * LOUD)))

    named = own[OPTIONS] + own[COLON] - 1.5 * own[ONE]
    counted = own[NUMBERS] + named - own[ONE]
    lengths = 0.08 * math.sqrt(width) * torch.nn.functional.normalize(table[shape.words :], dim=1) @ basis[:SLOT].T
    for index, slot in zip(MATCHING, numbers, strict=True):
        match(second, index, slot, 45.0, float(lengths.norm(dim=1).pow(2).mean()), 26.0, counted)
    fetched = torch.cat([previous[:, :12], before[:, :6]], 1)
    for index, (fetcher, comparer, (mark, distance)) in enumerate(zip(FETCHING, COMPARING, FIELDS, strict=True)):
        slot = values[:, index * WIDE : (index + 1) * WIDE]
        look_back(second, fetcher, distance, mark, middle, 14.0)
        carry(second, fetcher, fetched.T, slot * 0.2)
        match(third, comparer, slot, 70.0, (0.2 * earlier) ** 2 * WIDE * seen, 40.0, named)
