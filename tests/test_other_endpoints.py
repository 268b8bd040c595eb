"""LMs with a wire format of their own (Anthropic, Ollama), and what the LM table asks beside the place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from harness.errors import (
    AuthenticationError,
    MalformedResponseError,
    OverloadedError,
    RateLimitError,
    UnknownModelError,
)
from harness.lm.client import Client
from harness.lm.endpoint import Endpoint
from harness.lm.providers import make_provider_factory
from harness.lm.request import LMRef, Message, Request, Sampling
from harness.lm.retry import RetryPolicy
from tests.http_lm import HttpLM

KEY = "sk-ant-planted-0123456789abcdef"


@dataclass
class OtherLM(HttpLM):
    """Anthropic's ``/v1/messages`` and Ollama's ``/api/chat`` and ``/api/generate``; ``refuse`` is an HTTP status.

    With ``silent`` Anthropic's answer has no content.
    """

    refuse: int = 0
    silent: bool = False

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_post("/v1/messages", self._messages)
        router.add_post("/api/chat", self._ollama)
        router.add_post("/api/show", self._show)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _take(self, request: web.Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        return body

    async def _messages(self, request: web.Request) -> web.Response:
        body = await self._take(request)
        if self.refuse:
            kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
            kind = kinds.get(self.refuse, "overloaded_error")
            said = f"model: {body['model']}" if self.refuse == 404 else f"no, {request.headers['x-api-key']}"
            error = {"type": "error", "error": {"type": kind, "message": said}}
            return web.json_response(error, status=self.refuse, headers={"retry-after": "0"})
        return web.json_response(
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": body["model"],
                "content": [] if self.silent else [{"type": "text", "text": "answer: odd"}],
                "stop_reason": "max_tokens" if body["max_tokens"] == 1 else "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 12, "output_tokens": 3},
            }
        )

    async def _ollama(self, request: web.Request) -> web.Response:
        body = await self._take(request)
        if self.refuse:
            return web.json_response({"error": f'model "{body["model"]}" not found'}, status=self.refuse)
        return web.json_response(
            {
                "model": body["model"],
                "created_at": "2026-01-01T00:00:00Z",
                "message": {"role": "assistant", "content": "answer: odd"},
                "done": True,
                "done_reason": "stop",
                "prompt_eval_count": 12,
                "eval_count": 3,
            }
        )

    async def _show(self, request: web.Request) -> web.Response:
        await request.json()
        return web.json_response({"template": "", "model_info": {}})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtherLM]:
    for name in ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE", "OLLAMA_API_BASE", "OLLAMA_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    with OtherLM() as running:
        yield running


def asked(model: str, sampling: Sampling = Sampling(0.7, max_tokens=33)) -> Request:
    turns = (Message("system", "Say."), Message("user", "1"), Message("assistant", "odd"), Message("user", "2"))
    return Request(LMRef(model), turns, sampling)


def client_of(server: OtherLM) -> Client:
    table = {f"{name}/*": Endpoint(server.root, timeout=20) for name in ("anthropic", "ollama_chat")}
    return Client(None, make_provider_factory(table), retry=RetryPolicy(attempts=2, base=0.01))


def test_anthropic(server: OtherLM) -> None:
    with client_of(server) as client:
        found = client.call(asked("anthropic/claude-test")).completion
        cut = client.call(asked("anthropic/claude-test", Sampling(0.0, max_tokens=1))).completion
    assert (found.text, found.finish, cut.finish) == ("answer: odd", "stop", "length")
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (12, 3)
    body = server.requests[0]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("claude-test", 33, 0.7)
    assert "Say." in str(body["system"])
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert "seed" not in body
    assert server.headers[0]["x-api-key"] == KEY


@pytest.mark.parametrize(
    ("status", "error"),
    [(401, AuthenticationError), (404, UnknownModelError), (429, RateLimitError), (529, OverloadedError)],
)
def test_anthropic_refuses(server: OtherLM, status: int, error: type[Exception]) -> None:
    server.refuse = status
    with client_of(server) as client, pytest.raises(error, match="anthropic/claude-test at 127") as caught:
        client.call(asked("anthropic/claude-test"))
    assert KEY not in str(caught.value)


def test_anthropic_has_nothing_to_say(server: OtherLM) -> None:
    server.silent = True
    with client_of(server) as client:
        found = client.call(asked("anthropic/claude-test")).completion
    assert (found.text, found.finish, found.usage.prompt_tokens) == ("", "stop", 12)


def test_ollama(server: OtherLM) -> None:
    with client_of(server) as client:
        found = client.call(asked("ollama_chat/llama-test")).completion
    assert (found.text, found.usage.prompt_tokens, found.usage.completion_tokens) == ("answer: odd", 12, 3)
    body = server.requests[0]
    assert body["model"] == "llama-test"
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["options"]["temperature"] == 0.7
    assert body["options"]["num_predict"] == 33
    assert body["options"]["seed"] == asked("ollama_chat/llama-test").sampling_seed


@pytest.mark.parametrize("model", ["anthropic/claude-test", "ollama_chat/llama-test"])
def test_the_password_of_a_base_url(server: OtherLM, model: str) -> None:
    url = server.root.replace("127", "user:password@127", 1)
    with Client(None, make_provider_factory({model: Endpoint(url, timeout=20)})) as client:
        client.call(asked(model))
    assert server.headers[0]["authorization"] == "Basic dXNlcjpwYXNzd29yZA=="


def test_ollama_where_the_environment_says(server: OtherLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_BASE", server.root)
    with Client(None, make_provider_factory()) as client:
        assert client.call(asked("ollama_chat/llama-test")).completion.text == "answer: odd"
        server.refuse = 404
        with pytest.raises(UnknownModelError, match="ollama_chat/llama-test at 127"):
            client.call(asked("ollama_chat/llama-test", Sampling(0.0)))


def test_ollama_without_the_model(server: OtherLM) -> None:
    server.refuse = 404
    with client_of(server) as client, pytest.raises(UnknownModelError, match="ollama_chat/llama-test at 127"):
        client.call(asked("ollama_chat/llama-test"))


def test_requests_keep_their_pace(server: OtherLM) -> None:
    table = {"openai/*": Endpoint(f"{server.root}/v1", requests_per_minute=600)}
    with Client(None, make_provider_factory(table)) as client:
        client.call(asked("openai/m"))  # litellm is imported
        began = time.monotonic()
        for future in [client.submit(asked("openai/m", Sampling(max_tokens=number))) for number in range(1, 6)]:
            future.result(20)
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize(
    ("asked_for", "named", "same"),
    [("m", "m", True), ("m", "m-2026-01-31", True), ("org/m", "m", True), ("m", "", True), ("m", "other", False)],
)
def test_an_answer_in_the_name_of_another_model(
    server: OtherLM, monkeypatch: pytest.MonkeyPatch, asked_for: str, named: str, same: bool
) -> None:
    answered = HttpLM._completion
    monkeypatch.setattr(HttpLM, "_completion", lambda self, body: answered(self, body) | {"model": named})
    for strict in (False, True):
        table = {"openai/*": Endpoint(f"{server.root}/v1", same_model=strict)}
        retry = RetryPolicy(attempts=2, base=0.001)
        with Client(None, make_provider_factory(table), retry=retry) as client:
            if same or not strict:
                assert client.call(asked(f"openai/{asked_for}")).completion.text
            else:
                with pytest.raises(MalformedResponseError, match="answered as 'other', another model"):
                    client.call(asked(f"openai/{asked_for}"))
                assert client.stats().retried == 1
