"""All figures of a report, derived once from the results; every report shows these and computes none."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.report.format import strategy_label
from harness.results import Evaluation, GateResult, Spend, StrategyResult, SuiteRun
from harness.stats import Difference, holm, interval, mean_sd, paired_difference

__all__ = ["CONFIDENCE", "Comparison", "Score", "StrategySummary", "SuiteSummary", "score_of", "summarize"]

CONFIDENCE = 0.95
"""Of every interval; a difference is significant where its adjusted p-value is under 1 - CONFIDENCE."""


@dataclass(frozen=True, slots=True)
class Score:
    """A strategy's score on one split: the mean over seeds of the mean over scored examples.

    ``low`` and ``high`` bound it for other examples of the same kind: the interval of the examples' scores, each
    averaged over the seeds. ``sd`` is the spread over seeds, None with one seed. Counts sum over the seeds.
    """

    mean: float
    low: float
    high: float
    sd: float | None
    seeds: int
    examples: int
    unscored: int
    unparsable: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A strategy's test scores against vanilla's on the same examples; ``p_holm`` is adjusted over the suite."""

    difference: Difference
    p_holm: float

    @property
    def significant(self) -> bool:
        return self.p_holm < round(1 - CONFIDENCE, 12)  # 1 - 0.95 is a little more than 0.05


@dataclass(frozen=True)
class StrategySummary:
    """One row: ``results`` are by seed, ``spend`` sums over the seeds.

    ``reasons`` say why there is no test score, each with the seeds it holds for.
    """

    strategy: str
    results: tuple[StrategyResult, ...]
    validation: Score | None
    test: Score | None
    comparison: Comparison | None
    reasons: tuple[tuple[str, tuple[int, ...]], ...]
    reference: float | None
    spend: Spend
    chosen: bool


@dataclass(frozen=True)
class SuiteSummary:
    """One table: a suite with one LM."""

    suite: str
    lm: str
    seeds: tuple[int, ...]
    strategies: tuple[StrategySummary, ...]
    gates: tuple[GateResult, ...]
    spend: Spend


def summarize(runs: Sequence[SuiteRun]) -> tuple[SuiteSummary, ...]:
    """One summary per suite and LM, suites in the order of ``runs``.

    Strategies are sorted (vanilla, then by length), so that the report is the same however the items were
    spread over worker processes. A result that comes twice counts once: the last one, a rerun item's say, or, where
    they say the same, the one of who made the calls, which the other found in the store.
    """
    results: dict[tuple[str, str], dict[tuple[str, int], StrategyResult]] = {}
    gates: dict[str, list[GateResult]] = defaultdict(list)
    suites = list(dict.fromkeys(run.suite for run in runs))
    for run in runs:
        for result in run.results:
            known = results.setdefault((run.suite, result.lm), {})
            place = (strategy_label(result.strategy), result.seed)
            if place not in known or not _is_found_again(result, known[place]):
                known[place] = result
        if run.gate is not None and run.gate not in gates[run.suite]:
            gates[run.suite].append(run.gate)
    summaries = []
    for suite in suites:
        lms = [lm for name, lm in results if name == suite]
        for lm in lms or [""]:
            own = [g for g in gates[suite] if not g.lm or g.lm == lm or g.lm not in lms]
            # A gate that names no LM, or one without results, is judged once, below the suite's last table.
            own = [g for g in own if g.lm == lm or lm == (lms or [""])[-1]]
            summaries.append(_suite(suite, lm, list(results.get((suite, lm), {}).values()), own))
    return tuple(summaries)


def _is_found_again(result: StrategyResult, other: StrategyResult) -> bool:
    """Whether it says what the other does, and made no more calls for it."""

    def said(of: StrategyResult) -> object:
        return of.reason, of.state, *(split and split.scores for split in (of.validation, of.test))

    return said(result) == said(other) and result.spend.calls <= other.spend.calls


def _suite(suite: str, lm: str, results: list[StrategyResult], gates: Sequence[GateResult]) -> SuiteSummary:
    by_strategy: dict[str, list[StrategyResult]] = defaultdict(list)
    for result in sorted(results, key=lambda r: r.seed):
        by_strategy[strategy_label(result.strategy)].append(result)
    chosen = {strategy_label(gate.strategy) for gate in gates} if len(by_strategy) > 1 else set()
    labels = sorted(by_strategy, key=_order)
    rows = [_strategy(label, by_strategy[label], label in chosen) for label in labels]
    rows = _compare(rows, by_strategy.get("vanilla", []))
    return SuiteSummary(
        suite=suite,
        lm=lm,
        seeds=tuple(sorted({r.seed for r in results})),
        strategies=tuple(rows),
        gates=tuple(gates),
        spend=_total(results),
    )


