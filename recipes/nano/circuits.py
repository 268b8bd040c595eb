"""Heads that are set up by hand in a trained network, in place of heads that had learned little.

They find the demo whose user gave the likest values and say its answer, go on with a label or a name that is begun, and
tell the options of a task that has no demos.

* Layer 0 sees whose turn it is, whether a field's name or a list of options is being written, how long turns are, and
  the two tokens before.
* Layer 1 gathers the values that the user gave last, where the assistant's value begins, and their squared length; and
  sees whether options are listed at all.
* Layer 2 brings those values to the assistant's next places, looks at all options alike, and goes on with what the user
  has written, if the last two tokens stand there.
* Layer 3 looks at the first token of those demos' answers whose values are near, as a kernel of their distance; and,
  once a label is begun, at the next token of near demos' labels, or of an option where no demo goes on so.

Training goes on from there. It may change how much these heads write, but not what they look for, and neither
embeddings nor layer 0: what they read is divided by the stream's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from recipes.nano import layout as at
from recipes.nano import tokens
from recipes.nano.attention import causal
from recipes.nano.codes import Codes
from recipes.nano.episode import ASSISTANT, END, SYSTEM, USER
from recipes.nano.heads import FIRST_GATE, FOURTH_GATE, SECOND_GATE, STEADY, THIRD_GATE, Head
from recipes.nano.layout import CONSTANT, EXTRA, FIRST, MARK, SIZE
from recipes.nano.net import Block, Net, after_attention, attention_inputs

DENSITY, TURN, PREVIOUS, LINES = 2, 3, 4, 5
"""Heads of layer 0 that are replaced: those for far numbers, which no later layer had learned to use."""
GATE, GIVEN = 3, 5
OPTIONS, BRING, REPEAT = 0, 5, 7
LIKE, ONWARD = 0, 1
DEMOS = 3
"""The layer whose heads find answers of demos."""
LOOKING = {0: (DENSITY, TURN, PREVIOUS, LINES), 1: (GATE, GIVEN), 2: (BRING,)}
"""By layer, heads that write to dimensions of their own."""
COPYING = {2: (OPTIONS, REPEAT), DEMOS: (LIKE, ONWARD)}
"""By layer, heads that add what they find to the output."""
SQUARES = 32
"""Neurons of layer 1 that tell how long the gathered values are, squared."""
SIZES = (0.112, 0.3, 0.87, 1.0)
"""How large the stream is before the layers, roughly, where these heads read it."""
BETWEEN = 0.92
"""And within layer 1, after its attention, where an assistant's value begins."""
SINK = 3.7
"""How much more the first token's marks must weigh in the layer of `DEMOS`, where its stream has become large."""
GATHERED = 6.0
"""How many times as large as in the embeddings the gathered values are."""
CLOSE = 250.0
"""How fast likeness falls with the squared distance of the values."""
AFRESH = {CONSTANT: 3.0, at.COLON: -1.0, at.BY_ASSISTANT: -0.85, at.HAS_OPTIONS: -1.0}
"""Nothing where the assistant's value of a task with options begins, positive elsewhere."""
TWO_BACK = 0.25
"""How much the token before the last weighs against the last, where a place asks for what follows both."""


@torch.no_grad()
def mark(net: Net, tokenizer: Tokenizer, codes: Codes) -> None:
    """Write marks and codes into the embeddings."""
    start, words = net.shape.width - EXTRA, net.shape.words
    vocabulary = tokenizer.get_vocab()
    marked: dict[int, list[str]] = {
        FIRST: [SYSTEM],
        at.COLON: [tokens.COLON, ":"],
        at.LINE: ["\u010a", USER, ASSISTANT, SYSTEM, END],
        at.ONE_OF: ["one\u0120of\u0120"],
        at.SEPARATOR: ["one\u0120of\u0120", ",\u0120"],
    }
    net.words[:, start + CONSTANT] = MARK
    net.number_rest[:, start + CONSTANT] = MARK
    net.number_rest[:, start + at.NUMBER] = MARK
    for which, found in marked.items():
        net.words[[vocabulary[token] for token in found], start + which] = MARK
    net.words[vocabulary[USER], start + at.BY_USER] = MARK * at.ROLE
    net.words[vocabulary[ASSISTANT], start + at.BY_ASSISTANT] = MARK * at.ROLE
    code = codes.token.clone()
    code[[vocabulary[token] for token in (*marked[at.COLON], USER, ASSISTANT, SYSTEM)]] = 0.0
    net.words[:, start + at.IDENTITY :] = SIZE * code[:words]
    net.number_rest[:, start + at.IDENTITY :] = SIZE * code[words:]
    for _ in range(6):  # these marks count in the size that they tell
        size = net.embedding().pow(2).mean(1).sqrt() / SIZES[0]
        for which, value in ((at.EVEN_FIRST, MARK * size), (at.MATCH, MARK / size)):
            net.words[:, start + which], net.number_rest[:, start + which] = value[:words], value[words:]
        apart = [vocabulary[token] for token in marked[at.SEPARATOR]]
        net.words[apart, start + at.SEPARATOR] = MARK * size[apart]  # so that no option stands out


