"""What a run had no budget left for, in words."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.format import strategy_label
from harness.report.safe import one_line
from harness.results import SuiteRun

__all__ = ["left_out_text"]


def left_out_text(runs: Sequence[SuiteRun]) -> str:
    """One line with the reason and one with what is missing; empty where nothing is."""
    missing = [(run.suite, run.left_out) for run in runs if run.left_out is not None]
    if not missing:
        return ""
    names = [f"{one_line(suite)} [{strategy_label(left.what)}]" for suite, left in missing]
    return f"Stopped: {one_line(missing[0][1].reason)}.\nLeft out: {', '.join(dict.fromkeys(names))}\n"