def _order(label: str) -> tuple[int, str]:
    return (0 if label == "vanilla" else 1 + label.count("→"), label)


def _strategy(label: str, results: list[StrategyResult], chosen: bool) -> StrategySummary:
    reasons: dict[str, list[int]] = defaultdict(list)
    for result in results:
        if reason := _reason(result):
            reasons[reason].append(result.seed)
    return StrategySummary(
        strategy=label,
        results=tuple(results),
        validation=score_of([r.validation for r in results]),
        test=score_of([r.test for r in results]),
        comparison=None,
        reasons=tuple((reason, tuple(seeds)) for reason, seeds in reasons.items()),
        reference=next((r.reference for r in results if r.reference is not None), None),
        spend=_total(results),
        chosen=chosen,
    )


def _reason(result: StrategyResult) -> str:
    if result.reason:
        return result.reason
    if result.test is not None:
        return "" if result.test.values else "no test example could be scored"
    return "" if result.validation is not None else "not evaluated"


def _total(results: Sequence[StrategyResult]) -> Spend:
    """What ``results`` cost in all. A training that strategies share is in each one's seconds, and once here."""
    total = Spend()
    seconds: dict[object, float] = {}
    for number, result in enumerate(results):
        total += result.spend
        if not result.steps:
            seconds[number] = result.spend.training_seconds
        for step in result.steps:
            key = (result.seed, step.state)  # of the prompt step as well that left the state as it was
            seconds[key] = max(seconds.get(key, 0.0), step.spend.training_seconds)
    # Rounded once, so that the sum is the same in whatever order the items finished.
    return replace(total, training_seconds=math.fsum(seconds.values()))


def score_of(evaluations: Sequence[Evaluation | None]) -> Score | None:
    """The score over the seeds, one evaluation of the same split each; None where no example is scored."""
    present = [e for e in evaluations if e is not None]
    scored = [e for e in present if e.values]
    if not scored:
        return None
    mean, sd = mean_sd([interval(e.values).mean for e in scored])
    per_example: dict[tuple[str, int], list[float]] = defaultdict(list)
    for evaluation in scored:
        for key, value in _by_example(evaluation).items():
            per_example[key].append(value)
    bounds = interval([math.fsum(v) / len(v) for v in per_example.values()], CONFIDENCE)
    return Score(
        mean=mean,
        # With unscored examples the mean over seeds and that over examples weigh seeds a little differently.
        low=min(mean, bounds.low),
        high=max(mean, bounds.high),
        sd=sd,
        seeds=len(scored),
        examples=sum(len(e.scores) for e in present),
        unscored=sum(e.unscored for e in present),
        unparsable=sum(e.unparsable for e in present),
    )


def _by_example(evaluation: Evaluation) -> dict[tuple[str, int], float]:
    """Scores by example; equal examples of one split are told apart by their order."""
    seen: Counter[str] = Counter()
    scores = {}
    for score in evaluation.scores:
        seen[score.example] += 1
        if score.score is not None:
            scores[score.example, seen[score.example]] = score.score
    return scores


def _compare(rows: list[StrategySummary], vanilla: Sequence[StrategyResult]) -> list[StrategySummary]:
    found = {row.strategy: _difference(row.results, vanilla) for row in rows if row.strategy != "vanilla"}
    differences = {name: difference for name, difference in found.items() if difference is not None}
    adjusted = dict(zip(differences, holm([d.p_value for d in differences.values()]), strict=True))
    return [
        replace(row, comparison=Comparison(differences[row.strategy], adjusted[row.strategy]))
        if row.strategy in differences
        else row
        for row in rows
    ]


def _difference(results: Sequence[StrategyResult], vanilla: Sequence[StrategyResult]) -> Difference | None:
    """Per example, means over the seeds in which both strategies are scored: seeds are no further examples."""
    baseline = {r.seed: _by_example(r.test) for r in vanilla if r.test is not None}
    ours: dict[tuple[str, int], list[float]] = defaultdict(list)
    theirs: dict[tuple[str, int], list[float]] = defaultdict(list)
    for result in results:
        if result.test is None or result.seed not in baseline:
            continue
        for key, value in _by_example(result.test).items():
            if key in baseline[result.seed]:
                ours[key].append(value)
                theirs[key].append(baseline[result.seed][key])
    if not ours:
        return None
    means = [(math.fsum(v) / len(v), math.fsum(theirs[k]) / len(v)) for k, v in ours.items()]
    return paired_difference([a for a, _ in means], [b for _, b in means], CONFIDENCE)
