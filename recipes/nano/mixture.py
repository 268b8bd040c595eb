"""Which tasks an episode is drawn from, and how that changes while the model learns."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from recipes.nano.arithmetic import drills, word_problems
from recipes.nano.episode import Episode
from recipes.nano.numeric import table
from recipes.nano.passages import passages
from recipes.nano.symbolic import categorical, copying, typed

MOST_TURNS = 17
SHORT = 128


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum: until which share of all steps it lasts, how many features numeric tasks have, how
    long the rows are, how much there is of each kind of task, what share of numeric, categorical and passage tasks is
    easy (short names), and how hard the numeric tasks are.
    """

    until: float
    features: tuple[int, ...]
    lengths: tuple[tuple[int, float], ...]
    weights: tuple[tuple[str, float], ...]
    easy: float
    hard: float


KINDS = ("numeric", "categorical", "copying", "typed", "arithmetic", "word_problems", "passages")


def _weights(*shares: float) -> tuple[tuple[str, float], ...]:
    return tuple(zip(KINDS, shares, strict=True))


STAGES = (
    Stage(0.08, (1, 2, 3, 4), ((SHORT, 0.15), (256, 0.5), (384, 0.35)),
          _weights(0.34, 0.14, 0.10, 0.02, 0.08, 0.08, 0.24), easy=0.7, hard=0.1),
    Stage(0.35, (1, 2, 3, 4, 4, 4, 5), ((SHORT, 0.2), (256, 0.3), (512, 0.5)),
          _weights(0.27, 0.12, 0.08, 0.03, 0.10, 0.15, 0.25), easy=0.15, hard=0.3),
    Stage(1.0, (1, 2, 3, 4, 4, 4, 5, 6), ((SHORT, 0.24), (256, 0.3), (512, 0.34), (768, 0.12)),
          _weights(0.25, 0.11, 0.07, 0.03, 0.10, 0.18, 0.26), easy=0.05, hard=0.35),
)  # fmt: skip
TOKENS_A_TURN = {
    "categorical": 18,
    "copying": 20,
    "typed": 50,
    "arithmetic": 24,
    "word_problems": 62,
    "passages": 75,
}
EASY_TOKENS_A_TURN = {"categorical": 14, "passages": 45}


def draw(rng: Random, stage: Stage, length: int) -> Episode:
    """An episode for a row of ``length`` tokens; rows of at most ``SHORT`` hold a single turn without demos."""
    kind = rng.choices([name for name, _ in stage.weights], [weight for _, weight in stage.weights])[0]
    easy = rng.random() < stage.easy
    alone = length <= SHORT
    room = length - 40
    if kind == "numeric":
        features = rng.choice(stage.features)
        reasoning = rng.random() < 0.22
        cost = 8 + features * ((4 if easy else 7) + 2 * reasoning) + 6 * reasoning
        turns = 1 if alone else max(2, min(MOST_TURNS, room // cost + 1))
        return table(rng, turns, features=features, reasoning=reasoning, easy=easy, hard=stage.hard).episode
    cost = EASY_TOKENS_A_TURN.get(kind, TOKENS_A_TURN[kind]) if easy else TOKENS_A_TURN[kind]
    turns = 1 if alone else max(2, min(MOST_TURNS, room // cost + 1))
    if kind == "categorical":
        return categorical(rng, turns, easy=easy)
    if kind == "copying":
        return copying(rng, turns)
    if kind == "typed":
        return typed(rng, turns)
    if kind == "arithmetic":
        return drills(rng, turns)
    if kind == "word_problems":
        return word_problems(rng, turns)
    return passages(rng, turns, easy=easy)
