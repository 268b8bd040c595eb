"""Heads that are set up by hand in a trained network: it is widened, and heads that had learned nothing are replaced.

The new dimensions of the stream belong to these heads alone, so what they read is exact: marks, a code of each token's
direction at the output, and a slot. Normalization divides all of them by the stream's size, which differs from place
to place; so scores are zero where a head should look and negative elsewhere, not the other way round.

* Layer 0 finds out whose turn it is, whether a field's name is being written, whether a list of options is, and whether
  the token before was a colon or what parts options.
* Layer 1 gathers, at the assistant's places, the values that the user gave last.
* Layer 2 looks at the answers of demos whose user gave like values, and at the options that the system message lists,
  all alike. Both add what they find to the output.

Training goes on from there: it may change how much these heads write, and when, but not what they look for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from recipes.nano import tokens
from recipes.nano.attention import causal
from recipes.nano.episode import ASSISTANT, END, SYSTEM, USER
from recipes.nano.net import Block, Net, Shape, after_attention, attention_inputs, rope_rates

(CONSTANT, BY_USER, BY_ASSISTANT, BY_SYSTEM, COLON, AFTER_COLON, FIRST, LINE, NAMING, EVEN, SEPARATOR, AFTER_SEPARATOR,
 ONE_OF, LISTING, TURNS) = range(15)  # fmt: skip
SLOT, CODE = 16, 32
VALUES, BEFORE, IDENTITY = 16, 16 + SLOT, 16 + 2 * SLOT
EXTRA = 16 + 2 * SLOT + CODE
"""Dimensions of the stream that belong to these heads."""
MARK, SIZE = 0.2, 0.35
"""How large a mark, and a code of length one, is in an embedding."""
TURN, PREVIOUS, LINES, LISTS = 3, 4, 5, 2
"""Heads of layer 0 that are replaced: those for far numbers, which no later layer had learned to use."""
GIVEN = 5
LIKE, OPTIONS, ONWARD = 5, 0, 7
LOOKING = {0: (TURN, PREVIOUS, LINES, LISTS), 1: (GIVEN,)}
COPYING = {2: (LIKE, OPTIONS, ONWARD)}
STEADY = [8, 9, 10, 11, 12, 13, 24, 25, 26, 27, 28, 29, 30, 31, 7, 23]
"""Dimensions of a head of 32 that hardly turn over an episode, less two for gates."""


@torch.no_grad()
def widened(old: Net, values: list[float]) -> Net:
    """A network that computes what ``old`` does, with room for these heads."""
    was = old.shape
    shape = Shape(**{**was.plain(), "width": was.width + EXTRA, "owned": EXTRA})  # type: ignore[arg-type]
    net, width, keep = Net(shape, values), was.width, math.sqrt(was.width / (was.width + EXTRA))
    for name, weight in net.named_parameters():
        weight.zero_()
        given = old.get_parameter(name)
        if given.ndim == 1:
            weight[:width] = given * keep
        else:
            weight[tuple(slice(size) for size in given.shape)] = given
    for block in net.blocks:
        assert isinstance(block, Block)
        block.norm_attention[width:] = keep
    return net


def held(shape: Shape) -> dict[str, Tensor]:
    """What training leaves as it is: for each such parameter a mask of its shape, or one that broadcasts to it."""
    own = torch.arange(shape.width) >= shape.width - shape.owned
    marks = own | (torch.arange(shape.width) < 2)
    inside = shape.heads * shape.head

    def some(which: tuple[int, ...]) -> Tensor:
        mask = torch.zeros(shape.heads, shape.head, dtype=torch.bool)
        mask[list(which)] = True
        return mask.flatten()

    first, none = some(tuple(range(7))), torch.zeros(inside, dtype=torch.bool)
    found: dict[str, Tensor] = dict.fromkeys(("words", "number_map", "number_rest"), marks[None])
    found["blocks.0.norm_attention"] = marks
    for index in range(shape.layers):
        looking, copying = some(LOOKING.get(index, ())), some(COPYING.get(index, ()))
        both = looking | copying
        read = torch.cat([both, both, looking])[:, None] & own[None]
        if index == 0:
            read = read | torch.cat([first, first, looking])[:, None]
        found[f"blocks.{index}.qkv"] = read
        found[f"blocks.{index}.out"] = own[:, None] | looking[None]
        found[f"blocks.{index}.down"] = own[:, None] & torch.ones(shape.inner, dtype=torch.bool)[None]
        if index:
            found[f"blocks.{index}.norm_attention"] = own
        found[f"blocks.{index}.norm_mlp"] = own & none.any()
    return {name: mask for name, mask in found.items() if mask.any()}


def codes(net: Net) -> tuple[Tensor, Tensor]:
    """Each token's code, (vocabulary, CODE), and what turns codes into directions at the output, (CODE, width)."""
    width = net.shape.width - EXTRA
    wanted = net.embedding()[:, :width] * net.norm[:width]
    wanted = wanted - wanted[: net.shape.words].mean(0)
    wanted = wanted / wanted.norm(dim=1, keepdim=True)
    main = torch.linalg.svd(wanted[: net.shape.words], full_matrices=False)[2][:CODE]
    return wanted @ main.T, main


