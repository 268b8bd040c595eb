"""Strategies: ``p -> w -> p`` in words and as a path in the prefix tree."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from harness.errors import UsageError

__all__ = ["PAPER_STRATEGIES", "VANILLA", "Strategy", "parse_strategies", "parse_strategy", "strategy_id"]

Strategy = tuple[str, ...]
"""Step letters in order; the empty strategy is the untuned program."""

VANILLA: Strategy = ()

PAPER_STRATEGIES = "vanilla, p, w, p -> p, w -> w, p -> w, w -> p, p -> w -> p"
"""The rows of the paper's Table 1."""


def parse_strategy(text: str, steps: Collection[str] = ("p", "w")) -> Strategy:
    """``p -> w -> p``, ``p-w-p``, ``p → w → p`` or ``vanilla`` as step letters. Raises `UsageError`."""
    if text.strip() == "vanilla":
        return VANILLA
    letters = [part.strip() for part in re.split(r"->|→|-", text)]
    for letter in letters:
        if letter not in steps:
            raise UsageError(
                f"the strategy {text.strip()!r} has the unknown step {letter!r}; steps are {', '.join(steps)}, "
                "joined as in 'p -> w -> p', or the word 'vanilla'."
            )
    return tuple(letters)


def parse_strategies(text: str, steps: Collection[str] = ("p", "w")) -> tuple[Strategy, ...]:
    """A comma-separated list, without repeats; vanilla is always the first, since the others are compared to it."""
    found: Iterable[Strategy] = [VANILLA, *(parse_strategy(part, steps) for part in text.split(","))]
    return tuple(dict.fromkeys(found))


def strategy_id(strategy: Strategy) -> str:
    """The strategy as a test id: ``p-w-p``."""
    return "-".join(strategy) or "vanilla"


def strategy_text(strategy: Strategy) -> str:
    """The strategy in words: ``p -> w -> p``."""
    return " -> ".join(strategy) or "vanilla"