@torch.no_grad()
def mark_sizes(net: Net, batches: Sequence[Tensor]) -> float:
    """Mark tokens by how large the stream is after layer 0, on average over ``batches``, each (rows, length).

    Returns the mark of the first token of a chat, in marks.
    """
    start, words = net.shape.width - EXTRA, net.shape.words
    total, seen, block = torch.zeros(net.shape.vocabulary), torch.zeros(net.shape.vocabulary), net.blocks[0]
    assert isinstance(block, Block)
    qkv, out, gate_up, down, before, after = block.parameters()
    for ids in batches:
        length = ids.shape[1]
        stream = F.embedding(ids, net.embedding())
        inputs = attention_inputs(stream, qkv, before, net.cosines[:length], net.sines[:length], net.shape.epsilon)
        stream = after_attention(stream, causal(*inputs), out, after, gate_up, down, net.shape.epsilon)
        total.index_add_(0, ids.flatten(), stream.pow(2).mean(-1).sqrt().flatten())
        seen.index_add_(0, ids.flatten(), torch.ones(ids.numel()))
    found = total / seen.clamp_min(1) / SIZES[1]
    for part in (slice(None, words), slice(words, None)):
        found[part][seen[part] == 0] = found[part][seen[part] > 0].mean()
    net.words[:, start + at.EVEN] = MARK * found[:words]
    net.number_rest[:, start + at.EVEN] = MARK * found[words:]
    return float(found[int(batches[0][0, 0])])


@torch.no_grad()
def set_up_first(net: Net, codes: Codes) -> None:
    """The heads of layer 0."""
    head = Head(net, 0, TURN, SIZES[0])
    head.nearest(1.5, {at.EVEN_FIRST: 1}, asks=at.EVEN_FIRST)
    roles = {CONSTANT: -1, at.BY_USER: 1 / at.ROLE, at.BY_ASSISTANT: 1 / at.ROLE, FIRST: 1}
    head.score(FIRST_GATE, 200, {CONSTANT: 1}, roles)
    head.carry({at.BY_USER: at.BY_USER, at.BY_ASSISTANT: at.BY_ASSISTANT}, size=1 / at.ROLE)
    head = Head(net, 0, PREVIOUS, SIZES[0])
    head.back(1.45)  # four fifths at the token before, one fifth at the one before that
    head.carry({at.COLON: at.AFTER_COLON, at.SEPARATOR: at.AFTER_SEPARATOR})
    head.gather(at.IDENTITY, codes.mix, at.BEFORE, 1.0, first=2)
    head = Head(net, 0, LINES, SIZES[0])
    head.nearest(0.6, {at.EVEN_FIRST: 1}, asks=at.EVEN_FIRST)
    head.score(FIRST_GATE, 200, {CONSTANT: 1}, {CONSTANT: -1, at.LINE: 1, at.COLON: 1, at.ONE_OF: 1})
    head.carry({at.LINE: at.NAMING, at.ONE_OF: at.LISTING})
    head = Head(net, 0, DENSITY, SIZES[0])  # looks at all places alike
    head.carry({at.BY_USER: at.TURNS}, size=20 / at.ROLE)


@torch.no_grad()
def set_up_rest(net: Net, codes: Codes, first: float) -> None:
    """The heads of the layers above; ``first`` is what `mark_sizes` returned."""
    level = {at.EVEN: 1.0, FIRST: -first}  # falls with distance, but for the token that heads rest on
    head = Head(net, 1, GIVEN, SIZES[1])
    head.nearest(4.5, level, asks=at.TURNS)
    values = {CONSTANT: -1, at.BY_USER: 1, at.NAMING: -2, at.COLON: -2, FIRST: 1}
    head.score(FIRST_GATE, 12, {CONSTANT: 1}, values)
    head.score(SECOND_GATE, 100, {CONSTANT: 1.6, at.BY_ASSISTANT: -0.85, at.COLON: -1}, {FIRST: 1})
    head.gather(at.IDENTITY, codes.mix, at.VALUES, GATHERED)
    head = Head(net, 1, GATE, SIZES[1])
    head.score(FIRST_GATE, 60, {CONSTANT: 1}, {CONSTANT: -1, at.ONE_OF: 1, FIRST: 0.9})
    head.carry({at.ONE_OF: at.HAS_OPTIONS}, size=1.7)
    _squares(net)
    head = Head(net, 2, BRING, SIZES[2])
    head.nearest(0.6, level)
    head.score(FIRST_GATE, 60, {CONSTANT: 1}, {CONSTANT: -1, at.COLON: 1, FIRST: 1})
    head.score(SECOND_GATE, 60, {CONSTANT: 0.5, at.BY_ASSISTANT: -1, at.COLON: 1}, {FIRST: 1})
    head.gather(at.VALUES, torch.eye(at.SLOT), at.VALUES, 1.0)
    head.carry({at.NEAR_LENGTH: at.NEAR_LENGTH, at.REST_LENGTH: at.REST_LENGTH}, first=at.SLOT)
    head = Head(net, 2, OPTIONS, SIZES[3])
    head.score(FIRST_GATE, 40, {CONSTANT: 1}, {CONSTANT: -2, at.AFTER_SEPARATOR: 1.25, at.LISTING: 1, FIRST: 2})
    head.score(SECOND_GATE, 20, {**AFRESH, CONSTANT: 2.7}, {FIRST: 1})
    head.copy(codes.main, 6.0)
    _repeat(net, codes, level)
    head = Head(net, DEMOS, LIKE, SIZES[3])
    compared = at.slot(at.VALUES, len(STEADY))
    head.alike(STEADY, compared, compared, CLOSE / GATHERED**2)
    head.lengths(CLOSE, [at.NEAR_LENGTH, at.REST_LENGTH])
    answers = {CONSTANT: -3, at.AFTER_COLON: 1.2, at.BY_ASSISTANT: 1.7, at.NAMING: -1, at.NUMBER: -1, FIRST: 4}
    head.score(FIRST_GATE, 100, {CONSTANT: 1}, answers)
    head.score(SECOND_GATE, 150, {**AFRESH, CONSTANT: 2.6}, {FIRST: SINK})
    head.copy(codes.main, 12.0)
    _onward(net, codes)


