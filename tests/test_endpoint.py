"""LMs behind HTTP, through litellm, against a real server that fails in every way a server can."""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from harness.errors import (
    AuthenticationError,
    ConnectionFailedError,
    ContentFilterError,
    ContextTooLongError,
    InvalidRequestError,
    LMError,
    LMTimeoutError,
    MalformedResponseError,
    OverloadedError,
    RateLimitError,
    UnknownModelError,
    UsageError,
)
from harness.lm.budget import Budget, Limits, MemoryLedger, Price, Spent
from harness.lm.client import Client
from harness.lm.endpoint import Endpoint, EndpointProvider, load_litellm
from harness.lm.failures import redacted, retry_after_seconds
from harness.lm.providers import check_model, make_provider_factory, register
from harness.lm.request import LMRef, Message, Request, Sampling, Usage
from harness.lm.retry import RetryPolicy
from harness.store import Store
from tests.http_lm import TRANSIENT_FAULTS, Body, HttpLM, default_answer, seeded_faults

KEY = "sk-planted-0123456789abcdef"
ROOT = Path(__file__).parent.parent


@pytest.fixture
def server() -> Iterator[HttpLM]:
    with HttpLM() as running:
        yield running


def request(text: str = "hi", model: str = "openai/m", sampling: Sampling = Sampling(), rollout: int = 0) -> Request:
    return Request(LMRef(model), (Message("system", "Answer."), Message("user", text)), sampling, rollout)


def client_of(
    server: HttpLM, store: Store | None = None, *, settings: Endpoint | None = None, retry: RetryPolicy | None = None
) -> Client:
    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    endpoint = settings or Endpoint(server.base_url, "BT_TEST_KEY", timeout=10)
    factory = make_provider_factory({"openai/*": endpoint, "hosted_vllm/*": endpoint})
    return Client(store, factory, sleep=sleep, retry=retry)


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    """Litellm imports parts of itself at its first call; that shall not count against a test's short timeout."""
    with HttpLM() as server, client_of(server, settings=Endpoint(server.base_url)) as client:
        for model in ("openai/m", "hosted_vllm/m"):
            client.call(request(model=model))


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BT_TEST_KEY", KEY)
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "ANTHROPIC_API_KEY", "OLLAMA_API_BASE"):
        monkeypatch.delenv(name, raising=False)


def test_an_answer_with_its_usage_and_what_was_sent_for_it(server: HttpLM) -> None:
    asked = request("2 + 2?", sampling=Sampling(0.7, 0.9, 33, ("\n\n", "END")), rollout=2)
    with client_of(server) as client:
        reply = client.call(asked)
    (body,) = server.requests
    assert reply.completion.text == default_answer(body)
    assert (reply.completion.usage.prompt_tokens, reply.completion.usage.completion_tokens) == (4, 2)
    assert 0 < reply.completion.seconds < 10
    assert reply.completion.finish == "stop"
    assert body["model"] == "m"
    assert body["messages"] == [{"role": "system", "content": "Answer."}, {"role": "user", "content": "2 + 2?"}]
    assert body["seed"] == asked.sampling_seed
    assert [body[name] for name in ("temperature", "top_p", "max_tokens", "stop")] == [0.7, 0.9, 33, ["\n\n", "END"]]
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"


def test_a_greedy_call_sends_no_seed_and_no_top_p(server: HttpLM) -> None:
    settings = Endpoint(server.base_url, headers=(("X-Team", "blue"),))
    with client_of(server, settings=settings) as client:
        client.call(request())
    (body,) = server.requests
    assert body["temperature"] == 0
    assert {"seed", "top_p", "stop"}.isdisjoint(body)
    assert server.headers[0]["x-team"] == "blue"
    assert server.headers[0]["authorization"] == "Bearer none", "a server of one's own needs no key"


def test_an_answer_cut_off_is_marked(server: HttpLM) -> None:
    server.fault = lambda body, _: body["messages"][-1]["content"]
    with client_of(server) as client:
        assert client.call(request("cut")).completion.finish == "length"
        empty = client.call(request("cut-empty")).completion
        assert (empty.text, empty.finish) == ("", "length")
        nothing = client.call(request("null-content")).completion
        assert (nothing.text, nothing.finish) == ("", "stop"), "it called a tool, or all it said is reasoning"
        assert client.call(request("no-usage")).completion.usage.prompt_tokens == 0


