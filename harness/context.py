"""Which LM, state and sampling a module call uses: a context variable, so that runs never touch each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.lm.request import LMRef, Sampling
from harness.state import State
from harness.trace import Recorder

if TYPE_CHECKING:
    from harness.lm.client import Client
    from harness.runtime import Runtime

__all__ = ["DEFAULT_LM", "Context", "configure", "current", "default_runtime", "running"]

DEFAULT_LM = "local/nano"


@dataclass(frozen=True)
class Context:
    """Everything a module call needs beside its inputs. ``rollout`` and ``seed`` tell samples apart."""

    client: Client
    state: State
    sampling: Sampling = Sampling()
    rollout: int = 0
    seed: int = 0
    recorder: Recorder = field(default_factory=Recorder)


_current: ContextVar[Context | None] = ContextVar("harness_context", default=None)
_default: tuple[Runtime, Context] | None = None
_lock = threading.Lock()


@contextmanager
def running(context: Context) -> Iterator[Context]:
    """Make ``context`` the current one for this thread or task."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def current() -> Context:
    """The current context; outside of every run, the one of `configure` with a recorder of its own."""
    context = _current.get()
    return context if context is not None else replace(default_context(), recorder=Recorder())


def default_context() -> Context:
    """What `configure` set up, or the LM of ``BT_LM`` (the embedded LM where that is not set)."""
    return _ready()[1]


def default_runtime() -> Runtime:
    """The store, adapters and client of `default_context`."""
    return _ready()[0]


def configure(lm: str | None = None, *, sampling: Sampling | None = None, store: Path | str | None = None) -> None:
    """Set the LM that module calls use outside of a suite and of a loaded program.

    ``lm`` is a litellm model string or ``local/NAME_OR_PATH``; ``store`` a folder that keeps finished calls
    (without one they live as long as the process). Raises `StoreError` where that cannot be used.
    """
    global _default
    made = _make(lm, sampling, store)
    with _lock:
        previous, _default = _default, made
    if previous is not None:
        previous[0].close()


def _ready() -> tuple[Runtime, Context]:
    global _default
    with _lock:
        if _default is None:
            _default = _make(None, None, None)
        return _default


def _make(lm: str | None, sampling: Sampling | None, store: Path | str | None) -> tuple[Runtime, Context]:
    from harness.runtime import Runtime

    runtime = Runtime.open(Path(store) if store is not None else None)
    state = State(LMRef(lm or os.environ.get("BT_LM", DEFAULT_LM)))
    return runtime, Context(runtime.client, state, sampling or Sampling())
