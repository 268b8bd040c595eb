"""What a run found: plain values that the plugin carries from worker to controller and reports read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from harness.stats import mean

__all__ = ["Evaluation", "ExampleScore", "GateResult", "LeftOut", "Spend", "StepResult", "StrategyResult", "SuiteRun"]

Kind = Literal["scored", "unparsable", "unscored"]


@dataclass(frozen=True, slots=True)
class Spend:
    """What a piece of work cost: LM calls made, calls answered from cache, tokens of the made calls.

    ``training_seconds`` is what the trainings took when they were made; ``trainings`` counts those made now.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    training_seconds: float = 0.0
    trainings: int = 0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            self.calls + other.calls,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.training_seconds + other.training_seconds,
            self.trainings + other.trainings,
        )

    def as_cached(self) -> Spend:
        """The same work had from memory or store: every call is saved, nothing is spent."""
        return Spend(cached=self.calls + self.cached, training_seconds=self.training_seconds)


@dataclass(frozen=True, slots=True)
class ExampleScore:
    """The metric's word on one example.

    ``score`` is in [0, 1], or None where the LM, its judge or the network failed (``unscored``). An answer that did not
    parse scores 0 and is told apart by its ``kind``. ``feedback`` is the metric's assertion text, the parse
    error or the failure; ``inputs`` and ``prediction`` are shortened text for people.
    """

    example: str
    score: float | None
    kind: Kind = "scored"
    inputs: str = ""
    prediction: str = ""
    feedback: str = ""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one state on one split, in the order of the split."""

    split: str
    scores: tuple[ExampleScore, ...]
    spend: Spend = Spend()

    @property
    def values(self) -> tuple[float, ...]:
        """The scores that count: unscored examples are left out."""
        return tuple(s.score for s in self.scores if s.score is not None)

    @property
    def mean(self) -> float:
        """Mean of the scored examples; NaN where there is none."""
        return mean(self.values) if self.values else float("nan")

    @property
    def unscored(self) -> int:
        return sum(s.score is None for s in self.scores)

    @property
    def unscored_share(self) -> float:
        """Of all examples, in [0, 1]."""
        return self.unscored / len(self.scores) if self.scores else 0.0

    @property
    def unparsable(self) -> int:
        return sum(s.kind == "unparsable" for s in self.scores)


@dataclass(frozen=True)
class StepResult:
    """One edge of the prefix tree as it was taken, for the report: ``notes`` says in words what it did."""

    step: str
    state: str
    spend: Spend = Spend()
    notes: str = ""


@dataclass(frozen=True)
class StrategyResult:
    """One strategy of one suite with one seed.

    ``reason`` is set where there is no score (the report shows a dash and the reason). ``reference`` is the
    published number, in percent, where the suite gives one. ``spend.cached`` counts the calls saved.
    """

    suite: str
    strategy: str
    seed: int
    lm: str
    validation: Evaluation | None = None
    test: Evaluation | None = None
    reason: str = ""
    steps: tuple[StepResult, ...] = ()
    spend: Spend = Spend()
    state: dict[str, Any] = field(default_factory=dict)
    reference: float | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """A suite's gate: the chosen strategy's test score against the threshold; ``lm`` as in `StrategyResult`."""

    suite: str
    strategy: str
    score: float
    low: float
    high: float
    threshold: float | None
    passed: bool
    saved: str = ""
    lm: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What the run had no budget left for: a strategy or the choice among them, and why in words."""

    what: str
    reason: str


@dataclass(frozen=True)
class SuiteRun:
    """What one test item adds to the report; ``note`` is a sentence below its table."""

    suite: str
    results: tuple[StrategyResult, ...] = ()
    gate: GateResult | None = None
    left_out: LeftOut | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, so that pytest-xdist can carry them to the controller."""
        return _ADAPTER.dump_python(self, mode="json")  # type: ignore[no-any-return]

    @staticmethod
    def from_json(value: Any) -> SuiteRun:
        return _ADAPTER.validate_python(value)


_ADAPTER = TypeAdapter(SuiteRun)
