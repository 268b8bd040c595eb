"""A suite's figures as JUnit properties, for CI servers that show them per test."""

from __future__ import annotations

from harness.report.format import DASH, strategy_text
from harness.report.safe import one_line
from harness.report.summary import summarize
from harness.results import SuiteRun

__all__ = ["user_properties"]


def user_properties(run: SuiteRun) -> list[tuple[str, str]]:
    """(name, value) pairs for ``item.user_properties``, which ``--junit-xml`` writes out.

    Scores are shares in [0, 1] with four decimals: ``bt.p->w.test``, ``bt.p->w.test_low``; a dash where there is
    none, with ``bt.p->w.reason``. The gate is ``bt.gate`` (passed or failed) and ``bt.threshold``.
    """
    properties = []
    for summary in summarize([run]):
        for row in summary.strategies:
            name = f"bt.{strategy_text(row.strategy).replace(' ', '')}"
            for split, score in (("validation", row.validation), ("test", row.test)):
                properties.append((f"{name}.{split}", DASH if score is None else f"{score.mean:.4f}"))
                if score is not None:
                    properties += [
                        (f"{name}.{split}_low", f"{score.low:.4f}"),
                        (f"{name}.{split}_high", f"{score.high:.4f}"),
                    ]
            properties += [(f"{name}.reason", one_line(reason)) for reason, _ in row.reasons]
            properties.append((f"{name}.calls", str(row.spend.calls)))
            properties.append((f"{name}.saved", str(row.spend.cached)))
    if run.gate is not None:
        properties.append(("bt.gate", "passed" if run.gate.passed else "failed"))
        properties.append(("bt.chosen", strategy_text(run.gate.strategy).replace(" ", "")))
        if run.gate.threshold is not None:
            properties.append(("bt.threshold", f"{run.gate.threshold:.4f}"))
    return properties
