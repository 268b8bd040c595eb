"""The JSON report's schema, ``bt-harness/1``; ``docs/report.md`` tells it in words.

Additions keep the version: readers ignore fields they do not know. Renaming, removing or changing the meaning of
a field makes a new one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "SCHEMA",
    "ComparisonModel",
    "EvaluationModel",
    "ExampleModel",
    "GateModel",
    "Report",
    "ResultModel",
    "ScoreModel",
    "SpendModel",
    "StepModel",
    "StrategyModel",
    "SuiteModel",
]

SCHEMA = "bt-harness/1"

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class SpendModel(_Model):
    """What was spent: LM calls made and saved, tokens of the made ones, trainings and their seconds."""

    calls: Count
    cached: Count
    prompt_tokens: Count
    completion_tokens: Count
    trainings: Count
    training_seconds: Annotated[float, Field(ge=0)] | None


class ExampleModel(_Model):
    """One example; ``score`` is null where it is unscored."""

    example: str
    score: Share | None
    kind: Literal["scored", "unparsable", "unscored"]
    inputs: str
    prediction: str
    feedback: str


class EvaluationModel(_Model):
    """One split with one seed; ``mean``, ``low`` and ``high`` are null where no example is scored."""

    split: str
    mean: Share | None
    low: Share | None
    high: Share | None
    scored: Count
    unscored: Count
    unparsable: Count
    spend: SpendModel
    examples: list[ExampleModel]


class StepModel(_Model):
    """One step of a strategy as it was taken; ``state`` is the digest it led to."""

    step: str
    state: str
    notes: str
    spend: SpendModel


class ResultModel(_Model):
    """One strategy with one seed; ``reason`` says why there is no score, else it is empty.

    ``state`` is the LM, its adapter and every prompt that is not the original; empty where there is no score.
    """

    seed: int
    reason: str
    state: dict[str, Any]
    validation: EvaluationModel | None
    test: EvaluationModel | None
    steps: list[StepModel]
    spend: SpendModel


class ScoreModel(_Model):
    """A strategy's score on one split over its ``seeds``; ``sd`` is null with one seed."""

    mean: Share
    low: Share
    high: Share
    sd: Annotated[float, Field(ge=0)] | None
    seeds: Count
    examples: Count
    unscored: Count
    unparsable: Count


class ComparisonModel(_Model):
    """A strategy's test scores minus vanilla's, over ``n`` examples scored in both."""

    mean: Annotated[float, Field(ge=-1, le=1)]
    low: Annotated[float, Field(ge=-1, le=1)]
    high: Annotated[float, Field(ge=-1, le=1)]
    n: Count
    test: Literal["mcnemar", "sign-flip"]
    p_value: Share
    p_holm: Share
    significant: bool


class StrategyModel(_Model):
    """One strategy; ``reference`` is the published number, in percent."""

    strategy: str
    chosen: bool
    validation: ScoreModel | None
    test: ScoreModel | None
    vs_vanilla: ComparisonModel | None
    reference: float | None
    spend: SpendModel
    results: list[ResultModel]


class GateModel(_Model):
    """The verdict on the chosen strategy; ``score`` is null where it has none, ``threshold`` where none is set."""

    strategy: str
    score: Share | None
    low: Share | None
    high: Share | None
    threshold: float | None
    passed: bool
    saved: str


class SuiteModel(_Model):
    """One suite with one LM."""

    suite: str
    lm: str
    seeds: list[int]
    strategies: list[StrategyModel]
    gates: list[GateModel]
    spend: SpendModel


class Report(_Model):
    """The whole file. ``confidence`` is that of every interval."""

    model_config = ConfigDict(populate_by_name=True)

    version: Literal["bt-harness/1"] = Field(alias="schema")
    confidence: Share
    suites: list[SuiteModel]
