"""What a metric may do, and what becomes of it."""

from __future__ import annotations

import math
import unittest
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from harness.data import Example
from harness.errors import MetricError
from harness.metric import Metric, Verdict
from harness.suites import suite, suite_of
from harness.trace import Trace

EXAMPLE = Example({"answer": "a"})


def judged(function: Any, prediction: Any = "a", **fixtures: Any) -> Verdict:
    return Metric(function, "s", fixtures)(EXAMPLE, prediction, Trace())


def test_an_assertion_scores_0_and_its_text_is_the_feedback() -> None:
    def metric(example: Example, prediction: str) -> None:
        assert prediction == example.answer, "another letter"

    assert judged(metric) == Verdict(1.0)
    assert judged(metric, "b").score == 0.0
    assert "another letter" in judged(metric, "b").feedback


def test_pytest_fail_and_helpers_that_assert() -> None:
    def assert_same(one: str, other: str) -> None:
        if one != other:
            pytest.fail(f"{one} is not {other}")

    def metric(example: Example, prediction: str) -> None:
        assert_same(prediction, example.answer)

    assert judged(metric) == Verdict(1.0)
    assert judged(metric, "b") == Verdict(0.0, "b is not a")


@pytest.mark.parametrize(("returned", "score"), [(True, 1.0), (False, 0.0), (0.25, 0.25), (0, 0.0), (1, 1.0)])
def test_bools_and_floats(returned: Any, score: float) -> None:
    def metric(prediction: str) -> Any:  # noqa: ARG001
        return returned

    assert judged(metric) == Verdict(score)


def test_parts_that_add_up_on_paper_add_up() -> None:
    assert judged(lambda prediction: 0.7 + 0.2 + 0.1) == Verdict(1.0)  # noqa: ARG005 -- 0.9999999999999999
    assert judged(lambda prediction: 0.3 - 0.1 - 0.2) == Verdict(0.0)  # noqa: ARG005 -- -2.8e-17
    assert judged(lambda prediction: 1.1 * 1.1 - 0.21) == Verdict(1.0)  # noqa: ARG005 -- 1.0000000000000002


@pytest.mark.parametrize("returned", [1.7, -0.1, math.nan, math.inf, "yes", "0.5", [], None, {"score": 1}])
def test_everything_else_is_an_error_that_names_the_suite(returned: Any) -> None:
    def metric(prediction: str) -> Any:  # noqa: ARG001
        return returned

    with pytest.raises(MetricError, match="suite 's': the metric returned"):
        judged(metric)


def test_a_metric_may_return_a_score_after_asserting() -> None:
    def metric(prediction: str) -> float:
        assert prediction
        return 0.5

    assert judged(metric) == Verdict(0.5)
    assert judged(metric, "").score == 0.0


def test_other_arguments_are_fixtures_and_the_trace_is_given() -> None:
    def metric(trace: Trace, prediction: str, table: dict[str, float]) -> float:
        assert trace == Trace()
        return table[prediction]

    assert judged(metric, table={"a": 0.75}, unused=1) == Verdict(0.75)


def test_an_error_of_the_metric_is_no_score() -> None:
    def metric(example: Example, prediction: str) -> bool:
        return bool({}[prediction] == example)

    with pytest.raises(KeyError):
        judged(metric)


def test_async_metrics() -> None:
    async def metric(example: Example, prediction: str) -> None:
        assert prediction == example.answer

    assert judged(metric) == Verdict(1.0)
    assert judged(metric, "b").score == 0.0


def test_references_may_be_written_without_blanks() -> None:
    @suite(program=print, data={}, references={"p->w": 1.0, "llama": {"p->w->p": 2.0}})
    def test_it(example: object) -> None: ...

    found = suite_of(test_it)
    assert found is not None
    assert (found.reference("p -> w", "x"), found.reference("p -> w -> p", "local/llama")) == (1.0, 2.0)


def _raises_skip_test(reason: str) -> NoReturn:
    raise unittest.SkipTest(reason)


@pytest.mark.parametrize("skip", [pytest.skip, _raises_skip_test])
def test_a_metric_cannot_skip_an_example(skip: Callable[[str], NoReturn]) -> None:
    def metric(example: Example, prediction: str) -> None:
        if example.answer == "a":
            skip("no gold answer")
        assert prediction

    with pytest.raises(MetricError, match=r"skips an example \(no gold answer\); leave such rows out"):
        judged(metric)


def test_an_expected_failure_is_a_failure() -> None:
    def metric(prediction: str) -> None:
        pytest.xfail(f"{prediction} is hard")

    assert judged(metric) == Verdict(0.0, "a is hard")
