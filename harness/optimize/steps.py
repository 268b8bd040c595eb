"""The steps that strategies are made of, by letter."""

from __future__ import annotations

from harness.errors import UsageError
from harness.optimize.bench import Step
from harness.optimize.prompts import optimize_prompts
from harness.optimize.weights import optimize_weights

__all__ = ["STEPS", "register"]

STEPS: dict[str, Step] = {"p": optimize_prompts, "w": optimize_weights}


def register(letter: str, step: Step) -> None:
    """Add a step, from a ``conftest.py`` say, so that strategies may use its letter.

    Raises `UsageError` for a name that is taken or that the strategy grammar could not tell apart.
    """
    if letter in STEPS or not letter.isidentifier() or letter in ("vanilla", "best"):  # items have these names
        raise UsageError(f"a step cannot be named {letter!r}: the name is taken or not an identifier.")
    STEPS[letter] = step
