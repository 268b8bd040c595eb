"""Episodes as arrays of tokens and loss weights.

A batch is a pure function of (seed, step, stage), so a run that resumes sees the batches it would have seen.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from recipes.nano.episode import CONTEXT, FINAL, FORM, VALUE, Episode, pieces
from recipes.nano.mixture import STAGES, draw

KIND_NAMES = (
    *(f"numeric{count}" for count in range(1, 7)),
    "categorical", "copying", "typed", "arithmetic", "word_problems", "answers", "query",
)  # fmt: skip


class Batch(NamedTuple):
    """Rows of tokens with the weight of each in the loss, and the kind of task each counted answer belongs to.

    ``scored`` is the index of a kind at the first token of an answer that demos before it could tell, else -1.
    Where no demo tells the options apart, all are as good: ``others`` holds (row, column, token) of the first tokens of
    those that the row does not answer, each with the weight of the one that it does.
    """

    ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    scored: NDArray[np.int8]
    others: NDArray[np.int64]


def encode(tokenizer: Tokenizer, episode: Episode) -> tuple[list[int], list[int], list[int]]:
    """Token ids of an episode, the part each token plays, and where the final values start."""
    found = pieces(episode)
    ids: list[int] = []
    parts: list[int] = []
    starts: list[int] = []
    for piece, encoding in zip(found, tokenizer.encode_batch([piece.text for piece in found]), strict=True):
        if piece.part == FINAL:
            starts.append(len(ids))
        ids += encoding.ids
        parts += [piece.part] * len(encoding.ids)
    return ids, parts, starts


def other_options(tokenizer: Tokenizer, episode: Episode) -> list[int]:
    """First tokens of the options that would be as good as the answer, as no demo tells them apart."""
    (*_, (_, hint)), (turn, *demos) = episode.reply, episode.turns
    if demos or not episode.kind.startswith(("numeric", "categorical")):
        return []
    options = hint.removeprefix("one of ").split(", ")
    return [tokenizer.encode(option).ids[0] for option in options if option != turn.outputs[-1][1]]


def make(tokenizer: Tokenizer, seed: int, step: int, stage: int, budget: int) -> Batch:
    """The batch of one step."""
    rng = Random(f"{seed}/{step}/{stage}")
    plan = STAGES[stage]
    length = rng.choices([size for size, _ in plan.lengths], [share for _, share in plan.lengths])[0]
    rows = budget // length
    ids = np.zeros((rows, length + 1), dtype=np.int64)
    weights = np.zeros((rows, length + 1), dtype=np.float32)
    scored = np.full((rows, length + 1), -1, dtype=np.int8)
    weight_of = np.array([0.0, 0.25, 0.5, 1.0], dtype=np.float32)
    assert (CONTEXT, FORM, VALUE, FINAL) == (0, 1, 2, 3)
    noise = np.random.default_rng(rng.getrandbits(32))
    others: list[tuple[int, int, int]] = []
    for row in range(rows):
        episode = draw(rng, plan, length)
        row_ids, parts, starts = encode(tokenizer, episode)
        size = min(len(row_ids), length + 1)
        ids[row, :size] = row_ids[:size]
        weights[row, :size] = weight_of[parts[:size]]
        seen = noise.random(size) < 0.06
        weights[row, :size][seen & (weights[row, :size] == 0)] = 0.15
        kind = KIND_NAMES.index(episode.kind)
        for start in starts[1:] if len(starts) > 1 else ():
            if start < size:
                scored[row, start] = kind
        found = other_options(tokenizer, episode)
        if found and starts[-1] < size:
            weights[row, starts[-1]] /= 1 + len(found)
            others += [(row, starts[-1], token) for token in found]
    weights[:, 0] = 0
    return Batch(ids, weights, scored, np.array(others, dtype=np.int64).reshape(-1, 3))
