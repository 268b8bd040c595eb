"""One way to an LM for every caller: durable cache, single flight, retries, limits and counters.

Calls are answered on one event loop in a thread of the client's own, so that synchronous callers in many threads
and coroutines on any loop share its connections, its limits and the calls in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextvars import Context
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Self

from harness.errors import ConnectionFailedError, HarnessError, LMError, LMTimeoutError
from harness.lm.request import (
    Completion,
    Provider,
    ProviderFactory,
    Reply,
    Request,
    StructuredProvider,
    Usage,
    digest_of,
)
from harness.lm.retry import RetryPolicy

if TYPE_CHECKING:
    from harness.store import Store

__all__ = ["CallStats", "Client", "Gate", "Observer"]

Gate = Callable[[Request], None]
"""Called on the client's thread right before each request to an LM, a retry included; raising fails that call."""

Observer = Callable[[Request, Reply | BaseException], None]
"""Called once for each call as it ends, from whichever thread ended it; quick, and must not raise.

Also called with the error of each try before the last that used tokens. Where several wait for a call, the error that
the first of them gets is the one that has the ``usage``.
"""

# Together under the two seconds that `Client.close` promises.
_DRAIN_SECONDS = 0.8
_SHUTDOWN_SECONDS = 0.4
_MEMORY_CALLS = 10_000
_DEAD = 20
"""After so many calls in a row that nobody answered an LM's further calls are tried once each, until an answer comes,
a refusal included: a run on a server that is gone ends in seconds, not hours."""


@dataclass(frozen=True, slots=True)
class CallStats:
    """What a client did so far; the difference of two is what happened in between.

    ``made`` calls were sent to an LM (once each, however often retried), ``cached`` were found in the store,
    ``shared`` joined an identical call in flight, ``retried`` counts further tries, ``failed`` calls ended with an
    error. Tokens are those of the calls made, answers that could not be used included.
    """

    made: int = 0
    cached: int = 0
    shared: int = 0
    retried: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __sub__(self, earlier: CallStats) -> CallStats:
        return CallStats(*(now - then for now, then in zip(astuple(self), astuple(earlier), strict=True)))


@dataclass(slots=True)
class _Slot:
    """A provider with what holds for all of its calls."""

    provider: Provider
    identity: str
    room: asyncio.Semaphore
    fatal: LMError | None = None
    unanswered: int = 0


@dataclass(slots=True, eq=False)
class _Flight:
    """One call on its way and everybody who waits for it; the first who stays is the one it is made for."""

    key: str
    request: Request
    slot: _Slot
    waiters: list[Future[Reply]] = field(default_factory=list)
    task: asyncio.Task[Completion] | None = None


