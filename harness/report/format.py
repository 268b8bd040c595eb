"""Numbers and names as people read them, the same in every report."""

from __future__ import annotations

import math
import re

from harness.report.safe import one_line

__all__ = ["DASH", "count", "distinct_percents", "duration", "percent", "points", "strategy_label", "strategy_text"]

DASH = "–"
"""Shown where there is no figure."""


def percent(score: float | None, digits: int = 1) -> str:
    """A score in [0, 1] as percent without the sign: ``57.3``; a dash for None and NaN."""
    return DASH if score is None or math.isnan(score) else f"{100 * score:.{digits}f}"


def points(difference: float) -> str:
    """A difference of scores in percentage points, signed: ``+30.0``. Zero has a plus, whatever its sign."""
    text = f"{100 * difference:+.1f}"
    return "+0.0" if text == "-0.0" else text


def distinct_percents(first: float, second: float) -> tuple[str, str]:
    """Two scores as percent, with as many decimals (one to six) as it takes to tell them apart."""
    for digits in range(1, 7):
        texts = percent(first, digits), percent(second, digits)
        if first == second or texts[0] != texts[1]:
            break
    return texts


def count(number: int) -> str:
    """A count in at most seven characters: ``12,345``, ``123k``, ``4.6M``."""
    if number < 100_000:
        return f"{number:,}"
    return f"{number / 1e3:,.0f}k" if number < 999_500 else f"{number / 1e6:,.1f}M"


def duration(seconds: float) -> str:
    """``3.2s``, ``42s``, ``3m 20s``, ``2h 05m``; a dash for NaN."""
    if math.isnan(seconds):
        return DASH
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}h {minutes % 60:02}m"


def strategy_label(strategy: str) -> str:
    """A strategy as the reports show it: ``p -> w -> p`` and ``p-w-p`` become ``p → w → p``."""
    text = one_line(strategy)
    separator = "->" if "->" in text else "-" if re.fullmatch(r"\w(-\w)+", text) else "→"
    return " → ".join(step.strip() for step in text.split(separator)) or "vanilla"


def strategy_text(strategy: str) -> str:
    """A strategy as it is written on the command line: ``p -> w -> p``."""
    return strategy_label(strategy).replace("→", "->")
