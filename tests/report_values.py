"""Made-up results for the tests of the reports."""

from __future__ import annotations

from collections.abc import Iterable

from harness.results import Evaluation, ExampleScore, GateResult, Spend, StrategyResult, SuiteRun


def evaluation(split: str, scores: Iterable[float | None], unparsable: int = 0) -> Evaluation:
    """One example per score; None is unscored, the first zeros are ``unparsable``."""
    examples = []
    for index, score in enumerate(scores):
        kind = "unscored" if score is None else "scored"
        if score == 0 and unparsable:
            kind, unparsable = "unparsable", unparsable - 1
        examples.append(
            ExampleScore(
                f"{split}-{index}",
                score,
                kind,  # type: ignore[arg-type]
                inputs=f"petal_length={index / 10}",
                prediction="versicolor",
                feedback="" if score == 1 else "assert 'versicolor' == 'virginica'",
            )
        )
    return Evaluation(split, tuple(examples), Spend(calls=len(examples)))


def hits(split: str, count: int, total: int) -> Evaluation:
    return evaluation(split, [1.0] * count + [0.0] * (total - count))


def iris(seed: int = 0, shift: int = 0) -> list[SuiteRun]:
    """Eight strategies as eight test items leave them; ``w -> w`` has no score."""
    rows = {
        "vanilla": (9, 13, Spend(85, 0), 26.0),
        "p": (20, 27, Spend(310, 85, 40_000, 9_000), 57.3),
        "w": (10, 15, Spend(85, 135, 9_000, 900, 31.4, 1), 29.3),
        "p -> p": (21, 30, Spend(295, 395), 59.3),
        "p -> w": (22, 31, Spend(135, 395, 0, 0, 33.0, 1), 30.7),
        "w -> p": (21, 33, Spend(295, 220, 0, 0, 31.4, 1), 66.7),
        "p -> w -> p": (27, 37, Spend(12_310, 530, 0, 0, 65.4, 1), 52.7),
    }
    results = [
        StrategyResult(
            "test_iris",
            strategy,
            seed,
            "local/nano",
            validation=hits("validation", validation, 35),
            test=hits("test", test + shift, 50),
            spend=spend,
            reference=reference,
        )
        for strategy, (validation, test, spend, reference) in rows.items()
    ]
    results.append(
        StrategyResult("test_iris", "w -> w", seed, "local/nano", reason="no trace passed the metric", reference=38.0)
    )
    return [SuiteRun("test_iris", (result,)) for result in results]


GATE = GateResult("test_iris", "p -> w -> p", 0.74, 0.604, 0.841, 0.85, False, "tuned/test_iris.json")


def with_gate(runs: list[SuiteRun], gate: GateResult = GATE) -> list[SuiteRun]:
    return [*runs, SuiteRun("test_iris", (), gate)]