FAULTS: dict[str, type[LMError]] = {
    "400": InvalidRequestError,
    "401": AuthenticationError,
    "402": AuthenticationError,
    "403": AuthenticationError,
    "404": UnknownModelError,
    "408": LMTimeoutError,
    "413": ContextTooLongError,
    "422": InvalidRequestError,
    "429": RateLimitError,
    "429-date": RateLimitError,
    "429-quota": AuthenticationError,
    "500": OverloadedError,
    "502": OverloadedError,
    "503": OverloadedError,
    "504": LMTimeoutError,
    "529": OverloadedError,
    "context": ContextTooLongError,
    "context-vllm": ContextTooLongError,
    "filter": ContentFilterError,
    "filter-finish": ContentFilterError,
    "refusal": ContentFilterError,
    "hang": LMTimeoutError,
    "reset": ConnectionFailedError,
    "half": ConnectionFailedError,
    "truncated": MalformedResponseError,
    "html": MalformedResponseError,
    "not-object": MalformedResponseError,
    "empty-choices": MalformedResponseError,
    "null-choices": MalformedResponseError,
    "null-message": MalformedResponseError,
}


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m"])
def test_every_failure_has_its_class_and_its_message(server: HttpLM, model: str) -> None:
    async def ask(kind: str) -> LMError:
        timeout = 0.5 if kind == "hang" else 10
        provider = EndpointProvider(model, Endpoint(server.base_url, "BT_TEST_KEY", timeout=timeout))
        before = len(server.requests)
        with pytest.raises(LMError) as caught:
            await provider.complete(request(kind, model))
        await asyncio.to_thread(provider.close)
        assert len(server.requests) == before + 1, "one request, no retries of anybody else's"
        return caught.value

    async def ask_all() -> dict[str, LMError]:
        return {kind: await ask(kind) for kind in FAULTS}

    server.fault = lambda body, _: body["messages"][-1]["content"]
    errors = asyncio.run(ask_all())
    assert {kind: type(error) for kind, error in errors.items()} == FAULTS
    for error in errors.values():
        assert f"{model} at 127.0.0.1:{server.port}" in str(error)
        assert KEY not in "".join(traceback.format_exception(error))
        assert error.__cause__ is None
        assert error.__context__ is None
    assert errors["429"].retry_after == 0.01
    assert 0 < (errors["429-date"].retry_after or 0) <= 2
    assert errors["500"].retry_after is None
    assert errors["500"].usage is None
    assert errors["refusal"].usage == Usage(2, 2)
    assert "The model `m` does not exist" in str(errors["404"])


@dataclass
class Saying(HttpLM):
    """Answers every request with ``said``."""

    status: int = 200
    said: Body = field(default_factory=dict)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        return web.json_response(self.said, status=self.status)


def failure_of(status: int, said: Body) -> LMError:
    """What becomes of an answer, after one try."""
    with Saying(status=status, said=said) as server, client_of(server, retry=RetryPolicy(attempts=1)) as client:
        with pytest.raises(LMError) as caught:
            client.call(request())
        return caught.value


def test_a_limit_per_minute_is_no_lack_of_credit() -> None:
    """Gemini and OpenAI say both in the same words."""
    quota = "You exceeded your current quota, please check your plan and billing details."
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "36.5s"}]
    minute = failure_of(
        429, {"error": {"code": 429, "message": quota, "status": "RESOURCE_EXHAUSTED", "details": details}}
    )
    assert isinstance(minute, RateLimitError)
    assert minute.retry_after == 36.5
    assert isinstance(failure_of(429, {"error": {"code": "insufficient_quota", "message": quota}}), AuthenticationError)


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (403, "Your chosen model requires moderation and your input was flagged", ContentFilterError),
        (403, "Your prompt has been flagged as potentially violating our usage policy", ContentFilterError),
        (403, "Your account has been flagged", AuthenticationError),
        (400, "The model output parameter 'foo' was not found in schema", InvalidRequestError),
        (400, "invalid model output format", InvalidRequestError),
        (400, "The model `gpt-9` does not exist or you do not have access to it", UnknownModelError),
        (400, 'model "llama9" not found, try pulling it first', UnknownModelError),
        (400, "Model not found: x/y", UnknownModelError),
        (400, "x/y is not a valid model ID", UnknownModelError),
        (400, "/chat/completions: Invalid model name passed in model=x", UnknownModelError),
    ],
)
def test_what_concerns_one_request_ends_no_run(status: int, said: str, error: type[LMError]) -> None:
    assert type(failure_of(status, {"error": {"message": said}})) is error