class _Head:
    """One head's rows of the query, key and value matrices and columns of the output matrix, empty at first."""

    def __init__(self, net: Net, layer: int, index: int, size: float) -> None:
        shape, block = net.shape, net.blocks[layer]
        assert isinstance(block, Block)
        inside, self.start = shape.heads * shape.head, shape.width - EXTRA
        places = [
            slice(which * inside + index * shape.head, which * inside + (index + 1) * shape.head) for which in range(3)
        ]
        self.query, self.key, self.value = (block.qkv.data[place] for place in places)
        self.out = block.out.data[:, index * shape.head : (index + 1) * shape.head]
        for part in (self.query, self.key, self.value, self.out):
            part.zero_()
        self.gain = float(block.norm_attention[self.start]) / size
        self.half, self.rates = shape.head // 2, rope_rates(shape)
        self.root = shape.head**0.25

    def score(self, pair: int, strength: float, asks: Mapping[int, float], has: Mapping[int, float]) -> None:
        """Add ``strength`` times what is asked for times what a place has, both counted in marks."""
        scale = math.sqrt(strength) * self.root / (MARK * self.gain)
        for mark, share in asks.items():
            self.query[pair, self.start + mark] += scale * share
        for mark, share in has.items():
            self.key[pair, self.start + mark] += scale * share

    def nearest(
        self, distance: float, has: Mapping[int, float], pairs: Mapping[int, float] = MappingProxyType({8: 0.8, 7: 0.2})
    ) -> None:
        """Let scores fall by one for each ``distance`` tokens, over all of the context."""
        for pair, share in pairs.items():
            scale = math.sqrt(share / (distance * float(self.rates[pair]))) * self.root / (MARK * self.gain)
            self.query[pair, self.start + CONSTANT] += scale
            for mark, part in has.items():
                self.key[pair + self.half, self.start + mark] -= scale * part

    def back(self, distance: float) -> None:
        """Look exactly ``distance`` tokens back."""
        fast = [pair for pair, rate in enumerate(self.rates.tolist()) if rate > 0.03]
        strength = 14.0 / sum(1 - math.cos(float(self.rates[pair])) for pair in fast)
        scale = math.sqrt(strength) * self.root / (MARK * self.gain)
        for pair in fast:
            turn = float(self.rates[pair]) * distance
            self.query[pair, self.start + CONSTANT] = scale
            self.key[pair, self.start + CONSTANT] = scale * math.cos(turn)
            self.key[pair + self.half, self.start + CONSTANT] = scale * math.sin(turn)

    def alike(self, places: list[int], asks: Tensor, has: Tensor, strength: float) -> None:
        """Add the product of what is read here and there, each (places, EXTRA), in units of codes."""
        scale = math.sqrt(strength) * self.root / (SIZE * self.gain)
        self.query[places, self.start :] += scale * asks
        self.key[places, self.start :] += scale * has

    def carry(self, moves: Mapping[int, int], first: int = 0) -> None:
        """Write marks to other marks as large as they are."""
        for place, (read, write) in enumerate(moves.items(), start=first):
            self.value[place, self.start + read] = 1 / self.gain
            self.out[self.start + write, place] = 1.0

    def gather(self, read: int, turn: Tensor, write: int, size: float, first: int = 0) -> None:
        """Write ``turn``, (SLOT, dimensions), of what stands at ``read`` to the slot at ``write``."""
        rows, columns = turn.shape
        self.value[first : first + rows, self.start + read : self.start + read + columns] = turn / self.gain
        for row in range(rows):
            self.out[self.start + write + row, first + row] = size

    def copy(self, main: Tensor, size: float) -> None:
        """Add the token that is found to the output."""
        share = math.sqrt(size)
        self.value[:CODE, self.start + IDENTITY :] = torch.eye(CODE) * share / (SIZE * self.gain)
        self.out[: main.shape[1], :CODE] = main.T * share


