"""All figures of a run as JSON, for machines; see ``docs/report.md`` for the schema."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.report.format import strategy_text
from harness.report.schema import (
    SCHEMA,
    ComparisonModel,
    EvaluationModel,
    ExampleModel,
    GateModel,
    Report,
    ResultModel,
    ScoreModel,
    SpendModel,
    StepModel,
    StrategyModel,
    SuiteModel,
)
from harness.report.summary import CONFIDENCE, Comparison, Score, StrategySummary, SuiteSummary, summarize
from harness.results import Evaluation, GateResult, Spend, StepResult, StrategyResult, SuiteRun
from harness.stats import interval

__all__ = ["json_report", "json_text", "read_json", "write_json"]


def json_report(runs: Sequence[SuiteRun]) -> Report:
    """The report's values. The same runs give the same report, in whatever order their items finished.

    Suites come sorted by name and LM, strategies as in the table, results by seed, examples as in their split.
    """
    suites = sorted(summarize(runs), key=lambda s: (s.suite, s.lm))
    return Report(version=SCHEMA, confidence=CONFIDENCE, suites=[_suite(s) for s in suites])


def json_text(report: Report) -> str:
    """The report as the file holds it: indented, pure ASCII, so that no text in it can steer a terminal."""
    return json.dumps(report.model_dump(mode="json", by_alias=True), indent=2, allow_nan=False) + "\n"


def write_json(path: str | os.PathLike[str], runs: Sequence[SuiteRun]) -> None:
    """Write the report to ``path``, whole or not at all: an older file stays until the new one is complete.

    Missing folders are made. Raises OSError where the folder cannot be written.
    """
    target = Path(path)
    text = json_text(json_report(runs))
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder: a rename is atomic within one file system only.
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("x", encoding="ascii", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: str | os.PathLike[str]) -> Report:
    """A report written by `write_json`, validated.

    Raises OSError where the file cannot be read, pydantic's ValidationError (a ValueError) where it is no report
    of this schema version.
    """
    return Report.model_validate_json(Path(path).read_bytes())


def _suite(summary: SuiteSummary) -> SuiteModel:
    return SuiteModel(
        suite=_text(summary.suite),
        lm=_text(summary.lm),
        seeds=list(summary.seeds),
        strategies=[_strategy(row) for row in summary.strategies],
        gates=[_gate(g) for g in sorted(summary.gates, key=lambda g: (g.strategy, g.saved))],
        spend=_spend(summary.spend),
    )


def _strategy(row: StrategySummary) -> StrategyModel:
    return StrategyModel(
        strategy=strategy_text(row.strategy),
        chosen=row.chosen,
        validation=_score(row.validation),
        test=_score(row.test),
        vs_vanilla=_comparison(row.comparison),
        reference=_number(row.reference),
        spend=_spend(row.spend),
        results=[_result(result) for result in row.results],
    )


def _result(result: StrategyResult) -> ResultModel:
    return ResultModel(
        seed=result.seed,
        reason=_text(result.reason),
        state=result.state,
        validation=_evaluation(result.validation),
        test=_evaluation(result.test),
        steps=[_step(step) for step in result.steps],
        spend=_spend(result.spend),
    )


def _step(step: StepResult) -> StepModel:
    return StepModel(step=step.step, state=step.state, notes=_text(step.notes), spend=_spend(step.spend))


def _evaluation(evaluation: Evaluation | None) -> EvaluationModel | None:
    if evaluation is None:
        return None
    bounds = interval(evaluation.values, CONFIDENCE) if evaluation.values else None
    return EvaluationModel(
        split=_text(evaluation.split),
        mean=bounds and bounds.mean,
        low=bounds and bounds.low,
        high=bounds and bounds.high,
        scored=len(evaluation.values),
        unscored=evaluation.unscored,
        unparsable=evaluation.unparsable,
        spend=_spend(evaluation.spend),
        examples=[
            ExampleModel(
                example=_text(s.example),
                score=s.score,
                kind=s.kind,
                inputs=_text(s.inputs),
                prediction=_text(s.prediction),
                feedback=_text(s.feedback),
            )
            for s in evaluation.scores
        ],
    )


def _score(score: Score | None) -> ScoreModel | None:
    return None if score is None else ScoreModel(**asdict(score))


def _comparison(comparison: Comparison | None) -> ComparisonModel | None:
    if comparison is None:
        return None
    return ComparisonModel(
        **asdict(comparison.difference), p_holm=comparison.p_holm, significant=comparison.significant
    )


def _gate(gate: GateResult) -> GateModel:
    return GateModel(
        strategy=strategy_text(gate.strategy),
        score=_number(gate.score),
        low=_number(gate.low),
        high=_number(gate.high),
        threshold=_number(gate.threshold),
        passed=gate.passed,
        saved=_text(gate.saved),
    )


def _spend(spend: Spend) -> SpendModel:
    values: dict[str, Any] = asdict(spend)
    return SpendModel(**values | {"training_seconds": _number(spend.training_seconds)})


def _number(value: float | None) -> float | None:
    """JSON has neither NaN nor infinity: both become null."""
    return value if value is not None and math.isfinite(value) else None


def _text(text: str) -> str:
    """Halves of surrogate pairs, which readers refuse, become U+FFFD."""
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