class Client:
    """Answers LM calls, from the store where it can. Thread-safe; a context manager that closes it.

    ``store`` None keeps the last 10,000 calls in memory. ``sleep`` is how the client waits before
    another try, in seconds.
    """

    def __init__(
        self,
        store: Store | None,
        provider_factory: ProviderFactory,
        *,
        retry: RetryPolicy | None = None,
        gate: Gate | None = None,
        on_call: Observer | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store: Store | _Memory = _Memory() if store is None else store
        self._factory = provider_factory
        self._retry = retry or RetryPolicy()
        self._gate = gate
        self._on_call = on_call
        self._sleep = sleep
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._slots: dict[str, _Slot | LMError] = {}
        self._flights: dict[str, _Flight] = {}
        self._stats = CallStats()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # One thread: SQLite has one writer, and the event loop must not wait for another process's write.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="bt-store")

    def submit(self, request: Request) -> Future[Reply]:
        """Ask an LM without waiting. Any thread may; from a coroutine use `ask`.

        The future fails with `LMError`, with `StoreError`, or with what the gate or a defective provider raised.
        Cancelling it leaves others who wait for the same call alone. Raises `RuntimeError` on a closed client.
        """
        self._check_open()
        waiter: Future[Reply] = Future()
        try:
            slot = self._slot(request.lm.model)
        except LMError as error:
            self._resolve(request, [waiter], error)
            return waiter
        key = digest_of([slot.identity, request.digest])
        with self._lock:
            self._check_open()
            flight = self._flights.get(key)
            joined = flight is not None
            if flight is None:
                flight = self._flights[key] = _Flight(key, request, slot)
            flight.waiters.append(waiter)
        waiter.add_done_callback(partial(self._leave, flight))
        if not joined:
            self._depart(flight)
        return waiter

    async def ask(self, request: Request) -> Reply:
        """Ask an LM from a coroutine, on any event loop; raises what `submit`'s future would."""
        return await asyncio.wrap_future(self.submit(request))

    def call(self, request: Request) -> Reply:
        """Ask an LM and wait; raises what `submit`'s future would. An interrupt cancels the call."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a call that waits on the client's own thread would never end; use ask()")
        waiter = self.submit(request)
        try:
            return waiter.result()
        except BaseException:
            waiter.cancel()
            raise

    def stats(self) -> CallStats:
        """The counters now."""
        with self._lock:
            return self._stats

    def identity(self, model: str) -> str:
        """What stands behind a model string (`Provider.identity`); raises `UnknownModelError`."""
        return self._slot(model).identity

    def takes_schema(self, model: str) -> bool:
        """Whether a model's replies can be held to a JSON schema; raises `UnknownModelError`."""
        provider = self._slot(model).provider
        return isinstance(provider, StructuredProvider) and provider.takes_schema()

    def provider(self, model: str) -> Provider:
        """The provider of a model string, made at its first use; raises `UnknownModelError`."""
        return self._slot(model).provider

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is in flight, keep what is finished, close the providers. Takes at most about 2 seconds.

        (A provider whose own ``close`` takes longer takes as long as it needs.) Further calls raise.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            flights = list(self._flights.values())
            loop, thread = self._loop, self._thread
        if loop is not None:
            with contextlib.suppress(FutureTimeoutError):
                asyncio.run_coroutine_threadsafe(_cancel_all(_DRAIN_SECONDS), loop).result(_DRAIN_SECONDS)
        for flight in flights:
            # What did not heed its cancellation, or never started.
            self._settle(flight, None)
        try:
            for slot in list(self._slots.values()):
                if isinstance(slot, _Slot):
                    slot.provider.close()
        finally:
            # Behind the writes that are under way, so that the store may be closed next; they end in any case.
            with contextlib.suppress(FutureTimeoutError):
                self._writer.submit(lambda: None).result(_SHUTDOWN_SECONDS)
            self._writer.shutdown(wait=False)
            if loop is not None and thread is not None:
                stopped = asyncio.run_coroutine_threadsafe(_cancel_all(_SHUTDOWN_SECONDS), loop)
                stopped.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
                thread.join(_SHUTDOWN_SECONDS)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the LM client is closed")

    def _slot(self, model: str) -> _Slot:
        known = self._slots.get(model)
        if known is None:
            # A provider may take seconds to make; whoever needs another one meanwhile waits.
            with self._making:
                known = self._slots.get(model)
                if known is None:
                    known = self._made(model)
                    if self._closed and isinstance(known, _Slot):
                        known.provider.close()
                    self._check_open()
                    self._slots[model] = known
        if isinstance(known, LMError):
            raise _fresh(known)
        return known

    def _made(self, model: str) -> _Slot | LMError:
        try:
            provider = self._factory(model)
            return _Slot(provider, provider.identity(), asyncio.Semaphore(max(1, provider.concurrency)))
        except LMError as error:
            if not error.fatal:
                raise
            return error

    def _depart(self, flight: _Flight) -> None:
        """Answer a new flight from the store, else hand it to the event loop."""
        # Only now, after entering the table of flights: a call that had left the table before was stored before.
        try:
            found = self._store.get_call(flight.key)
            if found is None:
                self._running_loop().call_soon_threadsafe(self._start, flight, context=Context())
        except HarnessError as error:
            self._settle(flight, error)
        except BaseException:
            self._settle(flight, None)
            raise
        else:
            if found is not None:
                self._settle(flight, found, cached=True)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            self._check_open()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(self._loop,), name="bt-lm", daemon=True)
                self._thread.start()
            return self._loop

    def _start(self, flight: _Flight) -> None:
        with self._lock:
            if self._closed or self._flights.get(flight.key) is not flight:
                return
            flight.task = asyncio.get_running_loop().create_task(self._fly(flight))
        flight.task.add_done_callback(partial(self._land, flight))

    async def _fly(self, flight: _Flight) -> Completion:
        async with flight.slot.room:
            answered = await self._answered(flight)
        completion, *more = (_encodable(one) for one in (replace(answered, more=()), *answered.more))
        # Paid for already: a cancelled caller does not undo the write.
        kept = asyncio.get_running_loop().run_in_executor(self._writer, self._keep, flight, completion, more)
        return await asyncio.shield(kept)

    async def _answered(self, flight: _Flight) -> Completion:
        request, slot, attempt = flight.request, flight.slot, 0
        while True:
            attempt += 1
            if slot.fatal is not None:
                raise _fresh(slot.fatal)
            if self._gate is not None:
                self._gate(request)
            self._count(made=int(attempt == 1), retried=int(attempt > 1))
            try:
                # The place among the concurrent requests is kept while waiting: a server in trouble gets fewer.
                completion = await slot.provider.complete(request)
            except LMError as error:
                if error.fatal:
                    slot.fatal = error
                wait = self._retry.wait(error, attempt, request.digest)
                silent = isinstance(error, ConnectionFailedError | LMTimeoutError)
                slot.unanswered = slot.unanswered if silent else 0
                self._used(error.usage)
                if wait is None or slot.unanswered >= _DEAD:
                    slot.unanswered += silent
                    raise
                if error.usage is not None and self._on_call is not None:
                    self._on_call(request, error)
            else:
                slot.unanswered = 0
                self._used(completion.usage)
                return completion
            await self._sleep(wait)

    def _keep(self, flight: _Flight, completion: Completion, more: Sequence[Completion]) -> Completion:
        for number, later in enumerate(more, start=1):
            request = replace(flight.request, rollout=flight.request.rollout + number)
            self._store.put_call(digest_of([flight.slot.identity, request.digest]), request, later)
        if self._store.put_call(flight.key, flight.request, completion):
            return completion
        # Another process was first. Its answer is the one a rerun will see, so it is the answer here as well.
        return self._store.get_call(flight.key) or completion

    def _land(self, flight: _Flight, task: asyncio.Task[Completion]) -> None:
        if task.cancelled():
            self._settle(flight, None)
        else:
            self._settle(flight, task.exception() or task.result())

    def _settle(self, flight: _Flight, end: Completion | BaseException | None, *, cached: bool = False) -> None:
        """End a flight for all who wait; None cancels them."""
        with self._lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            waiters, flight.waiters = flight.waiters, []
        if end is None:
            for waiter in waiters:
                waiter.cancel()
        else:
            self._resolve(flight.request, waiters, end, cached=cached)

    def _resolve(
        self,
        request: Request,
        waiters: list[Future[Reply]],
        end: Completion | BaseException,
        *,
        cached: bool = False,
    ) -> None:
        # From here on these cannot be cancelled, so setting their outcome cannot fail. The call is made for the first.
        staying = [waiter for waiter in waiters if waiter.set_running_or_notify_cancel()]
        for number, waiter in enumerate(staying):
            if isinstance(end, BaseException):
                outcome: Reply | BaseException = _fresh(end) if isinstance(end, LMError) else end
                if number > 0 and isinstance(outcome, LMError):
                    outcome.usage = None
                self._count(failed=1)
            else:
                outcome = Reply(end, cached=cached or number > 0)
                self._count(cached=int(cached), shared=int(not cached and number > 0))
            try:
                if self._on_call is not None:
                    self._on_call(request, outcome)
            finally:
                if isinstance(outcome, Reply):
                    waiter.set_result(outcome)
                else:
                    waiter.set_exception(outcome)

    def _leave(self, flight: _Flight, waiter: Future[Reply]) -> None:
        """A waiter's end: a flight that nobody waits for any more is cancelled."""
        if not waiter.cancelled():
            return
        with self._lock:
            if self._flights.get(flight.key) is not flight or not all(w.cancelled() for w in flight.waiters):
                return
            del self._flights[flight.key]
            loop, task = self._loop, flight.task
        if loop is not None and task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and the task with it
                loop.call_soon_threadsafe(task.cancel)

    def _used(self, usage: Usage | None) -> None:
        if usage is not None:
            self._count(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)

    def _count(self, **more: int) -> None:
        with self._lock:
            now = self._stats
            self._stats = replace(now, **{name: getattr(now, name) + number for name, number in more.items()})