@pytest.mark.parametrize(("kind", "tries"), [("refusal", 1), ("empty-choices", 3), ("wrong-model", 3)])
def test_answers_that_cannot_be_used_are_paid_for(server: HttpLM, kind: str, tries: int) -> None:
    server.fault = lambda *_: kind
    ledger = MemoryLedger()
    budget = Budget(Limits(tokens=10**6), ledger, lambda _: Price())
    table = {"openai/*": Endpoint(server.base_url, same_model=True)}
    with Client(
        None,
        make_provider_factory(table),
        retry=RetryPolicy(attempts=3, base=0.001),
        gate=budget.gate,
        on_call=budget.record,
    ) as client:
        waiting = [client.submit(request()) for _ in range(2)]
        assert all(isinstance(future.exception(30), LMError) for future in waiting)
        stats = client.stats()
    assert ledger.spent == Spent(tries, 4 * tries)
    assert (stats.prompt_tokens, stats.completion_tokens) == (2 * tries, 2 * tries)


def test_nobody_listens() -> None:
    with HttpLM() as server:
        url = server.base_url
    settings = Endpoint(url, "BT_TEST_KEY")
    with (
        client_of(server, settings=settings, retry=RetryPolicy(attempts=2)) as client,
        pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:\d+ cannot be reached.*is the server up"),
    ):
        client.call(request())
    assert client.stats().retried == 1


def test_answers_under_faults_are_those_without(server: HttpLM, tmp_path: Path) -> None:
    asked = [request(f"question {number}", sampling=Sampling(1.0), rollout=number % 2) for number in range(80)]
    with client_of(server) as client:
        expected = [future.result(30).completion.text for future in map(client.submit, asked)]
    calls = len(server.requests)
    server.fault = seeded_faults(0.3)
    with Store.open(tmp_path) as store, client_of(server, store) as client:
        assert [future.result(30).completion.text for future in map(client.submit, asked)] == expected
        stats = client.stats()
        assert stats.made == 80
        assert stats.failed == 0
        assert stats.retried == server.faults.total() > 15
    assert len(server.requests) == calls + 80 + stats.retried
    assert len(server.faults) > len(TRANSIENT_FAULTS) / 2
    assert server.most_at_once <= 32


def test_no_call_beyond_the_limit_where_every_try_fails(server: HttpLM) -> None:
    server.fault = seeded_faults(1.0, in_a_row=100)
    with client_of(server, retry=RetryPolicy(attempts=3)) as client:
        futures = [client.submit(request(str(number))) for number in range(10)]
        assert all(isinstance(future.exception(30), LMError) for future in futures)
    assert len(server.requests) == 30


def test_an_endpoint_that_hangs_ends_by_its_timeout(server: HttpLM) -> None:
    server.fault = lambda *_: "hang"
    settings = Endpoint(server.base_url, "BT_TEST_KEY", timeout=0.4)
    with (
        client_of(server, settings=settings, retry=RetryPolicy(attempts=2)) as client,
        pytest.raises(LMTimeoutError, match=r"within 0\.4 s"),
    ):
        client.call(request())


def test_close_while_requests_are_under_way(server: HttpLM) -> None:
    server.delay = 3600
    client = client_of(server, settings=Endpoint(server.base_url, "BT_TEST_KEY", timeout=3600))
    futures = [client.submit(request(str(number))) for number in range(5)]
    deadline = time.monotonic() + 60
    while len(server.requests) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    client.close()
    assert all(future.cancelled() for future in futures)
    gc.collect()  # connections left open would warn here


