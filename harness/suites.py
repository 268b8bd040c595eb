"""``@suite``: a pytest function becomes a metric over a dataset for a program, with a gate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.errors import SuiteError

__all__ = ["METRIC_INPUTS", "Suite", "suite", "suite_of"]

F = TypeVar("F", bound=Callable[..., Any])

METRIC_INPUTS = ("example", "prediction", "trace")
"""Arguments of a metric that the harness gives; every other one is a pytest fixture."""

_ATTRIBUTE = "__bt_suite__"


@dataclass(frozen=True)
class Suite:
    """What ``@suite`` was told. ``threshold`` and ``max_unscored`` are fractions in [0, 1]."""

    name: str
    program: Callable[..., Any]
    data: Any
    threshold: float | None = None
    max_unscored: float = 0.05
    stratify: str | None = None
    references: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def suite(
    *,
    program: Callable[..., Any],
    data: Any,
    threshold: float | None = None,
    max_unscored: float = 0.05,
    stratify: str | None = None,
    references: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Callable[[F], F]:
    """Make a test function the metric of ``program`` over ``data``.

    The function gets ``example``, ``prediction`` and, if it asks, ``trace``; other arguments are fixtures, set
    up once for all examples. It asserts, returns a bool, or returns a float in [0, 1].

    ``data`` is a mapping of ``train``, ``validation`` and ``test`` to rows (a `datasets.DatasetDict`, say), or a
    callable that returns one. The mean test score must reach ``threshold``; more than ``max_unscored`` of the
    examples left without a score fail the suite. ``stratify`` names the field whose values the sub-samples of
    prompt optimization keep in balance. ``references`` are published scores in percent by strategy
    (``"p -> w"``). ``settings`` are this suite's own optimization settings (see `Settings`).
    Raises `SuiteError` where an argument cannot be.
    """

    def decorate(function: F) -> F:
        name = function.__name__.removeprefix("test_")
        if not callable(program):
            raise SuiteError(f"suite {name!r}: program= must be a function, not {program!r}.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise SuiteError(f"suite {name!r}: threshold={threshold} is not between 0 and 1.")
        if not 0 <= max_unscored <= 1:
            raise SuiteError(f"suite {name!r}: max_unscored={max_unscored} is not between 0 and 1.")
        wanted = inspect.signature(function).parameters
        if not {"example", "prediction"} & set(wanted):
            raise SuiteError(f"suite {name!r}: the metric takes neither 'example' nor 'prediction'; add them.")
        made = Suite(
            name, program, data, threshold, max_unscored, stratify, dict(references or {}), dict(settings or {})
        )
        setattr(function, _ATTRIBUTE, made)
        return function

    return decorate


def suite_of(function: Any) -> Suite | None:
    """The suite a test function was made into, if it was."""
    return getattr(function, _ATTRIBUTE, None)