def _slot(at: int, size: int = SLOT) -> Tensor:
    """What reads the slot at ``at``: (size, EXTRA)."""
    made = torch.zeros(size, EXTRA)
    made[:, at : at + size] = torch.eye(size)
    return made


@torch.no_grad()
def embed(net: Net, tokenizer: Tokenizer, code: Tensor) -> None:
    """Write marks and codes into the embeddings."""
    start, words = net.shape.width - EXTRA, net.shape.words
    vocabulary = tokenizer.get_vocab()
    marked: dict[int, list[str]] = {
        BY_USER: [USER],
        BY_ASSISTANT: [ASSISTANT],
        BY_SYSTEM: [SYSTEM],
        FIRST: [SYSTEM],
        TURNS: [USER, ASSISTANT, SYSTEM],
        COLON: [tokens.COLON, ":"],
        LINE: ["\u010a", USER, ASSISTANT, SYSTEM, END],
        ONE_OF: ["one\u0120of\u0120"],
        SEPARATOR: ["one\u0120of\u0120", ",\u0120"],
    }
    net.words[:, start + CONSTANT] = MARK
    net.number_rest[:, start + CONSTANT] = MARK
    for mark, found in marked.items():
        net.words[[vocabulary[token] for token in found], start + mark] = MARK
    code = code.clone()
    code[[vocabulary[token] for token in marked[COLON]]] = 0.0
    code[words:] = 0.0  # numbers that are alike differ in their codes
    net.words[:, start + IDENTITY :] = SIZE * code[:words]
    net.number_rest[:, start + IDENTITY :] = SIZE * code[words:]


@torch.no_grad()
def wire_first(net: Net, mix: Tensor) -> None:
    """The heads of layer 0."""
    size = 0.112
    head = _Head(net, 0, TURN, size)
    head.nearest(4.0, {CONSTANT: 1})
    head.score(15, 200, {CONSTANT: 1}, {CONSTANT: -1, BY_USER: 1, BY_ASSISTANT: 1, BY_SYSTEM: 1})
    head.carry({BY_USER: BY_USER, BY_ASSISTANT: BY_ASSISTANT, BY_SYSTEM: BY_SYSTEM})
    head = _Head(net, 0, PREVIOUS, size)
    head.back(1.0)
    head.carry({COLON: AFTER_COLON, SEPARATOR: AFTER_SEPARATOR})
    head.gather(IDENTITY, mix, BEFORE, 1.0, first=2)
    for index, other, found in ((LINES, COLON, {LINE: NAMING}), (LISTS, ONE_OF, {ONE_OF: LISTING})):
        head = _Head(net, 0, index, size)
        head.nearest(0.6, {CONSTANT: 1})
        head.score(15, 200, {CONSTANT: 1}, {CONSTANT: -1, LINE: 1, other: 1})
        head.carry(found)


