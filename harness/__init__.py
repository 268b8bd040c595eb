"""Evaluate and optimize language-model programs with pytest (BetterTogether, arXiv 2407.10930)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.context import configure
    from harness.draws import drawn
    from harness.lm.request import Sampling
    from harness.modules import module
    from harness.suites import suite
    from harness.tuned import load

__all__ = ["Sampling", "configure", "drawn", "load", "module", "suite"]

_HOMES = {
    "Sampling": "harness.lm.request",
    "configure": "harness.context",
    "drawn": "harness.draws",
    "load": "harness.tuned",
    "module": "harness.modules",
    "suite": "harness.suites",
}


def __getattr__(name: str) -> Any:
    """Import public names at first use: pytest loads this package in every run, suites or not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
