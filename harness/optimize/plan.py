"""What an optimization would do, told without doing it: the edges of the prefix tree with their upper bounds.

Bounds count every run to its end and every try that may be needed; answers that the store holds cost nothing and
are not known here. Tokens are estimates, as the texts of later prompts are not known either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.lm.budget import Price
from harness.optimize.settings import Settings
from harness.optimize.strategy import Strategy, strategy_text

__all__ = ["CallShape", "Edge", "RunShape", "SuitePlan", "Work", "plan_suite"]


@dataclass(frozen=True, slots=True)
class CallShape:
    """One module call of a run: tokens of its prompt without demos, and of one demo."""

    module: str
    prompt_tokens: int
    demo_tokens: int


@dataclass(frozen=True)
class RunShape:
    """The module calls that one run of a program makes; ``note`` says what is doubtful about them."""

    calls: tuple[CallShape, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """Upper bounds. ``cost`` is in US dollars, None where some LM's price is not known."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    training_examples: int = 0
    cost: float | None = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.training_examples + other.training_examples,
            None if self.cost is None or other.cost is None else self.cost + other.cost,
        )

    def __mul__(self, times: int) -> Work:
        return Work(
            self.calls * times,
            self.prompt_tokens * times,
            self.completion_tokens * times,
            self.training_examples * times,
            None if self.cost is None else self.cost * times,
        )


@dataclass(frozen=True, slots=True)
class Edge:
    """A node of the prefix tree: ``step`` is the work of the edge that leads to it, ``scoring`` that of its scores.

    ``step`` is None where a registered step tells nothing about itself; nodes that are no strategy are not scored.
    """

    path: Strategy
    step: Work | None
    scoring: Work

    @property
    def name(self) -> str:
        return strategy_text(self.path)


@dataclass(frozen=True)
class SuitePlan:
    """One suite with all seeds; figures sum over the seeds. ``skipped`` is the reason where nothing would run.

    ``sizes`` are the examples of the splits; ``searched`` those that a prompt step uses of the training split, to
    bootstrap from and to choose by.
    """

    suite: str
    lm: str
    teacher: str | None = None
    sizes: Mapping[str, int] | None = None
    searched: tuple[int, int] = (0, 0)
    seeds: tuple[int, ...] = ()
    calls_a_run: int = 0
    edges: tuple[Edge, ...] = ()
    note: str = ""
    skipped: str = ""

    @property
    def total(self) -> Work:
        """All edges together, those without a bound left out."""
        total = Work()
        for edge in self.edges:
            total += edge.scoring if edge.step is None else edge.step + edge.scoring
        return total


PriceOf = Callable[[str], Price | None]
"""The price of a model string; None where nobody knows it."""


def plan_suite(
    plan: SuitePlan, strategies: Sequence[Strategy], settings: Settings, run: RunShape, price: PriceOf
) -> SuitePlan:
    """The plan with its edges: each prefix of the strategies once, as the run takes them."""
    if plan.sizes is None:
        raise ValueError("a plan with edges needs the sizes of the splits")
    bounds = _Bounds(plan, plan.sizes, settings, run, price)
    edges = [
        Edge(path, bounds.step(path), bounds.scoring(path) if path in strategies else Work())
        for path in _prefixes(strategies)
    ]
    seeds = len(plan.seeds)
    edges = [replace(e, step=None if e.step is None else e.step * seeds, scoring=e.scoring * seeds) for e in edges]
    return replace(plan, calls_a_run=len(run.calls), edges=tuple(edges), note=run.note)


def _prefixes(strategies: Sequence[Strategy]) -> Iterator[Strategy]:
    """All nodes of the tree, parents before children, each once."""
    seen: set[Strategy] = set()
    for strategy in strategies:
        for end in range(len(strategy) + 1):
            if strategy[:end] not in seen:
                seen.add(strategy[:end])
                yield strategy[:end]


@dataclass(frozen=True)
class _Bounds:
    plan: SuitePlan
    sizes: Mapping[str, int]
    settings: Settings
    run: RunShape
    price: PriceOf

    def step(self, path: Strategy) -> Work | None:
        if not path:
            return Work()
        demos = self._demos(path[:-1])
        tries = self.settings.rollouts
        if path[-1] == "p":
            train, validation = self.plan.searched
            candidates = self._runs(validation, self.settings.demos) * self.settings.candidates
            return self._traces(train * tries, demos) + self._runs(validation, 0) + candidates
        if path[-1] == "w":
            examples = self.sizes["train"] * len(self.run.calls)
            return self._traces(self.sizes["train"] * tries, demos) + Work(training_examples=examples)
        return None

    def scoring(self, path: Strategy) -> Work:
        return self._runs(self.sizes["validation"] + self.sizes["test"], self._demos(path))

    def _demos(self, path: Strategy) -> int:
        """The most demos a module may have at this node: tuning weights resets the prompts."""
        return self.settings.demos if path and path[-1] == "p" else 0

    def _traces(self, runs: int, demos: int) -> Work:
        teacher = self.plan.teacher
        return self._runs(runs, demos) if teacher is None else self._runs(runs, 0, teacher)

    def _runs(self, runs: int, demos: int, lm: str | None = None) -> Work:
        calls = runs * len(self.run.calls)
        prompts = runs * sum(call.prompt_tokens + demos * call.demo_tokens for call in self.run.calls)
        completions = calls * self.settings.max_tokens
        price = self.price(lm or self.plan.lm)
        cost = None if price is None else price.prompt * prompts + price.completion * completions
        return Work(calls, prompts, completions, cost=cost)
