"""A simulated LM behind a real OpenAI-compatible HTTP server on the loopback interface, with faults on demand."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from types import TracebackType
from typing import Any, Self

from aiohttp import web

Body = dict[str, Any]
Answer = Callable[[Body], str]
Fault = Callable[[Body, int], str | None]
"""Given a request's body and how often the same body came before, names the fault to inject, if any."""

TRANSIENT_FAULTS = (
    "429",
    "429-date",
    "500",
    "502",
    "503",
    "529",
    "408",
    "reset",
    "half",
    "truncated",
    "html",
    "empty-choices",
    "null-choices",
)
"""Every fault that another try may mend, but the slow one (``hang``)."""

_ERRORS: dict[str, tuple[int, str, str]] = {
    "400": (400, "invalid_value", "'temperature' must be a number"),
    "401": (401, "invalid_api_key", "Incorrect API key provided: {key}"),
    "402": (402, "insufficient_balance", "Insufficient balance"),
    "403": (403, "forbidden", "Key {key} has no access to this model"),
    "404": (404, "model_not_found", "The model `{model}` does not exist"),
    "408": (408, "timeout", "Request timed out at the gateway"),
    "413": (413, "too_large", "Request entity too large"),
    "422": (422, "unprocessable", "Input should be a valid list"),
    "429": (429, "rate_limit_exceeded", "Rate limit reached"),
    "429-date": (429, "rate_limit_exceeded", "Rate limit reached"),
    "429-quota": (429, "insufficient_quota", "You exceeded your current quota, check your plan"),
    "500": (500, "server_error", "The server had an error"),
    "502": (502, "bad_gateway", "Bad gateway"),
    "503": (503, "unavailable", "The engine is overloaded"),
    "504": (504, "gateway_timeout", "Upstream timed out"),
    "529": (529, "overloaded_error", "Overloaded"),
    "context": (
        400,
        "context_length_exceeded",
        "This model's maximum context length is 10 tokens. However, you requested 99 tokens",
    ),
    "context-vllm": (
        400,
        "BadRequestError",
        "The decoder prompt (length 99) is longer than the maximum model length of 10",
    ),
    "system-role": (400, "BadRequestError", "System role not supported"),
    "alternate": (400, "BadRequestError", "Conversation roles must alternate user/assistant/user/assistant/..."),
    "filter": (400, "content_filter", "The response was filtered due to our content management policy"),
}


def default_answer(body: Body) -> str:
    """A text that depends on the prompt alone."""
    prompt = json.dumps(body["messages"], sort_keys=True)
    return "answer " + hashlib.sha256(prompt.encode()).hexdigest()[:12]


def seeded_faults(rate: float, kinds: Sequence[str] = TRANSIENT_FAULTS, seed: int = 0, in_a_row: int = 3) -> Fault:
    """Faults on about ``rate`` of the requests, a function of the body alone; at most ``in_a_row`` for one body."""

    def fault(body: Body, before: int) -> str | None:
        text = json.dumps([body["messages"], body.get("seed"), before, seed], sort_keys=True)
        number = int(hashlib.sha256(text.encode()).hexdigest(), 16)
        if before >= in_a_row or number % 10_000 >= rate * 10_000:
            return None
        return kinds[(number >> 32) % len(kinds)]

    return fault


@dataclass
class HttpLM:
    """The server; a context manager. ``requests`` holds the bodies seen, ``faults`` counts what was injected.

    The names of ``headers`` are in lower case.
    """

    answer: Answer = default_answer
    fault: Fault | None = None
    delay: float = 0.0
    hang: float = 30.0
    retry_after: str = "0.01"
    requests: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    port: int = 0
    _at_once: int = 0
    _seen: Counter[str] = field(default_factory=Counter)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="http-lm", daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        assert self._thread is not None
        self._thread.join(10)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main(ready))
        self._loop.close()

    async def _main(self, ready: threading.Event) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._chat)
        self.add_routes(app.router)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self._stop.wait()
        await runner.cleanup()

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """For servers that can do more."""

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        identity = json.dumps(body, sort_keys=True)
        before = self._seen[identity]
        self._seen[identity] += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if self.delay:
                await asyncio.sleep(self.delay)
            kind = self.fault(body, before) if self.fault else None
            if kind is None:
                return web.json_response(self._completion(body))
            self.faults[kind] += 1
            return await self._broken(kind, request, body)
        finally:
            self._at_once -= 1

    def _completion(self, body: Body) -> Body:
        # As vLLM does: each further choice has the next seed.
        texts = [self.answer({**body, "seed": body.get("seed", 0) + index}) for index in range(body.get("n", 1))]
        words = sum(len(message["content"].split()) for message in body["messages"])
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [
                {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                for index, text in enumerate(texts)
            ],
            "usage": {
                "prompt_tokens": words,
                "completion_tokens": (written := sum(len(text.split()) for text in texts)),
                "total_tokens": words + written,
            },
        }

    async def _broken(self, kind: str, request: web.Request, body: Body) -> web.StreamResponse:
        whole = self._completion(body)
        if kind in _ERRORS:
            status, code, message = _ERRORS[kind]
            key = request.headers.get("Authorization", "").removeprefix("Bearer ")
            text = message.format(key=key, model=body["model"])
            headers = {}
            if kind == "429":
                headers["Retry-After"] = self.retry_after
            elif kind == "429-date":
                headers["Retry-After"] = formatdate(time.time() + 2, usegmt=True)
            error = {"error": {"message": text, "type": code, "code": code, "param": None}}
            return web.json_response(error, status=status, headers=headers)
        match kind:
            case "hang":
                await asyncio.sleep(self.hang)
            case "reset":
                assert request.transport is not None
                request.transport.abort()
            case "half":
                response = web.StreamResponse(headers={"Content-Type": "application/json"})
                response.content_length = 10_000
                await response.prepare(request)
                await response.write(json.dumps(whole).encode()[:40])
                assert request.transport is not None
                request.transport.abort()
                return response
            case "truncated":
                text = json.dumps(whole)
                return web.Response(text=text[: len(text) // 2], content_type="application/json")
            case "html":
                return web.Response(text="<html>Welcome to the proxy</html>", content_type="text/html")
            case "not-object":
                return web.json_response(["surprise"])
            case "empty-choices":
                whole["choices"] = []
            case "null-choices":
                whole["choices"] = None
            case "null-content":
                whole["choices"][0]["message"]["content"] = None
            case "refusal":
                whole["choices"][0]["message"] |= {"content": None, "refusal": "I can't help with that."}
            case "null-message":
                whole["choices"][0]["message"] = None
            case "wrong-model":
                whole["model"] = "another-lm"
                whole["choices"][0]["message"]["content"] = "answer: neither"
            case "no-usage":
                del whole["usage"]
            case "cut":
                whole["choices"][0]["finish_reason"] = "length"
            case "cut-empty":
                whole["choices"][0]["finish_reason"] = "length"
                whole["choices"][0]["message"]["content"] = None
            case "filter-finish":
                whole["choices"][0]["finish_reason"] = "content_filter"
                whole["choices"][0]["message"]["content"] = ""
            case _:
                raise AssertionError(f"no fault is called {kind}")
        return web.json_response(whole)
