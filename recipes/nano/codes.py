"""What heads set up by hand know tokens by: 32 numbers a token, of which 16 directions are compared.

Words have codes as unlike as possible, numbers that are close have close ones. The codes of words are main directions
of what the output knows them by, so a head that finds a token can add it to the output.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from recipes.nano.layout import CODE, COMPARED, EXTRA, NEAR, SLOT
from recipes.nano.net import Net

WAVES = 22
"""How many features of a number are waves over its logarithm."""
USUAL = 1300
"""Tenths up to 99.9 and integers up to 299: the numbers whose spread the directions of numbers follow."""


class Codes(NamedTuple):
    """``token``, (vocabulary, CODE), are the codes; ``mix``, (SLOT, CODE), gives what of them is compared; ``main``,
    (CODE, width), what they add to the output.
    """

    token: Tensor
    mix: Tensor
    main: Tensor


@torch.no_grad()
def codes(net: Net, seed: int = 0) -> Codes:
    """The codes for a network that was widened by `EXTRA` dimensions."""
    words, width = net.shape.words, net.shape.width - EXTRA
    wanted = net.embedding()[:, :width] * net.norm[:width]
    wanted = wanted - wanted[:words].mean(0)
    wanted = wanted / wanted.norm(dim=1, keepdim=True)
    main = torch.linalg.svd(wanted[:words], full_matrices=False)[2][:CODE]
    token = wanted @ main.T
    turned = torch.linalg.qr(torch.randn(CODE, CODE, generator=torch.Generator().manual_seed(seed)))[0][:SLOT]
    mix = turned / token[:words].pow(2).mean(0).sqrt()  # no direction outweighs the others
    lengths = (token @ mix.T).norm(dim=1)
    usual = lengths[:words].median()
    mix, token = mix / usual, token / (lengths / usual).clamp_min(0.1)[:, None]
    inverse = torch.linalg.pinv(mix).T
    compared = token[:words] @ mix.T
    token[:words] += (_even(compared) - compared) @ inverse
    token[words:] = _numbers(net) @ inverse
    return Codes(token, mix, main)


def _even(compared: Tensor) -> Tensor:
    """The parts of a slot that are compared on their own, as long for every token."""
    made = torch.zeros_like(compared)
    for part in (slice(0, NEAR), slice(NEAR, COMPARED)):
        some = compared[:, part]
        made[:, part] = some / some.norm(dim=1, keepdim=True) * math.sqrt(some.shape[1] / COMPARED)
    return made


def _numbers(net: Net) -> Tensor:
    """What is compared of numbers, (numbers, SLOT): main directions of the waves over their logarithms."""
    waves = net.number_features[:, :WAVES]
    waves = waves - waves[:USUAL].mean(0)
    waves = waves / waves.norm(dim=1, keepdim=True)
    return waves @ torch.linalg.svd(waves[:USUAL], full_matrices=False)[2][:SLOT].T
