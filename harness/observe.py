"""How long work tells of its progress, without knowing who shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["NullObserver", "Observer", "watched"]


class Observer(Protocol):
    """Told of the steps under way; every method may be called from any thread, thousands of times a second.

    A task is named by the words shown to people, one at a time under that name (``iris p → w: training``).
    An observer never raises: what it shows must not decide how work ends.
    """

    def started(self, task: str, total: int | None = None, unit: str = "calls") -> None:
        """A task begins. ``total`` counts in ``unit``, or is None where it is not known beforehand."""
        ...

    def advanced(self, task: str, done: int = 1, cached: int = 0, tokens: int = 0) -> None:
        """``done`` more units are finished, ``cached`` of them from memory or store; ``tokens`` were spent."""
        ...

    def finished(self, task: str, note: str = "") -> None:
        """The task ended, well or not; ``note`` says in words what came of it."""
        ...


class NullObserver:
    """Shows nothing: for ``-q``, for worker processes and wherever nobody looks."""

    def started(self, task: str, total: int | None = None, unit: str = "calls") -> None:
        """Nothing."""

    def advanced(self, task: str, done: int = 1, cached: int = 0, tokens: int = 0) -> None:
        """Nothing."""

    def finished(self, task: str, note: str = "") -> None:
        """Nothing."""


@contextmanager
def watched(observer: Observer, task: str, total: int | None = None, unit: str = "runs") -> Iterator[None]:
    """Tell ``observer`` of a task's begin and, however the block is left, of its end."""
    observer.started(task, total, unit)
    note = "stopped"
    try:
        yield
        note = ""
    finally:
        observer.finished(task, note)
