"""What a step works with, and what it gives back."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from harness.data import Splits
from harness.evaluate import Evaluator
from harness.lm.request import LMRef, digest_of
from harness.observe import Observer
from harness.optimize.settings import Settings
from harness.results import Spend
from harness.state import State
from harness.train.job import Trained, TrainingJob

__all__ = ["Bench", "Outcome", "Step"]


@dataclass(frozen=True)
class Bench:
    """One suite with one seed: its data, how to run it, how to train its LM.

    ``teacher`` is the LM whose traces both kinds of optimization learn from; None is the tuned LM itself.
    """

    evaluator: Evaluator
    splits: Splits
    settings: Settings
    seed: int
    train: Callable[[TrainingJob, str], Trained]
    observer: Observer
    stratify: str | None = None
    teacher: LMRef | None = None

    def rng(self, *names: str) -> random.Random:
        """Random draws of one purpose: the same in every run with this seed, whatever was drawn elsewhere."""
        return random.Random(int(digest_of([self.seed, *names])[:16], 16))


@dataclass(frozen=True)
class Outcome:
    """A step's new state, what it cost, and in words what it did.

    ``state`` is None where the step had nothing to work with; ``notes`` then says why.
    """

    state: State | None
    spend: Spend
    notes: str


class Step(Protocol):
    """One kind of optimization. Registered under a letter in `harness.optimize.steps`."""

    def __call__(self, state: State, bench: Bench, task: str) -> Outcome:
        """Improve ``state``; ``task`` names the work in progress messages."""
        ...
