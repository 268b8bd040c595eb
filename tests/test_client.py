"""The LM client: one call is made once, whoever asks how often; failures are retried or named, and nothing hangs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import (
    AuthenticationError,
    ConnectionFailedError,
    ContextTooLongError,
    HarnessError,
    LMError,
    OverloadedError,
    RateLimitError,
    StoreError,
    UnknownModelError,
    UsageError,
)
from harness.lm.client import CallStats, Client
from harness.lm.request import Completion, LMRef, Message, Provider, Reply, Request, Sampling, Usage
from harness.lm.retry import RetryPolicy
from harness.store import Store

WAIT = 60.0
HOT = Sampling(temperature=1.0)


def request(text: str = "hi", *, model: str = "fake/m", rollout: int = 0) -> Request:
    return Request(LMRef(model), (Message("user", text),), HOT, rollout)


class Fake:
    """A provider in memory. ``plan`` says what happens to a request at its n-th try (from 1)."""

    def __init__(self, plan: Callable[[Request, int], Awaitable[str]] | None = None, concurrency: int = 100) -> None:
        self.concurrency = concurrency
        self.plan = plan
        self.tries: Counter[str] = Counter()
        self.at_once = self.most_at_once = 0
        self.closed = 0
        self.threads: set[str] = set()
        self.name = "fake"

    def identity(self) -> str:
        return self.name

    async def complete(self, request: Request) -> Completion:
        text = request.messages[-1].content
        self.tries[text] += 1
        self.threads.add(threading.current_thread().name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            answer = await self.plan(request, self.tries[text]) if self.plan else f"{text}!"
            return Completion(answer, Usage(3, 2))
        finally:
            self.at_once -= 1

    def close(self) -> None:
        self.closed += 1


class Held(Fake):
    """Answers nobody before ``release``; ``entered`` is set when a request is there."""

    def __init__(self, concurrency: int = 100) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.cancelled = 0
        super().__init__(self.hold, concurrency)

    async def hold(self, request: Request, _: int) -> str:
        self.entered.set()
        try:
            while not self.release.is_set():
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request.messages[-1].content + "!"


def fails(*errors: BaseException) -> Callable[[Request, int], Awaitable[str]]:
    """The first tries of each request fail with these."""

    async def plan(request: Request, attempt: int) -> str:
        if attempt <= len(errors):
            raise errors[attempt - 1]
        return request.messages[-1].content + "!"

    return plan


class Sleeper:
    def __init__(self) -> None:
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


def client_of(fake: Provider, store: Store | None = None, **options: object) -> Client:
    return Client(store, lambda _: fake, **options)  # type: ignore[arg-type]


def in_flight(client: Client) -> int:
    return len(client._flights)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def test_a_call_is_answered_once_and_then_from_the_store(tmp_path: Path) -> None:
    fake = Fake()
    with Store.open(tmp_path) as store:
        with client_of(fake, store) as client:
            first = client.call(request())
            assert first == Reply(Completion("hi!", Usage(3, 2)), cached=False)
            assert client.call(request()) == Reply(first.completion, cached=True)
            assert fake.threads == {"bt-lm"}
        with client_of(fake, store) as client:
            assert client.call(request()) == Reply(first.completion, cached=True)
            assert client._loop is None, "an answer from the store needs no event loop"
            assert client.stats() == CallStats(cached=1)
    assert fake.tries["hi"] == 1
    assert fake.closed == 2


def test_without_a_store_the_process_remembers() -> None:
    fake = Fake()
    with client_of(fake) as client:
        assert not client.call(request()).cached
        assert client.call(request()).cached
    assert fake.tries["hi"] == 1


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.lm.client._MEMORY_CALLS", 3)
    fake = Fake()
    with client_of(fake) as client:
        for text in "abcda":
            client.call(request(text))
        assert client.call(request("d")).cached
    assert fake.tries == {"a": 2, "b": 1, "c": 1, "d": 1}


def test_what_makes_a_call_another_call(tmp_path: Path) -> None:
    fake = Fake()
    with Store.open(tmp_path) as store:
        with client_of(fake, store) as client:
            for asked in (request(), request(rollout=1), request(model="fake/other")):
                assert not client.call(asked).cached
        fake.name = "the same model string with other weights"
        with client_of(fake, store) as client:
            assert not client.call(request()).cached


@pytest.mark.parametrize("with_store", [True, False])
def test_fifty_identical_calls_from_threads_and_coroutines_are_one(tmp_path: Path, with_store: bool) -> None:
    fake = Held()
    store = Store.open(tmp_path) if with_store else None
    replies: list[Reply] = []
    with client_of(fake, store) as client:
        threads = [threading.Thread(target=lambda: replies.append(client.call(request()))) for _ in range(25)]

        async def ask_all() -> None:
            replies.extend(await asyncio.gather(*(client.ask(request()) for _ in range(25))))

        threads.append(threading.Thread(target=lambda: asyncio.run(ask_all())))
        for thread in threads:
            thread.start()
        until(lambda: sum(len(flight.waiters) for flight in client._flights.values()) == 50)
        fake.release.set()
        for thread in threads:
            thread.join(WAIT)
        assert fake.tries["hi"] == 1
        assert Counter(reply.cached for reply in replies) == {False: 1, True: 49}
        assert {reply.completion.text for reply in replies} == {"hi!"}
        assert client.stats() == CallStats(made=1, shared=49, prompt_tokens=3, completion_tokens=2)
        assert in_flight(client) == 0
    if store is not None:
        store.close()


def test_a_storm_of_calls_never_repeats_a_finished_one(tmp_path: Path) -> None:
    fake = Fake()
    with Store.open(tmp_path) as store, client_of(fake, store) as client:

        def work() -> None:
            for number in range(60):
                assert client.call(request(str(number % 30))).completion.text == f"{number % 30}!"

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert set(fake.tries.values()) == {1}
        stats = client.stats()
        assert stats.made == 30
        assert stats.made + stats.cached + stats.shared == 480


def test_cancelling_one_who_waits_leaves_the_others() -> None:
    fake = Held()
    with client_of(fake) as client:
        first, second, third = (client.submit(request()) for _ in range(3))
        assert fake.entered.wait(WAIT)
        assert first.cancel()
        assert third.cancel()
        fake.release.set()
        assert second.result(WAIT) == Reply(Completion("hi!", Usage(3, 2)), cached=False), "somebody paid for it"
        assert fake.cancelled == 0
        assert client.stats() == CallStats(made=1, prompt_tokens=3, completion_tokens=2)


def test_cancelling_a_coroutine_leaves_the_others() -> None:
    fake = Held()

    async def main(client: Client) -> Reply:
        first, second = (asyncio.create_task(client.ask(request())) for _ in range(2))
        await asyncio.to_thread(fake.entered.wait, WAIT)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        fake.release.set()
        return await second

    with client_of(fake) as client:
        assert asyncio.run(main(client)).completion.text == "hi!"


def test_a_call_nobody_waits_for_is_cancelled_and_may_be_made_anew() -> None:
    fake = Held()
    with client_of(fake) as client:
        futures = [client.submit(request()) for _ in range(2)]
        assert fake.entered.wait(WAIT)
        for future in futures:
            future.cancel()
        until(lambda: fake.cancelled == 1)
        fake.release.set()
        assert client.call(request()).completion.text == "hi!"


def test_at_most_the_providers_concurrency_at_once() -> None:
    fake = Held(concurrency=3)
    with client_of(fake) as client:
        futures = [client.submit(request(str(number))) for number in range(20)]
        until(lambda: fake.at_once == 3)
        fake.release.set()
        assert [future.result(WAIT).completion.text for future in futures] == [f"{number}!" for number in range(20)]
    assert fake.most_at_once == 3


def test_transient_errors_are_retried_with_growing_waits() -> None:
    fake, sleep = Fake(fails(*[OverloadedError("busy")] * 4)), Sleeper()
    with client_of(fake, sleep=sleep) as client:
        assert client.call(request()).completion.text == "hi!"
        assert client.stats() == CallStats(made=1, retried=4, prompt_tokens=3, completion_tokens=2)
    assert all(0.25 * 2**n <= wait <= 0.5 * 2**n for n, wait in enumerate(sleep.waits))
    assert len(sleep.waits) == 4
    again = Sleeper()
    with client_of(Fake(fake.plan), sleep=again) as client:
        client.call(request())
    assert again.waits == sleep.waits, "the jitter is the request's own"


def test_the_servers_wish_is_heeded_up_to_a_limit() -> None:
    fake, sleep = Fake(fails(RateLimitError("slow down", retry_after=7.0))), Sleeper()
    with client_of(fake, sleep=sleep) as client:
        client.call(request())
        assert sleep.waits == [7.0]
    fake = Fake(fails(RateLimitError("come back tomorrow", retry_after=86_400.0)))
    with client_of(fake, sleep=sleep) as client, pytest.raises(RateLimitError, match="tomorrow"):
        client.call(request())
    assert len(sleep.waits) == 1


def test_no_call_goes_beyond_the_limit_of_tries() -> None:
    fake = Fake(fails(*[OverloadedError(f"busy {n}") for n in range(1, 9)]))
    with client_of(fake, sleep=Sleeper(), retry=RetryPolicy(attempts=3)) as client:
        with pytest.raises(OverloadedError, match="busy 3"):
            client.call(request())
        assert client.stats() == CallStats(made=1, retried=2, failed=1)
    assert fake.tries["hi"] == 3


def test_an_error_is_no_answer_and_not_kept(tmp_path: Path) -> None:
    fake, sleep = Fake(fails(ContextTooLongError("too long"))), Sleeper()
    with Store.open(tmp_path) as store, client_of(fake, store, sleep=sleep) as client:
        with pytest.raises(ContextTooLongError):
            client.call(request())
        assert sleep.waits == []
        assert client.call(request()) == Reply(Completion("hi!", Usage(3, 2)), cached=False)


def test_a_fatal_error_ends_the_provider_but_not_what_is_stored(tmp_path: Path) -> None:
    async def plan(request: Request, _: int) -> str:
        if request.messages[-1].content == "bad":
            raise AuthenticationError("wrong key")
        return "fine"

    fake = Fake(plan)
    with Store.open(tmp_path) as store, client_of(fake, store) as client:
        client.call(request("good"))
        errors = []
        for text in ("bad", "other", "another"):
            with pytest.raises(AuthenticationError, match="wrong key") as caught:
                client.call(request(text))
            errors.append(caught.value)
        assert len({id(error) for error in errors}) == 3, "each raiser has an exception of its own"
        assert client.call(request("good")).cached
    assert fake.tries == {"good": 1, "bad": 1}


def test_calls_that_queue_behind_a_fatal_error_are_not_sent() -> None:
    fake = Fake(fails(AuthenticationError("wrong key")), concurrency=1)
    with client_of(fake) as client:
        futures = [client.submit(request(str(number))) for number in range(30)]
        for future in futures:
            with pytest.raises(AuthenticationError):
                future.result(WAIT)
    assert fake.tries.total() == 1


def test_an_unknown_model_is_asked_for_once() -> None:
    made: list[str] = []

    def factory(model: str) -> Provider:
        made.append(model)
        raise UnknownModelError(f"no {model}")

    with Client(None, factory) as client:
        for _ in range(3):
            with pytest.raises(UnknownModelError, match="no fake/m"):
                client.call(request())
        with pytest.raises(UnknownModelError):
            client.identity("fake/m")
    assert made == ["fake/m"]


def test_providers_are_made_once_each_by_any_number_of_threads() -> None:
    made: Counter[str] = Counter()

    def factory(model: str) -> Provider:
        made[model] += 1
        time.sleep(0.01)
        return Fake()

    with Client(None, factory) as client:
        threads = [
            threading.Thread(target=lambda n=number: client.call(request(str(n), model=f"fake/{n % 3}")))
            for number in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert made == {"fake/0": 1, "fake/1": 1, "fake/2": 1}


@pytest.mark.parametrize("bug", [ZeroDivisionError("oops"), SystemExit(3), KeyboardInterrupt()])
def test_a_providers_bug_reaches_every_caller_and_the_client_lives_on(bug: BaseException) -> None:
    joined = threading.Event()

    async def plan(_: Request, attempt: int) -> str:
        while not joined.is_set():
            await asyncio.sleep(0.002)
        if attempt == 1:
            raise bug
        return "hi!"

    with client_of(Fake(plan)) as client:
        futures = [client.submit(request()) for _ in range(3)]
        joined.set()
        for future in futures:
            assert type(future.exception(WAIT)) is type(bug)
        assert client.call(request()).completion.text == "hi!"


def test_a_store_that_fails_fails_the_call(tmp_path: Path) -> None:
    fake = Fake()
    with Store.open(tmp_path) as store, client_of(fake, store) as client:
        client.call(request())
        with store._connection() as connection:
            connection.exec_driver_sql("UPDATE calls SET completion = '{'")
        with pytest.raises(StoreError, match="cannot be read"):
            client.call(request())
        with store._connection() as connection:
            connection.exec_driver_sql("DROP TABLE calls")
        with pytest.raises(StoreError, match="no such table"):
            client.call(request("other"))
    assert fake.tries == {"hi": 1}


def test_the_answer_is_stored_before_anybody_sees_it(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store, client_of(Fake(), store) as client:
        stored: list[int] = []

        def look(_: Future[Reply]) -> None:
            with store._connection() as connection:
                stored.append(connection.exec_driver_sql("SELECT count(*) FROM calls").scalar_one())

        for number in range(5):
            future = client.submit(request(str(number)))
            future.add_done_callback(look)
            future.result(WAIT)
        until(lambda: stored == [1, 2, 3, 4, 5])


def test_another_process_was_first_and_its_answer_stands(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        first, second = Held(), Fake()
        second.plan = fails()
        with client_of(first, store) as slow, client_of(second, store) as fast:
            waiting = slow.submit(request())
            assert first.entered.wait(WAIT)
            with store._connection():
                assert fast.call(request()).completion.text == "hi!"
                with store._connection() as connection:
                    connection.exec_driver_sql("UPDATE calls SET completion = replace(completion, 'hi!', 'theirs')")
            first.release.set()
            assert waiting.result(WAIT) == Reply(Completion("theirs", Usage(3, 2)), cached=False)


def test_the_gate_is_asked_before_each_request_and_can_refuse() -> None:
    class BudgetError(HarnessError):
        pass

    asked: list[str] = []

    def gate(request: Request) -> None:
        asked.append(request.messages[-1].content)
        if len(asked) > 4:
            raise BudgetError("4 requests are spent")

    fake = Fake(fails(OverloadedError("busy")))
    with client_of(fake, gate=gate, sleep=Sleeper()) as client:
        client.call(request("a"))
        client.call(request("a"))
        client.call(request("b"))
        with pytest.raises(BudgetError):
            client.call(request("c"))
        assert client.call(request("a")).cached
        assert client.stats() == CallStats(2, cached=2, retried=2, failed=1, prompt_tokens=6, completion_tokens=4)
    assert asked == ["a", "a", "b", "b", "c"]
    assert fake.tries == {"a": 2, "b": 2}


def test_the_observer_sees_every_call_end() -> None:
    seen: list[tuple[str, object]] = []

    def observe(request: Request, end: Reply | BaseException) -> None:
        seen.append((request.messages[-1].content, end.cached if isinstance(end, Reply) else type(end)))

    with client_of(Fake(fails()), on_call=observe) as client:
        client.call(request("a"))
        client.call(request("a"))
    with client_of(Fake(fails(ContextTooLongError("x"))), on_call=observe) as client, pytest.raises(LMError):
        client.call(request("b"))
    assert seen == [("a", False), ("a", True), ("b", ContextTooLongError)]


def test_half_an_emoji_is_replaced_before_it_is_stored(tmp_path: Path) -> None:
    async def plan(_: Request, __: int) -> str:
        return "ok \ud83d"

    with Store.open(tmp_path) as store, client_of(Fake(plan), store) as client:
        assert client.call(request()).completion.text == "ok \ufffd"
        assert client.call(request()) == Reply(Completion("ok \ufffd", Usage(3, 2)), cached=True)


def test_stats_can_be_subtracted() -> None:
    with client_of(Fake()) as client:
        client.call(request("a"))
        before = client.stats()
        client.call(request("a"))
        client.call(request("b"))
        assert client.stats() - before == CallStats(made=1, cached=1, prompt_tokens=3, completion_tokens=2)


def test_waiting_on_the_clients_own_thread_is_an_error_not_a_deadlock() -> None:
    ends: list[BaseException] = []

    def gate(_: Request) -> None:
        try:
            client.call(request("inner"))
        except RuntimeError as error:
            ends.append(error)

    with client_of(Fake(), gate=gate) as client:
        client.call(request())
    assert "never end" in str(ends[0])


def test_close_cancels_what_is_in_flight_at_once() -> None:
    fake = Held(concurrency=2)
    client = client_of(fake)
    futures = [client.submit(request(str(number))) for number in range(5)]
    assert fake.entered.wait(WAIT)
    thread = client._thread
    client.close()
    for future in futures:
        with pytest.raises(CancelledError):
            future.result(0)
    assert fake.closed == 1
    assert thread is not None
    assert not thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        client.submit(request())
    with pytest.raises(RuntimeError, match="closed"):
        client.call(request(model="fake/new"))
    client.close()
    assert fake.closed == 1


def test_close_does_not_wait_for_a_provider_that_heeds_nothing() -> None:
    release, ended = threading.Event(), threading.Event()

    async def stubborn(_: Request, __: int) -> str:
        release.wait(WAIT)
        ended.set()
        return ""

    client = client_of(Fake(stubborn))
    future = client.submit(request())
    until(lambda: client.stats().made == 1)
    client.close()
    assert not ended.is_set()
    with pytest.raises(CancelledError):
        future.result(0)
    release.set()
    assert client._thread is not None
    client._thread.join(WAIT)


def test_calls_that_wait_for_another_try_end_with_close() -> None:
    asleep = threading.Event()

    async def sleep(_: float) -> None:
        asleep.set()
        await asyncio.sleep(60)

    client = client_of(Fake(fails(OverloadedError("busy"))), sleep=sleep)
    future = client.submit(request())
    assert asleep.wait(WAIT)
    client.close()
    with pytest.raises(CancelledError):
        future.result(0)


INTERRUPTED = """
import asyncio, os, signal, sys, threading, time
from harness.lm.client import Client
from harness.lm.request import Completion, LMRef, Message, Request