def test_the_concurrency_of_an_endpoint(server: HttpLM) -> None:
    server.delay = 0.02
    with client_of(server, settings=Endpoint(server.base_url, "BT_TEST_KEY", concurrency=4)) as client:
        for future in [client.submit(request(str(number))) for number in range(16)]:
            future.result(10)
    assert server.most_at_once == 4


@pytest.mark.parametrize("model", ["openai/m", "hosted_vllm/m"])
def test_the_key_is_nowhere(
    server: HttpLM,
    tmp_path: Path,
    model: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    header = "tok-4242424242"
    monkeypatch.setenv("SOME_TOKEN", "hf_another_secret_of_this_machine")
    server.fault = lambda body, _: kind if (kind := body["messages"][-1]["content"]) in FAULTS else None
    texts: list[str] = []
    settings = Endpoint(server.base_url, "BT_TEST_KEY", headers=(("X-Secret", f"Bearer {header}"),), timeout=5)
    with caplog.at_level(logging.DEBUG), Store.open(tmp_path) as store:
        for kind in ("fine", "401", "403", "400", "429", "500", "truncated", "html", "reset"):
            with client_of(server, store, settings=settings, retry=RetryPolicy(attempts=2)) as client:
                future = client.submit(request(kind, model))
                error = future.exception(30)
                texts += traceback.format_exception(error) if error else [repr(future.result())]
                texts.append(repr((error, vars(error) if error else None, settings, client.identity(model))))
    assert server.headers[0]["x-secret"] == f"Bearer {header}"
    assert any("***" in text for text in texts), "the server repeats the key and it is replaced"
    out, err = capfd.readouterr()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (KEY, header, "hf_another_secret_of_this_machine"):
        assert all(secret not in text for text in texts)
        assert secret.encode() not in written
    # Other headers may show in litellm's own log of level DEBUG.
    assert KEY not in caplog.text + out + err


def test_secrets_are_redacted_in_every_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "key/with+signs=")
    text = "a key/with+signs= b key%2Fwith%2Bsigns%3D c hunter22 d"
    assert redacted(text, ["hunter22", "", "b"]) == "a *** b *** c *** d"


def test_the_password_of_a_base_url_is_sent_and_shown_nowhere(server: HttpLM) -> None:
    settings = Endpoint(server.base_url.replace("127", "user:pass%2Fw%C3%B6rd@127"), timeout=10)
    server.fault = lambda body, _: "403" if body["messages"][-1]["content"] == "bad" else None
    with client_of(server, settings=settings) as client:
        client.call(request())
        with pytest.raises(AuthenticationError) as caught:
            client.call(request("bad"))
    basic = base64.b64encode("user:pass/w\u00f6rd".encode()).decode()
    assert {headers["authorization"] for headers in server.headers} == {f"Basic {basic}"}
    shown = f"{caught.value} {client.identity('openai/m')}"
    assert basic not in shown
    assert "***" in shown, "the server repeats what it was given"
    assert client.identity("openai/m") == f"openai/m {server.base_url}"
    assert redacted("http://user:pass%2Fw%C3%B6rd@host, pass/w\u00f6rd") == "http://user:***@host, ***"


