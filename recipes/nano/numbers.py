"""What the embedding of a number knows of its value: smooth features at many scales."""

from __future__ import annotations

import torch
from torch import Tensor

CONSTANT, DECIMAL, INTEGER = -3, -2, -1


def features(values: list[float]) -> Tensor:
    """One row per number token: tenths from 0.0 to 99.9, then the integers from 0.

    Waves over the logarithm tell relative size, waves over the value itself absolute size and, for integers, the last
    one and two digits. The last three columns are a constant and the flags of the two kinds of token.
    """
    value = torch.tensor(values, dtype=torch.float64)
    integer = torch.arange(len(values)) >= 1000
    logarithm = torch.log(value + 0.3)
    columns = []
    for index in range(11):
        rate = 0.35 * 1.55**index
        for wave in (torch.sin, torch.cos):
            columns.append(rate**-0.2 * wave(rate * logarithm))
    for period in (8, 32, 128, 512, 2048):
        for wave in (torch.sin, torch.cos):
            columns.append(0.5 * wave(2 * torch.pi * value / period))
    for period, amplitude in ((10, 0.4), (100, 0.4)):
        for wave in (torch.sin, torch.cos):
            columns.append(amplitude * integer * wave(2 * torch.pi * value / period))
    made = torch.stack(columns, 1)
    made = made / made.norm(dim=1, keepdim=True)
    flags = torch.stack([torch.full_like(value, 0.35), 0.2 * (~integer), 0.2 * integer], 1)
    return torch.cat([made, flags], 1).float()
