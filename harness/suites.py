"""``@suite``: a pytest function becomes a metric over a dataset for a program, with a gate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.errors import SuiteError

__all__ = ["METRIC_INPUTS", "References", "Suite", "suite", "suite_of"]

F = TypeVar("F", bound=Callable[..., Any])

METRIC_INPUTS = ("example", "prediction", "trace")
"""Arguments of a metric that the harness gives; every other one is a pytest fixture."""

References = Mapping[str, float | Mapping[str, float]]
"""Published scores in percent, by strategy; or such scores by the name of the LM they were measured with."""

EMBEDDED_LM = "local/nano"

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
    references: References = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""

    def reference(self, strategy: str, lm: str) -> float | None:
        """The published score of a strategy (``"p -> w"``) with the LM of a model string, where there is one."""
        for family, scores in self.references.items():
            if isinstance(scores, Mapping) and family.casefold() in lm.casefold() and strategy in scores:
                return scores[strategy]
        score = self.references.get(strategy)
        return None if isinstance(score, Mapping) else score

    def lack(self, lm: str) -> str:
        """Why the suite is not for this LM; empty where it is. Only of the embedded LM is known what it cannot do."""
        if not self.needs or lm != EMBEDDED_LM:
            return ""
        return f"needs {self.needs}, which {lm} is not; name one with --bt-lm, or run it anyway with --bt-all"


def suite(
    *,
    program: Callable[..., Any],
    data: Any,
    threshold: float | None = None,
    max_unscored: float = 0.05,
    stratify: str | None = None,
    references: References | None = None,
    settings: Mapping[str, Any] | None = None,
    needs: str = "",
) -> Callable[[F], F]:
    """Make a test function the metric of ``program`` over ``data``.

    The function gets ``example``, ``prediction`` and, if it asks, ``trace``; other arguments are fixtures, set
    up once for all examples. It asserts, returns a bool, or returns a float in [0, 1].

    ``data`` is a mapping of ``train``, ``validation`` and ``test`` to rows (a `datasets.DatasetDict`, say), or a
    callable that returns one: a function of yours, or `harness.drawn` from a Hypothesis strategy. The mean test
    score must reach ``threshold``; more than ``max_unscored`` of the examples left without a score fail the suite.
    ``stratify`` names the field whose values the sub-samples of prompt optimization keep in balance.
    ``references`` are published scores in percent by strategy (``"p -> w"``), or such mappings by the name of an
    LM, which counts where the model string holds it, in any case. ``settings`` are this suite's own optimization
    settings (see `Settings`). ``needs`` says which kind of LM the task takes (``"an instruction-tuned LM"``): with
    the embedded LM the suite is then skipped with that reason, before its data is loaded, unless ``--bt-all`` is
    given.
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
        if suite_of(function) is not None:
            raise SuiteError(f"suite {name!r}: the function is a suite already; give each suite a function of its own.")
        wanted = inspect.signature(function).parameters
        asked = [argument for argument in ("example", "prediction") if argument in wanted]
        if not asked:
            raise SuiteError(f"suite {name!r}: the metric takes neither 'example' nor 'prediction'; add them.")
        for argument in asked:
            if wanted[argument].default is not inspect.Parameter.empty:
                raise SuiteError(
                    f"suite {name!r}: pytest gives no value to {argument!r}, which has a default; remove it."
                )
        known = _plain(references or {})
        made = Suite(name, program, data, threshold, max_unscored, stratify, known, dict(settings or {}), needs)
        setattr(function, _ATTRIBUTE, made)
        return function

    return decorate


def _plain(references: References) -> References:
    """With strategies as the harness writes them: ``"p -> w"`` for ``"p->w"``."""
    plain: dict[str, Any] = {}
    for name, value in references.items():
        strategy = " -> ".join(step.strip() for step in name.split("->"))
        plain[strategy] = _plain(value) if isinstance(value, Mapping) else value
    return plain


def suite_of(function: Any) -> Suite | None:
    """The suite a test function was made into, if it was."""
    return getattr(function, _ATTRIBUTE, None)
