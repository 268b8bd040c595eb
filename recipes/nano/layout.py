"""Where marks, slots and codes stand among the dimensions that belong to heads set up by hand.

A mark says one thing about a token or a place. A slot holds what a head has gathered. The code of a token is what the
heads know it by.
"""

from __future__ import annotations

import torch
from torch import Tensor

(
    CONSTANT,  # 1 everywhere
    BY_USER,  # whose turn it is
    BY_ASSISTANT,
    HAS_OPTIONS,  # the system message has a list of options
    COLON,
    AFTER_COLON,
    FIRST,  # the first token of a chat, on which heads rest
    LINE,  # the token begins a line or ends a turn
    NAMING,  # a field's name is being written, not its value
    EVEN,  # as large as the stream usually is after layer 0, so that normalization leaves 1
    SEPARATOR,  # what stands before an option
    AFTER_SEPARATOR,
    ONE_OF,
    LISTING,  # a list of options is being written
    TURNS,  # how many turns there are in twenty tokens, on average so far
    NUMBER,
    EVEN_FIRST,  # as large as the embedding, so that layer 0's normalization leaves 1
    NEAR_LENGTH,  # the squared length of the first part of the gathered values
    REST_LENGTH,  # and of the others
    MATCH,  # as large as a token's code is where the token after it has looked back
) = range(20)
MARKS, SLOT, CODE = 24, 16, 32
VALUES, BEFORE, IDENTITY = MARKS, MARKS + SLOT, MARKS + 2 * SLOT
"""Where the slot of the user's values begins, that of the tokens before, and the token's code."""
EXTRA = MARKS + 2 * SLOT + CODE
"""How many dimensions these heads have for themselves."""
MARK, SIZE, ROLE = 0.2, 0.35, 0.3
"""How large a mark and a code of length one are in an embedding; the mark of a role's token, as a share of a mark."""
NEAR, COMPARED = 6, 13
"""How many dimensions of a slot tell which demo's answer to go on with, and how many words are known by at all."""


def slot(at: int, size: int) -> Tensor:
    """What reads the first ``size`` dimensions of the slot at ``at``: (size, EXTRA)."""
    made = torch.zeros(size, EXTRA)
    made[:, at : at + size] = torch.eye(size)
    return made