class Slow:
    concurrency = 1
    def identity(self): return "slow"
    async def complete(self, request):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        await asyncio.sleep(3600)
    def close(self): pass

with Client(None, lambda model: Slow()) as client:
    client.call(Request(LMRef("slow/m"), (Message("user", "x"),)))
"""


def test_ctrl_c_ends_a_process_that_waits() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=WAIT,
    )
    assert "KeyboardInterrupt" in ended.stderr
    assert ended.returncode != 0


def test_a_killed_process_repeats_no_acknowledged_call(tmp_path: Path) -> None:
    code = (
        "import sys, itertools\n"
        "from tests.test_client import Fake, client_of, request\n"
        "from harness.store import Store\n"
        "with client_of(Fake(), Store.open(sys.argv[1])) as client:\n"
        "    for n in itertools.count():\n"
        "        client.call(request(str(n)))\n"
        "        print(n, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent
    ) as process:
        assert process.stdout is not None
        for _ in range(40):
            process.stdout.readline()
        process.kill()
        last = 40 + len(process.stdout.read().split("\n")) - 2
    fake = Fake()
    with Store.open(tmp_path) as store, client_of(fake, store) as client:
        assert all(client.call(request(str(number))).cached for number in range(last))
    assert fake.tries.total() == 0


@given(attempt=st.integers(1, 10_000), asked=st.none() | st.floats(0, 1000), digest=st.text(max_size=5))
def test_waits_stay_within_their_limits(attempt: int, asked: float | None, digest: str) -> None:
    policy = RetryPolicy(attempts=20_000, base=0.5, cap=30, longest_wait=120)
    wait = policy.wait(OverloadedError("x", retry_after=asked), attempt, digest)
    if asked is not None and asked > 120:
        assert wait is None
    else:
        assert wait is not None
        assert max(asked or 0.0, 0.25) <= wait <= max(asked or 0.0, 30)


@pytest.mark.parametrize("limits", [{"attempts": 0}, {"base": -1.0}, {"cap": -0.1}, {"longest_wait": -1.0}])
def test_a_policy_without_sense(limits: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="at least one attempt"):
        RetryPolicy(**limits)  # type: ignore[arg-type]


def test_a_dead_server_is_not_waited_for_call_by_call() -> None:
    """After 20 unanswered calls in a row each further one is tried once, and all are tried fully after an answer."""
    alive = False

    async def plan(request: Request, _: int) -> str:
        if not alive:
            raise ConnectionFailedError("refused")
        return request.messages[-1].content

    fake = Fake(plan)
    with client_of(fake, sleep=Sleeper()) as client:
        for number in range(25):
            with pytest.raises(ConnectionFailedError):
                client.call(request(f"{number}"))
        usual = fake.tries["0"]
        assert usual > 1
        assert [fake.tries[f"{number}"] for number in range(25)] == [usual] * 20 + [1] * 5
        alive = True
        client.call(request("back"))
        alive = False
        with pytest.raises(ConnectionFailedError):
            client.call(request("gone again"))
        assert fake.tries["gone again"] == usual


def test_a_server_that_refuses_is_not_dead() -> None:
    """Answers of any kind keep a server alive: one refusal among the silence, or nothing but refusals."""

    async def plan(request: Request, _: int) -> str:
        number = int(request.messages[-1].content)
        raise OverloadedError("busy") if number >= 50 or number % 15 == 14 else ConnectionFailedError("refused")

    fake = Fake(plan)
    with client_of(fake, sleep=Sleeper()) as client:
        for number in range(75):
            with pytest.raises(LMError):
                client.call(request(f"{number}"))
    assert len(set(fake.tries.values())) == 1
    assert fake.tries["0"] > 1
