"""One metric call: what the test function asserted or returned becomes a score with its feedback."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import SkipTest

import pytest

from harness.awaiting import finished
from harness.data import Example
from harness.errors import MetricError
from harness.suites import METRIC_INPUTS
from harness.trace import Trace

__all__ = ["Metric", "Verdict"]

_CHECKS = ("assert", "check", "expect", "fail", "raises", "verify", "@pytest_ar", "@py_assert")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A score in [0, 1] and, where the metric asserted, what pytest says of the failed assertion."""

    score: float
    feedback: str = ""


class Metric:
    """A suite's test function with its fixtures filled in, called once for each example."""

    def __init__(self, function: Callable[..., Any], suite: str, fixtures: Mapping[str, Any] | None = None) -> None:
        self._function, self._suite = function, suite
        wanted = inspect.signature(function).parameters
        self._given = [name for name in METRIC_INPUTS if name in wanted]
        self._fixtures = {key: value for key, value in (fixtures or {}).items() if key in wanted}
        self._asserts = _asserts(function)

    def __call__(self, example: Example, prediction: Any, trace: Trace) -> Verdict:
        """Score one prediction; may be called from several threads at once.

        A failed assertion (or ``pytest.fail``) scores 0. Raises `MetricError` where the metric returns
        something that is no score or skips; every other exception of the metric is raised as it is.
        """
        values = {"example": example, "prediction": prediction, "trace": trace}
        arguments = {**self._fixtures, **{name: values[name] for name in self._given}}
        try:
            returned = self._function(**arguments)
            if inspect.isawaitable(returned):
                returned = asyncio.run(finished(returned))
        except AssertionError as error:
            return Verdict(0.0, str(error) or "the assertion failed")
        except pytest.fail.Exception as error:
            return Verdict(0.0, str(error.msg))
        except (pytest.skip.Exception, SkipTest) as error:
            # One example's skip would be the whole item's, its gate included.
            raise MetricError(
                f"suite {self._suite!r}: the metric skips an example ({error}); leave such rows out of the data, or "
                "skip the suite by a mark or in a fixture."
            ) from error
        return Verdict(self._score(returned))

    def _score(self, returned: Any) -> float:
        if returned is None and self._asserts:
            return 1.0
        if returned is None:
            raise MetricError(
                f"suite {self._suite!r}: the metric returned None and asserts nothing; "
                "assert, or return a bool or a float in [0, 1]."
            )
        try:
            # To 12 decimals, like every mean: parts that add up to 1 on paper are 1, and pass.
            score = round(float(returned), 12) + 0.0
        except (TypeError, ValueError):
            score = math.nan
        if not 0 <= score <= 1 or isinstance(returned, str):
            raise MetricError(
                f"suite {self._suite!r}: the metric returned {returned!r}; a score is a bool or a float in [0, 1]."
            )
        return score


def _asserts(function: Callable[..., Any]) -> bool:
    """Whether the code asserts, itself or through a helper that is named like one."""
    code = inspect.unwrap(function).__code__
    names = (*code.co_names, *code.co_varnames, *code.co_freevars)
    return (
        "AssertionError" in names
        or _loads_assertion_error(function)
        or any(name.lower().lstrip("_").startswith(_CHECKS) for name in names)
    )


def _loads_assertion_error(function: Callable[..., Any]) -> bool:
    import dis

    return any(step.opname == "LOAD_ASSERTION_ERROR" for step in dis.get_instructions(inspect.unwrap(function)))
