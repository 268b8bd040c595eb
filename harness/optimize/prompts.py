"""``p``: BootstrapFewshotRS (Khattab et al. 2023, arXiv 2310.03714; the paper's OptPrompts).

The search runs on the state's own LM, adapter included. It differs from running every candidate to its end only
in cost: a candidate is dropped once it cannot reach the best one any more.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.data import Example, sample
from harness.evaluate import Run, spend_of
from harness.observe import watched
from harness.optimize.bench import Bench, Outcome
from harness.optimize.bootstrap import bootstrap
from harness.results import Spend
from harness.state import Demo, State
from harness.stats import mean

__all__ = ["optimize_prompts"]

_CHUNK = 20
"""Validation examples between two looks at which candidates are still in the race."""


def optimize_prompts(state: State, bench: Bench, task: str) -> Outcome:
    """Bootstrap demos, draw subsets at random, keep the one with the best mean on validation."""
    settings = bench.settings
    train, validation = sample(
        bench.splits.train,
        (settings.prompt_train, settings.prompt_validation),
        bench.rng("prompt split"),
        bench.stratify,
    )
    found = bootstrap(state, train, bench, task)
    pool = demo_pool(found.runs)
    states = [state.with_demos({})]
    rng = bench.rng("demos", state.digest)
    for _ in range(settings.candidates if pool else 0):
        states.append(state.with_demos(draw_demos(pool, settings.demos, rng)))
    race = run_race(states, validation, bench, task)
    best = race.best
    shown = sum(len(prompt.demos) for prompt in states[best].prompts.values())
    notes = (
        f"{found.summary}; best of {len(states)} prompts has {shown} demos, "
        f"{race.mean(best):.1%} of {len(validation)} validation examples"
    )
    return Outcome(states[best], found.spend + race.spend, notes)


def demo_pool(runs: Sequence[Run]) -> dict[str, list[Demo]]:
    """Every module call of the passing runs as a demo, by module."""
    pool: dict[str, list[Demo]] = defaultdict(list)
    for run in runs:
        for call in run.trace.calls:
            if call.outputs is not None:
                demo = Demo(call.inputs, call.outputs)
                if demo not in pool[call.module]:
                    pool[call.module].append(demo)
    return dict(pool)


def draw_demos(pool: Mapping[str, Sequence[Demo]], most: int, rng: random.Random) -> dict[str, tuple[Demo, ...]]:
    """For each module one to ``most`` of its demos at random, in random order."""
    drawn = {}
    for module in sorted(pool):
        size = rng.randint(min(1, most), min(most, len(pool[module])))
        drawn[module] = tuple(rng.sample(list(pool[module]), size))
    return drawn


@dataclass
class Race:
    """Candidates on one set of validation examples; scores are kept per candidate as they come.

    An example that could not be scored counts 0 here: a prompt must work to be chosen, and one that is too long for
    the LM on every hard example must not win by the easy ones.
    """

    total: int
    scores: dict[int, list[float | None]] = field(default_factory=dict)
    spend: Spend = field(default_factory=Spend)

    def mean(self, candidate: int) -> float:
        """Mean of the examples so far; 0 where there is none."""
        scores = self.scores[candidate]
        return mean([score or 0.0 for score in scores]) if scores else 0.0

    def highest(self, candidate: int) -> float:
        """The mean if every example still to come scored 1."""
        return self._whole(candidate, 1.0)

    def lowest(self, candidate: int) -> float:
        """The mean if every example still to come scored 0."""
        return self._whole(candidate, 0.0)

    def _whole(self, candidate: int, rest: float) -> float:
        scores = [score or 0.0 for score in self.scores[candidate]]
        return mean(scores + [rest] * (self.total - len(scores))) if self.total else 0.0

    @property
    def best(self) -> int:
        """The earliest of the finished candidates with the highest mean."""
        done = [candidate for candidate, scores in self.scores.items() if len(scores) == self.total]
        return max(done, key=lambda candidate: (self.mean(candidate), -candidate))


def run_race(states: Sequence[State], validation: Sequence[Example], bench: Bench, task: str) -> Race:
    """Score all candidates chunk by chunk, dropping those that cannot win any more.

    The winner is the one that scoring everybody to the end would give: a candidate is out only when even full
    marks on the rest leave it behind what another is sure of (of equals the earlier one wins).
    """
    race = Race(len(validation), {candidate: [] for candidate in range(len(states))})
    alive = list(race.scores)
    words = f"{task}: {len(states)} prompts"
    with watched(bench.observer, words, len(states) * len(validation)):
        for start in range(0, len(validation), _CHUNK):
            chunk = validation[start : start + _CHUNK]
            for candidate in alive:
                runs = bench.evaluator.run(states[candidate], chunk, task=words)
                race.scores[candidate].extend(run.score.score for run in runs)
                race.spend += spend_of(runs)
            sure = max((race.lowest(candidate), -candidate) for candidate in alive)
            alive = [candidate for candidate in alive if (race.highest(candidate), -candidate) >= sure]
    return race