def test_a_key_that_is_not_set(server: HttpLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BT_TEST_KEY")
    with client_of(server) as client, pytest.raises(AuthenticationError, match="BT_TEST_KEY is not set; set it"):
        client.call(request())
    assert server.requests == []


@pytest.mark.parametrize("model", ["openai/gpt-x", "anthropic/claude-x"])
def test_a_key_that_litellm_misses(model: str) -> None:
    with (
        Client(None, make_provider_factory()) as client,
        pytest.raises(AuthenticationError, match=r"needs a key.*API_KEY"),
    ):
        client.call(request(model=model))


def test_an_adapter_is_refused_not_ignored(server: HttpLM) -> None:
    asked = Request(LMRef("openai/m", "0123456789abcdef" * 2), (Message("user", "hi"),))
    with client_of(server) as client, pytest.raises(InvalidRequestError, match="adapter 0123456789ab; tuned weights"):
        client.call(asked)
    assert server.requests == []


def test_half_a_character_in_a_prompt(server: HttpLM) -> None:
    with client_of(server) as client, pytest.raises(InvalidRequestError, match="half a character"):
        client.call(request("\ud83d"))


@pytest.mark.parametrize("model", ["gpt-4o", "", "/m", "openai/", "openai", "two words/m"])
def test_model_strings_that_are_none(model: str) -> None:
    with pytest.raises(UnknownModelError, match=r"PROVIDER/NAME .* local/NAME_OR_PATH"):
        make_provider_factory()(model)


def test_a_provider_that_litellm_does_not_know(capfd: pytest.CaptureFixture[str]) -> None:
    check_model("opneai/gpt")
    with Client(None, make_provider_factory()) as client:
        with pytest.raises(UnknownModelError, match=r"no provider 'opneai' .*\(openai.* or local/NAME_OR_PATH"):
            client.call(request(model="opneai/gpt"))
        with pytest.raises(UnknownModelError):
            client.call(request("again", model="opneai/gpt"))
    assert capfd.readouterr() == ("", "")


def test_the_identity_names_the_server_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EndpointProvider("openai/m").identity() == "openai/m"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://other/v1")
    assert EndpointProvider("openai/m").identity() == "openai/m http://other/v1"
    assert EndpointProvider("openai/m", Endpoint("http://mine/v1")).identity() == "openai/m http://mine/v1"
    assert EndpointProvider("ollama_chat/m").identity() == "ollama_chat/m"
    monkeypatch.setenv("OLLAMA_API_BASE", "http://other:11434")
    assert EndpointProvider("ollama_chat/m").identity() == "ollama_chat/m http://other:11434"


@pytest.mark.parametrize("wrong", [{"timeout": 0.0}, {"concurrency": 0}, {"base_url": "localhost:8000"}])
def test_settings_without_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="an endpoint"):
        Endpoint(**wrong)  # type: ignore[arg-type]


def test_settings_are_found_by_model_then_by_provider() -> None:
    table = {"openai/a": Endpoint("http://a/v1", concurrency=1), "openai/*": Endpoint("http://b/v1", concurrency=2)}
    make = make_provider_factory(table)
    assert [make(model).concurrency for model in ("openai/a", "openai/b", "ollama/c")] == [1, 2, 32]


class _Link(Exception):
    def __init__(self, **headers: str) -> None:
        self.litellm_response_headers = {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after": "0.5", "retry_after_ms": "250"}, 0.25),
        ({"retry_after": "Thu, 01 Jan 1970 00:02:00 GMT"}, 20),
        ({"retry_after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-3"}, None),
        ({"retry_after": "inf"}, None),
        ({}, None),
    ],
)
def test_what_retry_after_means(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds([ValueError(), _Link(**headers)], now=100.0) == seconds


def test_litellm_is_not_imported_before_it_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom harness.lm.client import Client\nfrom harness.lm.providers import make_provider_factory\n"
        "from harness.store import Store\nstore = Store.open(sys.argv[1])\n"
        "client = Client(store, make_provider_factory())\nclient.identity('openai/m')\nclient.close()\n"
        "heavy = {'litellm', 'openai', 'httpx', 'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], cwd=ROOT, check=True, timeout=30)


def test_a_provider_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.lm.providers._MAKERS", {"local": None})
    made = EndpointProvider("openai/m")
    register("mine", lambda *_: made)
    assert make_provider_factory()("mine/m") is made
    for taken in ("local", "two words", "", "a/b"):
        with pytest.raises(UsageError, match="cannot be named"):
            register(taken, lambda *_: made)


def test_litellm_logs_through_pythons_logging_alone() -> None:
    """A handler of its own would fail on a stderr that was closed since, and print keys in doing so."""
    load_litellm()
    assert not any(logging.getLogger(name).handlers for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"))


def test_a_logged_traceback_holds_no_key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SOME_API_KEY", KEY)
    load_litellm()
    try:
        raise ValueError(f"the server said {KEY}")
    except ValueError:
        logging.getLogger("LiteLLM").exception("it failed")
    assert "the server said ***" in caplog.text
    assert KEY not in caplog.text