class _Memory:
    """What stands in for a store where there is none: the newest calls, as long as the client lives."""

    def __init__(self) -> None:
        self._calls: dict[str, Completion] = {}

    def get_call(self, key: str) -> Completion | None:
        return self._calls.get(key)

    def put_call(self, key: str, request: Request, completion: Completion) -> bool:  # noqa: ARG002
        if len(self._calls) >= _MEMORY_CALLS:
            # Only the client's one writer thread gets here. A dict's first key is its oldest.
            del self._calls[next(iter(self._calls))]
        return self._calls.setdefault(key, completion) is completion


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """The client's thread: an event loop that a provider's SystemExit does not end."""
    asyncio.set_event_loop(loop)
    stopped = False
    while not stopped:
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()
            stopped = True
    loop.close()


async def _cancel_all(seconds: float) -> None:
    """Cancel every other task of this loop and wait for their end, at most ``seconds``."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=seconds)


def _fresh(error: LMError) -> LMError:
    """A copy for one more raiser: an exception raised by many threads would gather all their tracebacks."""
    return copy.copy(error)


def _encodable(completion: Completion) -> Completion:
    """The completion with lone surrogates (half an emoji, cut by ``max_tokens``) replaced by U+FFFD.

    Such text could neither be sent on to an LM nor written to a report.
    """
    try:
        completion.text.encode()
    except UnicodeEncodeError:
        text = completion.text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return replace(completion, text=text)
    return completion