def _after(codes: Codes, rows: slice) -> tuple[Tensor, Tensor]:
    """What asks for places that follow the last two tokens, and what such places have, each (rows, EXTRA)."""
    asks, has = torch.zeros(at.SLOT, EXTRA), at.slot(at.BEFORE, at.SLOT)
    asks[:, at.IDENTITY :] = codes.mix
    return (asks + TWO_BACK * has)[rows], has[rows]


def _repeat(net: Net, codes: Codes, level: dict[int, float]) -> None:
    head, strength = Head(net, 2, REPEAT, SIZES[3]), 100.0
    places = [9, 10, 11, 12, 13, 25, 26, 27, 28, 29, 30]
    head.nearest(4.0, level, asks=at.TURNS)
    head.alike(places, *_after(codes, slice(len(places))), strength)
    head.score(THIRD_GATE, 0.65 * strength, {at.MATCH: 1}, {CONSTANT: -1, FIRST: 1})
    by_user = {CONSTANT: -1, at.BY_USER: 0.85, at.NUMBER: -1, at.NAMING: -0.3, FIRST: 1.3}
    head.score(FIRST_GATE, 100, {CONSTANT: 1}, by_user)
    free = {at.COLON: 1, at.NAMING: 1, at.NUMBER: 1, at.BY_ASSISTANT: -0.85, at.HAS_OPTIONS: 0.5}
    head.score(SECOND_GATE, 150, {CONSTANT: 0.5, **free}, {FIRST: 1})
    head.copy(codes.main, 8.0)


def _onward(net: Net, codes: Codes) -> None:
    head, strength = Head(net, DEMOS, ONWARD, SIZES[3]), 240.0
    near = at.slot(at.VALUES, at.NEAR)
    head.alike(STEADY[: at.NEAR], near, near, CLOSE / GATHERED**2)
    head.lengths(CLOSE, [at.NEAR_LENGTH])
    places = [place for place in STEADY[at.NEAR :] if place != FOURTH_GATE]
    head.alike(places, *_after(codes, slice(at.NEAR, at.COMPARED)), strength)
    head.score(FOURTH_GATE, 0.4 * strength, {at.MATCH: 1}, {CONSTANT: -1, FIRST: 1})
    later = {CONSTANT: -1, at.BY_ASSISTANT: 0.85, at.COLON: -1, at.AFTER_COLON: -1.25, at.NUMBER: -1, FIRST: 1}
    later |= {at.LISTING: 1, at.SEPARATOR: -2}
    head.score(FIRST_GATE, 60, {CONSTANT: 1}, later)
    begun = {at.COLON: 1, at.NAMING: 1, at.NUMBER: 1, at.BY_ASSISTANT: -0.85, at.HAS_OPTIONS: -1}
    head.score(SECOND_GATE, 300, {CONSTANT: 1.4, **begun}, {FIRST: SINK})
    head.copy(codes.main, 12.0)


def _squares(net: Net) -> None:
    """Neurons of layer 1 that write the squared length of both parts of the gathered values."""
    block, start, inner = net.blocks[1], net.shape.width - EXTRA, net.shape.inner
    assert isinstance(block, Block)
    scale = BETWEEN / (GATHERED * SIZE * float(block.norm_mlp[start]))
    for place in range(len(STEADY)):
        for side, sign in enumerate((1.0, -1.0)):  # silu(z) z + silu(-z) (-z) is the square of z
            neuron = inner - SQUARES + 2 * place + side
            for half in (0, inner):
                block.gate_up[half + neuron, start + at.VALUES + place] = sign * scale
            length = at.NEAR_LENGTH if place < at.NEAR else at.REST_LENGTH
            block.down[start + length, neuron] = MARK