@torch.no_grad()
def wire_rest(net: Net, mix: Tensor, main: Tensor, first: float) -> None:
    """The heads of layers 1 and 2; ``first`` is the even mark of the first token, which heads rest on."""
    size = 0.3
    head = _Head(net, 1, GIVEN, size)
    head.nearest(8.0, {EVEN: 1, FIRST: -first})
    head.score(15, 12, {CONSTANT: 1}, {BY_ASSISTANT: -1, BY_SYSTEM: -1, FIRST: 3, NAMING: -1, COLON: -1})
    head.score(14, 40, {CONSTANT: 0.5, BY_ASSISTANT: -1}, {FIRST: 1})
    head.gather(IDENTITY, mix, VALUES, 6.0)
    size = 1.25
    beginning = {CONSTANT: 1.5, COLON: -1, BY_ASSISTANT: -1}
    head = _Head(net, 2, LIKE, size)
    head.alike(STEADY, _slot(VALUES), _slot(VALUES), 2.5)
    head.score(15, 60, {CONSTANT: 1}, {CONSTANT: -1, AFTER_COLON: 1, BY_USER: -1, BY_SYSTEM: -1, FIRST: 3})
    head.score(14, 60, {**beginning, CONSTANT: 2.1}, {FIRST: 1})
    head.copy(main, 24.0)
    own = torch.zeros(SLOT, EXTRA)
    own[:, IDENTITY:] = mix
    head = _Head(net, 2, ONWARD, size)
    head.alike(STEADY[:8], _slot(VALUES)[:8], _slot(VALUES)[:8], 2.5)
    head.alike(STEADY[8:14], own[8:14], _slot(BEFORE)[8:14], 60.0)
    head.score(15, 60, {CONSTANT: 1}, {CONSTANT: -1, BY_ASSISTANT: 1, AFTER_COLON: -1, TURNS: -2, FIRST: 3})
    head.score(14, 60, {CONSTANT: 1.1, COLON: 1, BY_ASSISTANT: -1}, {FIRST: 1})
    head.copy(main, 24.0)
    head = _Head(net, 2, OPTIONS, size)
    wanted = {CONSTANT: -2, AFTER_SEPARATOR: 1, LISTING: 1, BY_USER: -1, BY_ASSISTANT: -1, FIRST: 3}
    head.score(15, 40, {CONSTANT: 1}, wanted)
    head.score(14, 60, beginning, {FIRST: 1})
    head.copy(main, 6.0)


@torch.no_grad()
def stream_sizes(net: Net, batches: Sequence[Tensor]) -> Tensor:
    """How large the stream is after layer 0, on average, by token: (vocabulary)."""
    count = net.shape.vocabulary
    total, seen, block = torch.zeros(count), torch.zeros(count), net.blocks[0]
    assert isinstance(block, Block)
    qkv, out, gate_up, down, before, after = block.parameters()
    for ids in batches:
        length = ids.shape[1]
        stream = F.embedding(ids, net.embedding())
        inputs = attention_inputs(stream, qkv, before, net.cosines[:length], net.sines[:length], net.shape.epsilon)
        stream = after_attention(stream, causal(*inputs), out, after, gate_up, down, net.shape.epsilon)
        total.index_add_(0, ids.flatten(), stream.pow(2).mean(-1).sqrt().flatten())
        seen.index_add_(0, ids.flatten(), torch.ones(ids.numel()))
    found = total / seen.clamp_min(1)
    for part in (slice(None, net.shape.words), slice(net.shape.words, None)):
        found[part][seen[part] == 0] = found[part][seen[part] > 0].mean()
    return found


@torch.no_grad()
def grown(old: Net, values: list[float], tokenizer: Tokenizer, batches: Sequence[Tensor], seed: int = 0) -> Net:
    """``old`` with these heads; ``batches`` are rows of tokens that tell how large the stream is."""
    net = widened(old, values)
    words = net.shape.words
    code, main = codes(net)
    turned = torch.linalg.qr(torch.randn(CODE, CODE, generator=torch.Generator().manual_seed(seed)))[0][:SLOT]
    mix = turned / code[:words].pow(2).mean(0).sqrt()  # no direction outweighs the others
    sizes = (code @ mix.T).norm(dim=1)
    mix = mix / sizes[:words].median()
    code = code / (sizes / sizes[:words].median()).clamp_min(0.3)[:, None]
    embed(net, tokenizer, code)
    wire_first(net, mix)
    even = stream_sizes(net, batches)
    usual, start = 0.3, net.shape.width - EXTRA
    net.words[:, start + EVEN] = MARK * even[:words] / usual
    net.number_rest[:, start + EVEN] = MARK * even[words:] / usual
    wire_rest(net, mix, main, float(even[tokens.token_id(tokenizer, SYSTEM)]) / usual)
    return net
