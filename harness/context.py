"""Which LM, state and sampling a module call uses: a context variable, so that runs never touch each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from harness.errors import SuiteError
from harness.lm.request import LMRef, Sampling
from harness.state import State
from harness.trace import Recorder

if TYPE_CHECKING:
    from harness.lm.client import Client
    from harness.lm.table import Endpoints
    from harness.runtime import Runtime

__all__ = [
    "DEFAULT_LM",
    "Context",
    "Lease",
    "configure",
    "configured_endpoints",
    "current",
    "default_runtime",
    "lease_runtime",
    "running",
    "within_suite",
]

DEFAULT_LM = "local/nano"


@dataclass(frozen=True)
class Context:
    """Everything a module call needs beside its inputs. ``rollout`` and ``seed`` tell samples apart.

    ``ahead`` is how many further rollouts of the run may follow.
    """

    client: Client
    state: State
    sampling: Sampling = Sampling()
    rollout: int = 0
    seed: int = 0
    recorder: Recorder = field(default_factory=Recorder)
    ahead: int = 0


class Lease:
    """Keeps a runtime open for as long as it lives itself, whatever `configure` does meanwhile."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime


@dataclass(frozen=True, eq=False)
class _Opened:
    """What one `configure` set up, and who has borrowed it."""

    runtime: Runtime
    context: Context
    leases: WeakSet[Lease] = field(default_factory=WeakSet)


_current: ContextVar[Context | None] = ContextVar("harness_context", default=None)
_default: _Opened | None = None
_former: list[_Opened] = []
_endpoints: Endpoints = {}
_lock = threading.Lock()
_suites = 0
"""How many times `within_suite` is entered."""


@contextmanager
def running(context: Context) -> Iterator[Context]:
    """Make ``context`` the current one for this thread or task."""
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


@contextmanager
def within_suite() -> Iterator[None]:
    """Refuse calls of modules without a context: made by a suite's program, they would go to another LM, unnoticed."""
    global _suites
    with _lock:
        _suites += 1
    try:
        yield
    finally:
        with _lock:
            _suites -= 1


def current(module: str) -> Context:
    """The context that a module is called in; outside of every run, the one of `configure` with a recorder of its own.

    Raises `SuiteError` where a suite runs, in another context.
    """
    context = _current.get()
    if context is None and _suites:
        raise SuiteError(
            f"module {module!r} was called in a thread without the context of the suite's run, which says what LM "
            "and prompt to use; give each call a copy of its own, by contextvars.copy_context().run say, or use "
            "asyncio.to_thread, which does so."
        )
    return context if context is not None else replace(default_context(), recorder=Recorder())


def default_context() -> Context:
    """What `configure` set up, or the LM of ``BT_LM`` (the embedded LM where that is not set)."""
    return _ready().context


def default_runtime() -> Runtime:
    """The store, adapters and client of `default_context`."""
    return _ready().runtime


def lease_runtime() -> Lease:
    """The same for somebody who goes on after the next `configure`."""
    with _lock:
        opened = _opened()
        lease = Lease(opened.runtime)
        opened.leases.add(lease)
        return lease


def configure(
    lm: str | None = None,
    *,
    sampling: Sampling | None = None,
    store: Path | str | None = None,
    endpoints: Mapping[str, Any] | None = None,
) -> None:
    """Set the LM that module calls use outside of a suite and of a loaded program, and how LMs are reached.

    ``lm`` is a litellm model string or ``local/NAME_OR_PATH``; ``store`` a folder that keeps finished calls
    (without one they live as long as the process). ``endpoints`` is the LM table, with the names and settings that it
    has in ``pyproject.toml``; suites heed it as well, where it was set before they run, in a ``conftest.py`` say.
    Programs that were loaded before stay as they are: what they use is closed by the first call after they are gone.
    Raises `StoreError` where the store cannot be used, and `UsageError` for a table that is none.
    """
    global _default, _endpoints
    from harness.lm.table import endpoints_from

    table = endpoints_from(endpoints or {})
    made = _make(lm, sampling, store, table)
    with _lock:
        if _default is not None:
            _former.append(_default)
        _default, _endpoints = made, table
        idle = [opened for opened in _former if not opened.leases]
        _former[:] = [opened for opened in _former if opened not in idle]
    for opened in idle:
        opened.runtime.close()


def configured_endpoints() -> Endpoints:
    """The LM table of the last `configure`."""
    return _endpoints


def _ready() -> _Opened:
    with _lock:
        return _opened()


def _opened() -> _Opened:
    global _default
    if _default is None:
        _default = _make(None, None, None, {})
    return _default


def _make(lm: str | None, sampling: Sampling | None, store: Path | str | None, endpoints: Endpoints) -> _Opened:
    from harness.runtime import Runtime

    runtime = Runtime.open(Path(store) if store is not None else None, endpoints=endpoints)
    state = State(LMRef(lm or os.environ.get("BT_LM") or DEFAULT_LM))
    return _Opened(runtime, Context(runtime.client, state, sampling or Sampling()))
