"""BetterTogether (Soylu, Potts, Khattab 2024, arXiv 2407.10930): strategies over a shared prefix tree.

Work is keyed by content, never by name: finished LM calls and trainings are in the store, so an edge of the tree
that was taken before is taken again without an LM call or a training step, and one that was interrupted goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.lm.request import digest_of
from harness.optimize.bench import Bench
from harness.optimize.settings import as_json
from harness.optimize.steps import STEPS
from harness.optimize.strategy import Strategy, strategy_text
from harness.results import Evaluation, Spend, StepResult, StrategyResult
from harness.state import State
from harness.stats import mean
from harness.store import Store

__all__ = ["Together", "choose"]


@dataclass(frozen=True)
class _Node:
    """A place in the prefix tree: its state, or why it cannot be reached."""

    state: State | None
    step: StepResult | None = None
    reason: str = ""


class Together:
    """All strategies of one suite with one seed. Each edge of the prefix tree is taken once."""

    def __init__(self, bench: Bench, start: State, store: Store) -> None:
        self.bench, self._store = bench, store
        self._nodes: dict[Strategy, _Node] = {(): _Node(start)}
        self._results: dict[Strategy, StrategyResult] = {}

    def result(self, strategy: Strategy, reference: float | None = None) -> StrategyResult:
        """Take the strategy's steps and score where they lead, on validation and on test.

        One process at a time works on a suite with one seed: strategies share steps, traces and scores, and who
        comes second finds those of the first in the store.
        """
        if strategy not in self._results:
            with self._store.lock(f"suite-{digest_of([self.bench.evaluator.suite, self.bench.seed])}"):
                self._results[strategy] = self._scored(strategy, reference)
        return self._results[strategy]

    def finished(self, strategy: Strategy) -> StrategyResult | None:
        """The strategy's result where it is there already."""
        return self._results.get(strategy)

    def _scored(self, strategy: Strategy, reference: float | None) -> StrategyResult:
        taken = set(self._nodes)
        node = self._reach(strategy)
        steps, spend = [], Spend()
        for end in range(1, len(strategy) + 1):
            step = self._nodes[strategy[:end]].step
            if step is not None:
                steps.append(step)
                spend += step.spend.as_cached() if strategy[:end] in taken else step.spend
        lm = self._nodes[()].state
        result = StrategyResult(
            suite=self.bench.evaluator.suite,
            strategy=strategy_text(strategy),
            seed=self.bench.seed,
            lm=lm.lm.model if lm else "",
            steps=tuple(steps),
            spend=spend,
            reason=node.reason,
            reference=reference,
        )
        if node.state is None:
            return result
        validation, test = (self._evaluate(strategy, node.state, split) for split in ("validation", "test"))
        return replace(
            result,
            validation=validation,
            test=test,
            spend=spend + validation.spend + test.spend,
            state=node.state.to_json(),
        )

    def _reach(self, path: Strategy) -> _Node:
        if path not in self._nodes:
            before = self._reach(path[:-1])
            blocked = replace(before, step=None)
            self._nodes[path] = blocked if before.state is None else self._take(path, before.state)
        return self._nodes[path]

    def _take(self, path: Strategy, state: State) -> _Node:
        """One edge of the tree."""
        bench, letter = self.bench, path[-1]
        teacher = bench.teacher.model if bench.teacher is not None else None
        key = digest_of([state.digest, letter, as_json(bench.settings), bench.splits.digest, bench.seed, teacher])
        outcome = STEPS[letter](state, bench, f"{bench.evaluator.suite} {strategy_text(path)}")
        reached = outcome.state.digest if outcome.state is not None else ""
        self._record(key, step=letter, path=strategy_text(path), start=state, end=outcome.state, notes=outcome.notes)
        step = StepResult(letter, reached, outcome.spend, outcome.notes)
        return _Node(outcome.state, step, "" if outcome.state is not None else outcome.notes)

    def _evaluate(self, path: Strategy, state: State, split: str) -> Evaluation:
        suite = self.bench.evaluator.suite
        task = f"{suite} {strategy_text(path)}: {split}"
        found = self.bench.evaluator.evaluate(state, getattr(self.bench.splits, split), split, task)
        key = digest_of([suite, state.digest, self.bench.splits.digest, split, self.bench.seed])
        self._record(key, state=state, split=split, scores={score.example: score.score for score in found.scores})
        return found

    def _record(self, key: str, **values: Any) -> None:
        """Note what was found, for people who look into the store; a later run never relies on it."""
        plain = {name: value.to_json() if isinstance(value, State) else value for name, value in values.items()}
        self._store.put_evaluation(key, {"suite": self.bench.evaluator.suite, "seed": self.bench.seed, **plain})


def choose(candidates: Sequence[Sequence[StrategyResult]], max_unscored: float) -> Sequence[StrategyResult]:
    """Of strategies, each with its results by seed, the one with the best mean on validation.

    Left out are those of whose validation examples more than the share ``max_unscored`` has no score: the mean of
    the rest may be that of the easy ones. Of equals the one with fewer steps, then the earlier one. Empty where no
    strategy has a score.
    """
    scored = [
        results
        for results in candidates
        if any(_has_score(result) for result in results)
        and all(r.validation is None or r.validation.unscored_share <= max_unscored for r in results)
    ]
    return max(scored, key=lambda results: (_validation(results), -_length(results)), default=())


def _has_score(result: StrategyResult) -> bool:
    return result.validation is not None and bool(result.validation.values)


def _validation(results: Sequence[StrategyResult]) -> float:
    """Mean over the seeds; one without a score counts 0, since a strategy must work to be chosen."""
    return mean([result.validation.mean if result.validation and _has_score(result) else 0.0 for result in results])


def _length(results: Sequence[StrategyResult]) -> int:
    return len(results[0].steps)
